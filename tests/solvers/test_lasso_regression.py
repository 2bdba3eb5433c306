"""Lasso against scikit-learn and least squares."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from ablationlens.errors import InputError
from ablationlens.solvers import lasso, least_squares
from tests.solvers.problems import bernoulli, problem


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("draws", [200, 30])
def test_coar_requirement_14_lasso_equals_scikit_learn(draws: int, partial: bool) -> None:
    masks, outputs = problem(draws=draws, components=40, noise=1.0)
    outputs *= np.array([1, 10, 0.1, 1])
    masks = np.where(masks, 0.9, np.random.default_rng(0).random(masks.shape)) if partial else masks
    for penalties in (None, [0.3], [0.5, 0.02]):
        fit = lasso(masks, outputs, penalties=penalties)
        assert fit.converged
        for target in range(4):
            model = Lasso(alpha=fit.penalty[target], tol=1e-10, max_iter=100_000)
            model.fit(masks.astype(float), outputs[:, target])
            np.testing.assert_allclose(fit.weights[target], model.coef_, atol=1e-4 * outputs[:, target].std())
            assert fit.bias[target] == pytest.approx(model.intercept_, abs=1e-3 * outputs[:, target].std())


def test_coar_requirement_14_at_the_largest_penalty_only_the_bias_is_left() -> None:
    masks, outputs = problem(draws=101)
    fit = lasso(masks, outputs, penalties=[1.0])
    assert not fit.weights.any()
    np.testing.assert_allclose(fit.bias, outputs.mean(axis=0), atol=1e-14)
    centred = masks - masks.mean(axis=0)
    np.testing.assert_allclose(fit.penalty, np.abs(centred.T @ (outputs - outputs.mean(axis=0))).max(axis=0) / 101)
    assert (lasso(masks, outputs, penalties=[0.99]).weights != 0).any(axis=1).all()


def test_coar_requirement_14_lasso_without_penalty_tends_to_least_squares() -> None:
    masks, outputs = problem()
    fit = lasso(masks, outputs, penalties=[1e-7], tolerance=1e-12)
    np.testing.assert_allclose(fit.weights, least_squares(masks, outputs).weights, atol=1e-5)


def test_lasso_chooses_a_penalty_for_each_target() -> None:
    rng = np.random.default_rng(0)
    masks = bernoulli(2000, 30)
    outputs = np.column_stack([masks @ rng.normal(size=30), rng.normal(size=2000)])  # all signal, no signal
    fit = lasso(masks, outputs)
    chosen = np.nanargmin(fit.validation_error, axis=0)
    assert fit.grid[chosen[0]] < 0.01 < 0.2 < fit.grid[chosen[1]]
    largest = lasso(masks, outputs, penalties=[1.0]).penalty
    np.testing.assert_allclose(fit.penalty, fit.grid[chosen] * largest)


def test_lasso_says_that_it_did_not_converge() -> None:
    masks, outputs = problem(draws=45, components=40)
    assert not lasso(masks, outputs, penalties=[1e-3], max_iterations=2).converged
    assert lasso(masks, outputs, penalties=[1e-3]).converged


def test_lasso_options_out_of_range_are_refused() -> None:
    masks, outputs = problem()
    for options in ({"tolerance": 0.0}, {"max_iterations": 0}):
        with pytest.raises(InputError, match="tolerance > 0 and max_iterations >= 1"):
            lasso(masks, outputs, **options)


def test_scikit_learn_is_imported_by_lasso_only() -> None:
    code = "import sys, ablationlens.solvers; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
