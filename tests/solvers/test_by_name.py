"""All solvers by name: the draws they need, and the symmetries they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.errors import InputError
from ablationlens.solvers import SOLVERS, check_draws, check_solver, lasso, minimum_draws
from tests.solvers.problems import SEEDS, every, few, problem


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


@pytest.mark.parametrize("given", ["ols", 5, None, ["ridge"], lasso])
def test_what_is_no_name_of_a_solver_is_refused(given: object) -> None:
    with pytest.raises(InputError, match=r"among ridge, least_squares, lasso, got .*; type solver='ridge'"):
        check_solver(given)
    for name in SOLVERS:
        check_solver(name)


def test_an_output_that_never_changes_has_no_weights() -> None:
    masks, outputs = problem()
    outputs[:, 1] = 0.1
    for name, solver in SOLVERS.items():
        fit = solver(masks, outputs)
        np.testing.assert_allclose(fit.weights[1], 0, atol=1e-15, err_msg=name)
        assert fit.bias[1] == pytest.approx(0.1, abs=1e-14) and np.isfinite(fit.validation_error).all()


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
