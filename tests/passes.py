"""Come between a sweep and its forward passes: count them, or let them fail."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.base import Run


def before_each_pass(adapter: al.Adapter, monkeypatch: pytest.MonkeyPatch, call: Callable[[al.Batch], object]) -> None:
    """Call `call(batch)` before every forward pass of `adapter`; what it raises, the pass raises."""
    plain_session = adapter.session

    @contextmanager
    def session(watch: object = None) -> Generator[Run]:
        with plain_session(watch) as plain:  # pyright: ignore

            def run(batch: al.Batch, edits: object = ()) -> Tensor:
                call(batch)
                return plain(batch, edits)

            yield run

    monkeypatch.setattr(adapter, "session", session)
