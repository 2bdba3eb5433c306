"""Masks are read in blocks, whose size changes nothing."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ablationlens.solvers import SOLVERS, blocks, least_squares, ridge
from tests.solvers.problems import every, problem


@every
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("draws", [300, 70])
def test_the_size_of_blocks_and_the_layout_of_masks_change_nothing(
    name: str, partial: bool, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, outputs = problem(draws=draws, components=69 if name == "least_squares" else 100, noise=0.1)
    masks = np.where(masks, 0.9, 0.3 * np.random.default_rng(0).random(masks.shape)) if partial else masks
    before = masks.copy()
    whole = SOLVERS[name](masks, outputs)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)  # 64 draws at a time
    blocked = SOLVERS[name](np.asfortranarray(masks), outputs.astype(np.float64))
    np.testing.assert_allclose(blocked.weights, whole.weights, atol=1e-7)
    np.testing.assert_allclose(blocked.bias, whole.bias, atol=1e-6)
    np.testing.assert_array_equal(masks, before)


def test_masks_may_be_a_memory_map(tmp_path: object) -> None:
    masks, outputs = problem()
    np.save(f"{tmp_path}/masks.npy", masks)
    fit = least_squares(np.load(f"{tmp_path}/masks.npy", mmap_mode="r"), outputs)
    np.testing.assert_array_equal(fit.weights, least_squares(masks, outputs).weights)


@pytest.mark.parametrize("solver", [least_squares, ridge])
def test_hard_masks_are_never_copied_whole(solver: type, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    masks, outputs = rng.random((40_000, 100)) < 0.9, rng.normal(size=(40_000, 1))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2**18)
    for layout in (masks, np.asfortranarray(masks), masks.view(np.uint8)):
        tracemalloc.start()
        try:
            solver(layout, outputs)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < masks.nbytes / 2  # float32 would take eight times that
