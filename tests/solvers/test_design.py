"""What one look at the masks tells: components that never change, and an open level."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.solvers import SOLVERS, least_squares
from tests.solvers.problems import minimum_norm, problem


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("draws", [100, 16])
def test_coar_requirement_05_constant_components_are_marked_and_zero(name: str, draws: int) -> None:
    masks, outputs = problem(draws=draws, components=15)
    masks[:, 3], masks[:, 7] = True, False
    fit = SOLVERS[name](masks, outputs)
    assert np.flatnonzero(fit.unidentified).tolist() == [3, 7]
    assert (fit.weights[:, [3, 7]] == 0).all() and np.isfinite(fit.weights).all()
    assert fit.rank == 13 and not fit.level_open
    partial = np.where(masks, 0.7, 0.1)  # constant at a value that is not exact in binary
    fit = SOLVERS[name](partial, outputs)
    assert np.flatnonzero(fit.unidentified).tolist() == [3, 7] and (fit.weights[:, [3, 7]] == 0).all()


def test_masks_that_never_change_give_the_mean() -> None:
    masks, outputs = np.ones((30, 4), dtype=bool), np.random.default_rng(0).normal(size=(30, 2))
    for name, solver in SOLVERS.items():
        fit = solver(masks, outputs)
        assert fit.rank == 0 and fit.unidentified.all() and not fit.level_open and not fit.weights.any(), name
        np.testing.assert_allclose(fit.bias, outputs.mean(axis=0), atol=1e-14)


def test_partial_gates_of_a_fixed_sum_leave_the_level_open() -> None:
    gates = np.random.default_rng(0).random((100, 12))
    gates *= 5 / gates.sum(axis=1, keepdims=True)  # equal but for rounding
    outputs = np.random.default_rng(1).normal(size=(100, 2))
    fit = least_squares(gates, outputs)
    assert fit.level_open and fit.rank == 11 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights, minimum_norm(gates, outputs), atol=1e-9)
