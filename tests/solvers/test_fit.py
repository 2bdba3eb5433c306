"""What a fit says of itself: its penalty, rank and condition are those of other people's solvers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression, Ridge

from ablationlens.solvers import SOLVERS, lasso, least_squares, ridge
from ablationlens.solvers.fit import by_target
from tests.solvers.problems import every, fixed_size, problem


def test_weights_by_target_are_a_new_array_in_order() -> None:
    weights = np.arange(6.0).reshape(3, 2)
    turned = by_target(weights)
    assert turned.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert turned.flags["C_CONTIGUOUS"]
    assert not np.shares_memory(turned, weights)


@every
def test_the_penalty_is_scikit_learns_alpha(name: str) -> None:
    masks, outputs = problem(draws=90, components=12, targets=3)
    fit = SOLVERS[name](masks, outputs)
    for target in range(3):
        alpha = float(fit.penalty[target])
        oracle = {
            "least_squares": LinearRegression(),
            "ridge": Ridge(alpha, solver="svd"),
            "lasso": Lasso(alpha, max_iter=1_000_000, tol=1e-12),
        }[name].fit(masks.astype(np.float64), outputs[:, target])
        np.testing.assert_allclose(fit.weights[target], oracle.coef_, atol=1e-7)
        np.testing.assert_allclose(fit.bias[target], oracle.intercept_, atol=1e-7)
    assert fit.converged
    assert (fit.penalty == 0).all() == (name == "least_squares")
    assert (len(fit.grid) == 0) == (name == "least_squares")


@every
@pytest.mark.parametrize("twice", [False, True])
def test_the_rank_is_that_of_the_centred_masks(name: str, twice: bool) -> None:
    masks, outputs = problem(draws=90, components=12)
    if twice:
        masks[:, 5] = masks[:, 2]
    fit = SOLVERS[name](masks, outputs)
    assert fit.rank == np.linalg.matrix_rank(masks - masks.mean(axis=0)) == 12 - twice
    assert np.flatnonzero(fit.unidentified).tolist() == ([2, 5] if twice else [])
    assert not fit.level_open
    assert SOLVERS[name](fixed_size(90, 12, 7), outputs).level_open


def test_the_condition_is_that_of_the_factorised_gram() -> None:
    masks, outputs = problem(draws=200, components=15)
    centred = masks - masks.mean(axis=0)
    gram = centred.T @ centred
    for fit, factorised in (
        (least_squares(masks, outputs), gram),
        (ridge(masks, outputs, penalties=[0.3]), None),
    ):
        matrix = gram + fit.penalty[0] * np.eye(15) if factorised is None else factorised
        exact = np.linalg.cond(matrix, 1)
        assert exact / 3 <= fit.condition <= exact * 1.0001  # an estimate from below


def test_one_penalty_needs_no_validation() -> None:
    masks, outputs = problem()
    for solver in (ridge, lasso):
        one, several = solver(masks, outputs, penalties=[0.1]), solver(masks, outputs, penalties=[0.1, 0.2])
        assert np.isnan(one.validation_error).all()
        assert np.isfinite(several.validation_error).all()
        assert several.validation_error.shape == (2, outputs.shape[1])
        assert one.grid.tolist() == [0.1]
