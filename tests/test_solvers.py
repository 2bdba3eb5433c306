"""Solvers against numpy, scikit-learn and arithmetic; numbered requirements are those of the COAR facts sheet."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, LinearRegression, Ridge

from ablationlens import solvers
from ablationlens.errors import InputError
from ablationlens.solvers import SOLVERS, Fit, check_draws, lasso, least_squares, minimum_draws, ridge

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)


def bernoulli(draws: int, components: int, *, kept: float = 0.8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((draws, components)) < kept


def problem(
    draws: int = 120, components: int = 15, targets: int = 4, *, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bernoulli masks, and outputs that are additive in them but for noise."""
    rng = np.random.default_rng(seed)
    masks = bernoulli(draws, components, seed=seed)
    outputs = 3 + masks @ rng.normal(size=(components, targets)) + noise * rng.normal(size=(draws, targets))
    return masks, outputs


def fixed_size(draws: int, components: int, kept: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((draws, components)).argsort(axis=1) < kept


def single_ablations(components: int) -> np.ndarray:
    return np.vstack([np.ones(components, dtype=bool), ~np.eye(components, dtype=bool)])


def minimum_norm(masks: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Weights [target, component] of least norm with a free bias, from a singular value decomposition."""
    centred = masks - masks.mean(axis=0, dtype=float)
    return np.linalg.lstsq(centred, outputs - outputs.mean(axis=0), rcond=1e-10)[0].T


def predict(fit: Fit, masks: np.ndarray) -> np.ndarray:
    return fit.bias + masks @ fit.weights.T


# --- least squares -------------------------------------------------------------------------------------------------


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


# --- what the draws leave open -------------------------------------------------------------------------------------


def test_coar_requirement_04_fixed_size_subsets_identify_differences() -> None:
    masks = fixed_size(300, 20, kept=17)
    true = np.random.default_rng(1).normal(size=(2, 20))
    fit = least_squares(masks, 1 + masks @ true.T)
    assert fit.level_open and fit.rank == 19 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights, true - true.mean(axis=1, keepdims=True), atol=1e-10)
    np.testing.assert_allclose(predict(fit, masks), 1 + masks @ true.T, atol=1e-10)
    assert fit.condition < 100  # of what is identified


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


@pytest.mark.parametrize("name", ["least_squares", "ridge"])
def test_aliased_components_share_their_effect_and_are_marked(name: str) -> None:
    masks, outputs = problem(draws=200, components=15)
    masks[:, 9] = masks[:, 4]  # always ablated together
    masks[:, 12] = ~masks[:, 2]  # never together
    fit = SOLVERS[name](masks, outputs)
    assert np.flatnonzero(fit.unidentified).tolist() == [2, 4, 9, 12]
    assert fit.rank == 13
    slack = 1e-12 if name == "least_squares" else 1e-5  # ridge tries penalties down to 1e-9, which rounding divides by
    np.testing.assert_allclose(fit.weights[:, 9], fit.weights[:, 4], atol=slack)
    np.testing.assert_allclose(fit.weights[:, 12], -fit.weights[:, 2], atol=slack)
    if name == "least_squares":
        np.testing.assert_allclose(fit.weights, minimum_norm(masks, outputs), atol=1e-10)


@few
@given(seed=SEEDS, repeats=st.integers(1, 3), partial=st.booleans())
def test_least_squares_is_the_minimum_norm_solution_of_any_design(seed: int, repeats: int, partial: bool) -> None:
    rng = np.random.default_rng(seed)
    masks = bernoulli(60, 8, kept=0.6, seed=seed)
    masks = np.concatenate([masks] * repeats, axis=1)[:, rng.permutation(8 * repeats)]
    masks = masks * rng.choice([0.25, 1.0], size=masks.shape[1]) if partial else masks
    outputs = rng.normal(size=(60, 3))
    fit = least_squares(masks, outputs)
    np.testing.assert_allclose(fit.weights, minimum_norm(masks, outputs), atol=1e-9)
    assert fit.rank == 8
    assert fit.unidentified.all() if repeats > 1 else not fit.unidentified.any()


def test_a_subset_of_fixed_size_in_each_of_two_halves_leaves_two_levels_open() -> None:
    masks = np.hstack([fixed_size(200, 10, kept=8, seed=0), fixed_size(200, 6, kept=5, seed=1)])
    outputs = np.random.default_rng(0).normal(size=(200, 2))
    fit = least_squares(masks, outputs)
    assert fit.level_open and fit.rank == 14 and fit.unidentified.all()
    np.testing.assert_allclose(fit.weights, minimum_norm(masks, outputs), atol=1e-10)
    for half in (fit.weights[:, :10], fit.weights[:, 10:]):
        np.testing.assert_allclose(half.sum(axis=1), 0, atol=1e-10)


def test_partial_gates_of_a_fixed_sum_leave_the_level_open() -> None:
    gates = np.random.default_rng(0).random((100, 12))
    gates *= 5 / gates.sum(axis=1, keepdims=True)  # equal but for rounding
    outputs = np.random.default_rng(1).normal(size=(100, 2))
    fit = least_squares(gates, outputs)
    assert fit.level_open and fit.rank == 11 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights, minimum_norm(gates, outputs), atol=1e-9)


def test_a_gate_that_hardly_moves_is_identified_beside_aliased_ones() -> None:
    masks, outputs = problem(draws=200, components=15)
    gates = masks.astype(float)
    gates[:, 9] = gates[:, 4]
    gates[:, 0] *= 1e-7
    fit = least_squares(gates, outputs)
    assert np.flatnonzero(fit.unidentified).tolist() == [4, 9] and fit.rank == 14
    expected = least_squares(gates * np.where(np.arange(15) == 0, 1e7, 1), outputs).weights[:, 0] * 1e7
    np.testing.assert_allclose(fit.weights[:, 0], expected, rtol=1e-8)


def test_masks_that_never_change_give_the_mean() -> None:
    masks, outputs = np.ones((30, 4), dtype=bool), np.random.default_rng(0).normal(size=(30, 2))
    for name, solver in SOLVERS.items():
        fit = solver(masks, outputs)
        assert fit.rank == 0 and fit.unidentified.all() and not fit.level_open and not fit.weights.any(), name
        np.testing.assert_allclose(fit.bias, outputs.mean(axis=0), atol=1e-14)


def test_a_component_ablated_once_in_many_draws_is_identified() -> None:
    masks = bernoulli(5000, 10)
    masks[:, 4] = True
    masks[17, 4] = False
    outputs = masks @ np.arange(10.0)[:, None]
    fit = least_squares(masks, outputs)
    assert fit.rank == 10 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights[0], np.arange(10.0), atol=1e-10)


def test_condition_is_that_of_the_gram_within_the_slack_of_the_one_norm() -> None:
    masks, outputs = problem(draws=40, components=15)
    singular = np.linalg.svd(masks - masks.mean(axis=0), compute_uv=False)
    true = (singular[0] / singular[-1]) ** 2
    assert true / 3 < least_squares(masks, outputs).condition < 15 * true
    fit = ridge(masks, outputs, penalties=[1.0])
    true = (singular[0] ** 2 + fit.penalty[0]) / (singular[-1] ** 2 + fit.penalty[0])
    assert true / 3 < fit.condition < 15 * true


def test_norm_reads_the_lower_triangle_only(monkeypatch: pytest.MonkeyPatch) -> None:
    full = np.random.default_rng(0).normal(size=(200, 200))
    full += full.T
    monkeypatch.setattr(solvers, "_BLOCK_BYTES", 1)
    for matrix in (np.asfortranarray(full), np.asfortranarray(np.tril(full))):
        assert solvers._norm(matrix) == pytest.approx(np.linalg.norm(full, 1))


# --- ridge ---------------------------------------------------------------------------------------------------------


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


def test_a_single_penalty_is_used_without_validation() -> None:
    masks, outputs = problem()
    for solver in (ridge, lasso):
        fit = solver(masks, outputs, penalties=[0.1])
        assert fit.validation_error.shape == (1, 4) and np.isnan(fit.validation_error).all()
        # The last draws count as much as the others.
        outputs[-1] += 100
        assert not np.allclose(solver(masks, outputs, penalties=[0.1]).weights, fit.weights)


# --- lasso ---------------------------------------------------------------------------------------------------------


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


def test_an_output_that_never_changes_has_no_weights() -> None:
    masks, outputs = problem()
    outputs[:, 1] = 0.1
    for name, solver in SOLVERS.items():
        fit = solver(masks, outputs)
        np.testing.assert_allclose(fit.weights[1], 0, atol=1e-15, err_msg=name)
        assert fit.bias[1] == pytest.approx(0.1, abs=1e-14) and np.isfinite(fit.validation_error).all()


# --- symmetries, for every solver ----------------------------------------------------------------------------------

every = pytest.mark.parametrize("name", SOLVERS)


@every
@few
@given(seed=SEEDS, shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_shifted_outputs_move_the_bias_and_scaled_ones_scale(name: str, seed: int, shift: float, scale: float) -> None:
    masks, outputs = problem(draws=60, components=6, targets=2, seed=seed)
    fit, moved = SOLVERS[name](masks, outputs), SOLVERS[name](masks, scale * outputs + shift)
    if name == "lasso":  # which penalty is best may hang on its tolerance
        fit, moved = (lasso(masks, y, penalties=[0.1]) for y in (outputs, scale * outputs + shift))
    slack = scale * 1e-3 if name == "lasso" else 1e-8
    np.testing.assert_allclose(moved.weights, scale * fit.weights, atol=slack)
    np.testing.assert_allclose(moved.bias, scale * fit.bias + shift, atol=slack)


@every
@few
@given(seed=SEEDS, draws=st.sampled_from([60, 10]))
def test_permuted_components_permute_the_weights(name: str, seed: int, draws: int) -> None:
    masks, outputs = problem(draws=60 if name == "lasso" else draws, components=9, targets=2, seed=seed)
    order = np.random.default_rng(seed).permutation(9)
    options = {"penalties": [0.1]} if name == "lasso" else {}
    fit, permuted = (SOLVERS[name](gates, outputs, **options) for gates in (masks, masks[:, order]))
    # With hardly more draws than components, exact only as far as the design is conditioned.
    slack = 1e-3 if name == "lasso" else 1e-8 * max(1.0, float(np.abs(fit.weights).max()))
    np.testing.assert_allclose(permuted.weights, fit.weights[:, order], atol=slack)
    np.testing.assert_array_equal(permuted.unidentified, fit.unidentified[order])
    assert permuted.rank == fit.rank


@every
@pytest.mark.parametrize("draws", [100, 16])
def test_targets_one_by_one_equal_targets_together(name: str, draws: int) -> None:
    masks, outputs = problem(draws=draws)
    penalties = {} if name == "least_squares" else {"penalties": [0.2]}  # ridge chooses one for all of them
    together = SOLVERS[name](masks, outputs, **penalties)
    for target in range(4):
        alone = SOLVERS[name](masks, outputs[:, [target]], **penalties)
        np.testing.assert_allclose(alone.weights[0], together.weights[target], rtol=1e-9, atol=1e-9)
        assert alone.bias[0] == pytest.approx(together.bias[target], abs=1e-9)


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
    monkeypatch.setattr(solvers, "_BLOCK_BYTES", 1)  # 64 draws at a time
    blocked = SOLVERS[name](np.asfortranarray(masks), outputs.astype(np.float64))
    np.testing.assert_allclose(blocked.weights, whole.weights, atol=1e-7)
    np.testing.assert_allclose(blocked.bias, whole.bias, atol=1e-6)
    np.testing.assert_array_equal(masks, before)


def test_masks_may_be_a_memory_map(tmp_path: object) -> None:
    masks, outputs = problem()
    np.save(f"{tmp_path}/masks.npy", masks)
    fit = least_squares(np.load(f"{tmp_path}/masks.npy", mmap_mode="r"), outputs)
    np.testing.assert_array_equal(fit.weights, least_squares(masks, outputs).weights)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_minimum_draws_are_those_that_the_solvers_accept() -> None:
    for name in SOLVERS:
        needed = minimum_draws(name, 12)
        masks, outputs = problem(draws=needed, components=12)
        assert SOLVERS[name](masks, outputs).weights.shape == (4, 12)
        with pytest.raises(InputError, match=f"at least {needed} draws for 12 components, got {needed - 1}"):
            SOLVERS[name](masks[1:], outputs[1:])
    assert minimum_draws("least_squares", 4608) == 4609 and minimum_draws("ridge", 4608) == 10
    with pytest.raises(InputError, match="type draws=4609 or more or solver='ridge'"):
        check_draws("least_squares", 4608, 4608)
    with pytest.raises(InputError, match="ridge, least_squares, lasso, got 'ols'"):
        minimum_draws("ols", 3)


@every
def test_shapes_and_types_that_do_not_fit_are_refused(name: str) -> None:
    masks, outputs = problem()
    for bad_masks, bad_outputs, message in [
        (masks[:-1], outputs, r"outputs \[draw, target\] with 119 draws, got shape \(120, 4\)"),
        (masks, outputs[:, 0], r"got shape \(120,\); for one target type outputs\[:, None\]"),
        (masks, outputs[:, :0], r"outputs \[draw, target\]"),
        (masks[0], outputs, r"masks \[draw, component\].*got shape \(15,\)"),
        (masks[:, :0], outputs, r"masks \[draw, component\].*got shape \(120, 0\)"),
        (masks.astype(complex), outputs, "complex128"),
        (masks.astype(str), outputs, "masks"),
        (masks, outputs.astype(complex), "complex128"),
    ]:
        with pytest.raises(InputError, match=message):
            SOLVERS[name](bad_masks, bad_outputs)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    masks, outputs = problem()
    bad = outputs.copy()
    bad[7, 2] = value
    with pytest.raises(InputError, match=r"1 of 120 draws \(the first is draw 7\)"):
        SOLVERS[name](masks, bad)
    gates = masks.astype(np.float32)
    gates[3, 1] = value
    with pytest.raises(InputError, match="finite masks"):
        SOLVERS[name](gates, outputs)


@pytest.mark.parametrize("solver", [ridge, lasso])
def test_options_out_of_range_are_refused(solver: type) -> None:
    masks, outputs = problem()
    for penalties in ([], [0.0], [-1.0, 1.0], [np.nan]):
        with pytest.raises(InputError, match="positive penalties"):
            solver(masks, outputs, penalties=penalties)
    for validation in (0.0, 1.0, -0.1, 0.999, np.nan):
        with pytest.raises(InputError, match="validation is the share of the 120 draws"):
            solver(masks, outputs, validation=validation)


def test_lasso_options_out_of_range_are_refused() -> None:
    masks, outputs = problem()
    for options in ({"tolerance": 0.0}, {"max_iterations": 0}):
        with pytest.raises(InputError, match="tolerance > 0 and max_iterations >= 1"):
            lasso(masks, outputs, **options)


def test_a_penalty_too_small_for_a_singular_design_is_an_error_that_says_so() -> None:
    masks, outputs = problem(draws=15, components=15)
    masks[:, 1] = masks[:, 0]
    with pytest.raises(InputError, match="got one too small"):
        ridge(np.repeat(masks, 2, axis=0), np.repeat(outputs, 2, axis=0), penalties=[1e-300])


def test_scikit_learn_is_imported_by_lasso_only() -> None:
    code = "import sys, ablationlens.solvers; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
