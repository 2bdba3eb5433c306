"""Ridge against scikit-learn, with more and with fewer draws than components."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ablationlens.errors import InputError
from ablationlens.solvers import SOLVERS, least_squares, ridge
from tests.solvers.problems import bernoulli, fixed_size, problem


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("draws", [200, 41, 40, 12])
def test_ridge_equals_scikit_learn_with_more_and_with_fewer_draws_than_components(draws: int, partial: bool) -> None:
    masks, outputs = problem(draws=draws, components=40)
    masks = np.where(masks, 0.9, np.random.default_rng(0).random(masks.shape)) if partial else masks
    fit = ridge(masks, outputs)
    expected = Ridge(alpha=fit.penalty[0]).fit(masks.astype(float), outputs)
    np.testing.assert_allclose(fit.weights, expected.coef_, atol=1e-8)
    np.testing.assert_allclose(fit.bias, expected.intercept_, atol=1e-8)
    assert fit.rank == min(40, draws - 1) and len(set(fit.penalty)) == 1


@pytest.mark.parametrize("draws", [200, 30])
def test_ridge_chooses_the_penalty_that_is_best_on_the_last_draws(draws: int) -> None:
    masks, outputs = problem(draws=draws, components=40, noise=2.0)
    held = draws // 5
    grid = [0.01, 0.1, 1.0, 10.0]
    fit = ridge(masks, outputs, penalties=grid, validation=0.2)

    def scale(rows: np.ndarray) -> float:
        return float(rows.var(axis=0).sum() * len(rows) / rows.shape[1])

    train, rest = slice(0, draws - held), slice(draws - held, draws)
    expected = [
        (
            (
                Ridge(alpha=p * scale(masks[train])).fit(masks[train], outputs[train]).predict(masks[rest])
                - outputs[rest]
            )
            ** 2
        ).mean(axis=0)
        / outputs.var(axis=0)
        for p in grid
    ]
    np.testing.assert_allclose(fit.validation_error, expected, rtol=1e-9)
    best = grid[int(np.mean(expected, axis=1).argmin())]
    np.testing.assert_allclose(fit.penalty, best * scale(masks))
    np.testing.assert_array_equal(fit.grid, grid)


def test_ridge_tends_to_least_squares_without_noise() -> None:
    masks, outputs = problem(draws=300, noise=0)
    np.testing.assert_allclose(ridge(masks, outputs).weights, least_squares(masks, outputs).weights, atol=1e-7)


def test_ridge_beats_least_squares_with_noise_and_few_draws() -> None:
    rng = np.random.default_rng(0)
    masks, weights = bernoulli(250, 200), rng.normal(size=(5, 200))
    signal = (masks - masks.mean(axis=0)) @ weights.T
    outputs = signal + signal.std() * rng.normal(size=signal.shape)
    error = {name: np.square(SOLVERS[name](masks, outputs).weights - weights).mean() for name in SOLVERS}
    assert error["ridge"] < 0.2 * error["least_squares"]
    assert error["ridge"] < 0.8 * np.square(weights).mean()


@pytest.mark.parametrize("draws", [300, 15])
def test_coar_requirement_04_ridge_of_fixed_size_subsets(draws: int) -> None:
    masks = fixed_size(draws, 20, kept=17)
    outputs = np.random.default_rng(0).normal(size=(draws, 2))
    fit = ridge(masks, outputs)
    expected = Ridge(alpha=fit.penalty[0]).fit(masks.astype(float), outputs)
    np.testing.assert_allclose(fit.weights, expected.coef_, atol=1e-10)
    np.testing.assert_allclose(fit.weights.sum(axis=1), 0, atol=1e-13)
    assert fit.level_open and fit.rank == min(19, draws - 1)


@pytest.mark.parametrize("constant", [False, True])
def test_ridge_needs_no_large_penalty_for_what_is_known_to_be_open(constant: bool) -> None:
    masks = fixed_size(300, 20, kept=17)
    masks = np.hstack([masks, np.ones((300, 2), dtype=bool)]) if constant else masks
    outputs = np.random.default_rng(0).normal(size=(300, 2))
    fit = ridge(masks, outputs, penalties=[1e-15, 1e-14])
    np.testing.assert_allclose(fit.weights, least_squares(masks, outputs).weights, atol=1e-10)
    np.testing.assert_allclose(fit.validation_error[0], fit.validation_error[1], rtol=1e-10)


def test_a_penalty_too_small_for_a_singular_design_is_an_error_that_says_so() -> None:
    masks, outputs = problem(draws=15, components=15)
    masks[:, 1] = masks[:, 0]
    with pytest.raises(InputError, match="got one too small"):
        ridge(np.repeat(masks, 2, axis=0), np.repeat(outputs, 2, axis=0), penalties=[1e-300])
