"""Least squares against scikit-learn and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from sklearn.linear_model import LinearRegression

from ablationlens.solvers import least_squares, ridge
from tests.solvers.problems import SEEDS, bernoulli, few, predict, problem, single_ablations


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32, np.float64])
def test_least_squares_equals_scikit_learn_whatever_the_type_of_hard_masks(dtype: type) -> None:
    masks, outputs = problem()
    fit = least_squares(masks.astype(dtype), outputs)
    expected = LinearRegression().fit(masks.astype(float), outputs)
    np.testing.assert_allclose(fit.weights, expected.coef_, atol=1e-12)
    np.testing.assert_allclose(fit.bias, expected.intercept_, atol=1e-12)
    assert fit.rank == 15 and not fit.level_open and not fit.unidentified.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_least_squares_equals_scikit_learn_for_partial_gates_far_from_zero(dtype: type) -> None:
    # Gates near 1 that hardly vary: uncentred products would lose eight digits.
    masks = (1 - 1e-4 * np.random.default_rng(0).random((80, 12))).astype(dtype)
    outputs = np.random.default_rng(1).normal(size=(80, 3))
    expected = LinearRegression().fit(masks.astype(float), outputs)
    np.testing.assert_allclose(least_squares(masks, outputs).weights, expected.coef_, rtol=1e-8)


@pytest.mark.parametrize("kept", [0.5, 0.95])
def test_coar_requirement_01_exact_on_additive_outputs(kept: float) -> None:
    rng = np.random.default_rng(2)
    weights, bias = rng.normal(size=(5, 60)), rng.normal(size=5)
    for masks in (bernoulli(400, 60, kept=kept), single_ablations(60)):
        fit = least_squares(masks, bias + masks @ weights.T)
        np.testing.assert_allclose(fit.weights, weights, atol=1e-10)
        np.testing.assert_allclose(fit.bias, bias, atol=1e-10)


@few
@given(seed=SEEDS)
def test_coar_requirement_01_exact_with_components_plus_one_random_draws(seed: int) -> None:
    # Square and random is ill-conditioned: without correction by residuals one seed in twenty is further off.
    rng = np.random.default_rng(seed)
    masks, weights = bernoulli(151, 150, kept=0.5, seed=seed), rng.normal(size=(2, 150))
    singular = np.linalg.svd(masks - masks.mean(axis=0), compute_uv=False)
    if singular[-1] < 1e-4 * singular[0]:
        return
    np.testing.assert_allclose(least_squares(masks, masks @ weights.T).weights, weights, atol=1e-10)


def test_residuals_give_back_what_the_normal_equations_lose() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((200, 20))
    masks[:, 1] = masks[:, 0] + 1e-5 * rng.random(200)
    weights = rng.normal(size=(1, 20))
    fit = least_squares(masks, masks @ weights.T)
    assert fit.condition > 1e10
    np.testing.assert_allclose(fit.weights, weights, atol=1e-9)  # 1e-6 off without


def test_coar_requirement_02_all_kept_and_single_ablations_give_leave_one_out() -> None:
    outputs = np.random.default_rng(0).normal(size=(301, 3))  # any function, additive or not
    fit = least_squares(single_ablations(300), outputs)
    np.testing.assert_allclose(fit.weights, (outputs[0] - outputs[1:]).T, atol=1e-10)
    np.testing.assert_allclose(fit.bias, outputs[0] - fit.weights.sum(axis=1), atol=1e-10)


@pytest.mark.parametrize("solver", [least_squares, ridge])
def test_coar_requirement_03_weights_are_in_output_units(solver: type) -> None:
    masks, outputs = problem(draws=3000, noise=1.0)
    residual = outputs - predict(solver(masks, outputs), masks)
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-10)
    for truth, fitted in zip(outputs.T, (outputs - residual).T, strict=True):
        assert np.polyfit(fitted, truth, 1)[0] == pytest.approx(1, abs=2e-2 if solver is ridge else 1e-10)


def test_outputs_averaged_over_all_masks_give_differences_of_conditional_means() -> None:
    masks = (np.arange(64)[:, None] >> np.arange(6)) & 1
    outputs = np.random.default_rng(0).normal(size=(64, 3))
    expected = [outputs[masks[:, j] == 1].mean(axis=0) - outputs[masks[:, j] == 0].mean(axis=0) for j in range(6)]
    np.testing.assert_allclose(least_squares(masks, outputs).weights.T, expected, atol=1e-12)


def test_a_component_ablated_once_in_many_draws_is_identified() -> None:
    masks = bernoulli(5000, 10)
    masks[:, 4] = True
    masks[17, 4] = False
    outputs = masks @ np.arange(10.0)[:, None]
    fit = least_squares(masks, outputs)
    assert fit.rank == 10 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights[0], np.arange(10.0), atol=1e-10)
