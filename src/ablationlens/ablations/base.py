"""Ablation: what stands in for an ablated part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ablationlens.adapters.plan import Plan, Replacements
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.sites import Tap

ROWS = 64
"""Examples of one forward pass when activations are read for a replacement."""


class Ablation(ABC):
    """What an ablated part holds instead: the `replacement` of the one equation, bias included."""

    @abstractmethod
    def bind(self, plan: Plan, data: Batch) -> Replacements:
        """Replacements for the examples of `data`, at the taps of the plan.

        Called once for each data set; a MaskedModel keeps what it returns.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that decides the replacements, JSON-able; recorded, and compared when a run resumes."""

    def __repr__(self) -> str:
        options = {key: value for key, value in self.describe().items() if key != "ablation"}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in options.items())})"


def check_batch(value: Any, what: str) -> None:
    """Refuse examples that are no Batch.

    Raises:
        InputError: with the line that makes one.
    """
    if not isinstance(value, Batch):
        raise InputError(f"{what} is a Batch, al.batch(inputs, tokenizer=...); got {type(value).__name__}")


def chunks(data: Batch, rows: int = ROWS) -> Iterator[Batch]:
    """The examples of `data` in order, at most `rows` at a time."""
    for start in range(0, len(data), rows):
        yield data.take(torch.arange(start, min(start + rows, len(data))))


def read_examples(plan: Plan, data: Batch) -> dict[Tap, Tensor]:
    """Activations (or codes) of the unmodified model at the plan's taps, for every example."""
    parts = [plan.read(chunk.to(plan.adapter.device)) for chunk in chunks(data)]
    return {tap: torch.cat([part[tap] for part in parts]) for tap in plan.taps}


def same_shape(ours: Batch, theirs: Batch, what: str) -> None:
    """Refuse another batch whose positions do not line up with ours.

    Raises:
        InputError: if lengths or padding differ.
    """
    if ours.length != theirs.length:
        raise InputError(
            f"{what} needs inputs as long as the data: {ours.length} positions expected, got {theirs.length}; "
            "make them with data.like(texts)"
        )


def same_padding(ours: Tensor | None, theirs: Tensor | None, what: str) -> None:
    """Refuse activations that would move a padded position to a real one.

    Raises:
        InputError: if one is padded where the other is not.
    """
    if ours is None or theirs is None:
        return
    if not torch.equal(ours.cpu(), theirs.cpu()):
        raise InputError(f"{what} needs the same padding as the data; use texts of equal length, data.like(texts)")


def stream(name: str, tap: Tap) -> str:
    """Stream of random numbers for a site: a replacement depends on (seed, example, site) alone."""
    return f"{name}:{tap}"
