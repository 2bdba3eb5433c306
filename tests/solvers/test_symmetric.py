"""Symmetric matrices of which the lower triangle is kept."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.solvers import blocks
from ablationlens.solvers.symmetric import one_norm


def test_norm_reads_the_lower_triangle_only(monkeypatch: pytest.MonkeyPatch) -> None:
    full = np.random.default_rng(0).normal(size=(200, 200))
    full += full.T
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    for matrix in (np.asfortranarray(full), np.asfortranarray(np.tril(full))):
        assert one_norm(matrix) == pytest.approx(np.linalg.norm(full, 1))
