"""What the draws leave open: rank, condition and unidentified components."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.solvers import SOLVERS, least_squares, ridge
from tests.solvers.problems import SEEDS, bernoulli, few, fixed_size, minimum_norm, predict, problem


def test_coar_requirement_04_fixed_size_subsets_identify_differences() -> None:
    masks = fixed_size(300, 20, kept=17)
    true = np.random.default_rng(1).normal(size=(2, 20))
    fit = least_squares(masks, 1 + masks @ true.T)
    assert fit.level_open and fit.rank == 19 and not fit.unidentified.any()
    np.testing.assert_allclose(fit.weights, true - true.mean(axis=1, keepdims=True), atol=1e-10)
    np.testing.assert_allclose(predict(fit, masks), 1 + masks @ true.T, atol=1e-10)
    assert fit.condition < 100  # of what is identified


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


def test_a_gate_that_hardly_moves_is_identified_beside_aliased_ones() -> None:
    masks, outputs = problem(draws=200, components=15)
    gates = masks.astype(float)
    gates[:, 9] = gates[:, 4]
    gates[:, 0] *= 1e-7
    fit = least_squares(gates, outputs)
    assert np.flatnonzero(fit.unidentified).tolist() == [4, 9] and fit.rank == 14
    expected = least_squares(gates * np.where(np.arange(15) == 0, 1e7, 1), outputs).weights[:, 0] * 1e7
    np.testing.assert_allclose(fit.weights[:, 0], expected, rtol=1e-8)


def test_condition_is_that_of_the_gram_within_the_slack_of_the_one_norm() -> None:
    masks, outputs = problem(draws=40, components=15)
    singular = np.linalg.svd(masks - masks.mean(axis=0), compute_uv=False)
    true = (singular[0] / singular[-1]) ** 2
    assert true / 3 < least_squares(masks, outputs).condition < 15 * true
    fit = ridge(masks, outputs, penalties=[1.0])
    true = (singular[0] ** 2 + fit.penalty[0]) / (singular[-1] ** 2 + fit.penalty[0])
    assert true / 3 < fit.condition < 15 * true
