"""One pass a block, so that a short run has several blocks."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def one_pass_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("ablationlens.counterfactuals.record"), "PASSES_PER_BLOCK", 1)
