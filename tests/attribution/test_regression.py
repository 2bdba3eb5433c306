"""One regression for all examples: those without some outputs, the level, and what the provenance says."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression, Ridge

import ablationlens as al
from ablationlens.attribution.regression import fit, refuse_no_fit, warn_of_quarantine
from tests.solvers.problems import fixed_size, problem

SOLVERS = ("ridge", "least_squares", "lasso")


def theirs(solver: str, penalty: float) -> LinearRegression | Ridge | Lasso:
    """scikit-learn's own, with the penalty that was chosen."""
    match solver:
        case "ridge":
            return Ridge(penalty, solver="svd")
        case "lasso":
            return Lasso(penalty, max_iter=1_000_000, tol=1e-12)
        case _:
            return LinearRegression()


@pytest.mark.parametrize("solver", SOLVERS)
def test_each_example_is_fitted_on_its_own_finite_outputs(solver: str, caplog: pytest.LogCaptureFixture) -> None:
    masks, outputs = problem(draws=100, components=8, targets=5)
    outputs[[3, 17], 1] = np.nan
    outputs[[3, 17], 4] = [np.inf, -np.inf]  # the same draws as example 1, so the same factorisation
    outputs[50, 2] = np.nan
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        found = fit(masks, outputs, solver, outputs[0])
    assert "5 of 500 outputs were not finite" in caplog.text
    assert (found.quarantined, found.dropped, found.level_fixed, len(found.fits)) == (5, 0, False, 3)
    penalties = {len(one.penalty): one.penalty for one in found.fits}
    assert sorted(penalties) == [1, 2]
    for example in range(5):
        finite = np.isfinite(outputs[:, example])
        own = next(one for one in found.fits if np.isclose(one.bias, found.bias[example]).any())
        penalty = float(own.penalty[np.isclose(own.bias, found.bias[example])][0])
        oracle = theirs(solver, penalty).fit(masks[finite].astype(float), outputs[finite, example])
        np.testing.assert_allclose(found.weights[example], oracle.coef_, atol=1e-7)
        np.testing.assert_allclose(found.bias[example], oracle.intercept_, atol=1e-7)


def test_subsets_of_one_size_have_the_level_of_the_output_with_everything_kept() -> None:
    masks = fixed_size(200, 10, 7)
    rng = np.random.default_rng(1)
    outputs, full = rng.normal(size=(200, 3)) + masks @ rng.normal(size=(10, 3)), rng.normal(size=3)
    found = fit(masks, outputs, "least_squares", full)
    assert found.level_fixed
    np.testing.assert_allclose(found.bias + found.weights.sum(axis=1), full, atol=1e-10)
    oracle = LinearRegression().fit(masks.astype(float), outputs)  # the level changes no fitted value
    np.testing.assert_allclose(found.bias + masks @ found.weights.T, oracle.predict(masks.astype(float)), atol=1e-9)
    spread = found.weights - found.weights.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(spread, oracle.coef_ - oracle.coef_.mean(axis=1, keepdims=True), atol=1e-9)
    assert found.provenance()["level"] == "fixed by bias + sum(weights) = f(all kept)"


def test_the_level_of_subsets_leaves_components_that_never_vary_alone() -> None:
    masks = np.column_stack([fixed_size(120, 6, 4), np.ones(120, bool), np.zeros(120, bool)])
    outputs = np.random.default_rng(2).normal(size=(120, 2))
    found = fit(masks, outputs, "least_squares", np.array([5.0, -3.0]))
    assert not found.weights[:, 6:].any()
    assert found.unidentified.tolist() == [False] * 6 + [True] * 2
    np.testing.assert_allclose(found.bias + found.weights.sum(axis=1), [5.0, -3.0], atol=1e-10)
    prediction = found.bias + masks @ found.weights.T
    np.testing.assert_allclose(prediction, LinearRegression().fit(masks, outputs).predict(masks), atol=1e-9)


def test_examples_without_enough_finite_outputs_have_no_weights(caplog: pytest.LogCaptureFixture) -> None:
    masks, outputs = problem(draws=40, components=8, targets=3)
    outputs[8:, 1] = np.nan
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        found = fit(masks, outputs, "least_squares", outputs[0])
    assert "1 examples have too few finite outputs" in caplog.text
    assert found.dropped == 1
    assert np.isnan(found.weights[1]).all()
    assert np.isnan(found.bias[1])
    oracle = LinearRegression().fit(masks.astype(float), outputs[:, [0, 2]])
    np.testing.assert_allclose(found.weights[[0, 2]], oracle.coef_, atol=1e-8)
    assert found.provenance()["examples_without_fit"] == 1
    with pytest.raises(al.InputError, match=r"no example has enough finite outputs .*40 of 40 are not finite"):
        fit(masks, np.full((40, 1), np.nan), "ridge", np.zeros(1))


def test_provenance_says_what_the_fits_say() -> None:
    masks, outputs = problem(draws=60, components=5, targets=2)
    found = fit(masks, outputs, "ridge", outputs[0])
    (one,) = found.fits
    assert found.provenance() == {
        "rank": np.linalg.matrix_rank(masks - masks.mean(axis=0)),
        "condition": one.condition,
        "penalty": float(np.median(one.penalty)),
        "unidentified": 0,
        "quarantined_outputs": 0,
        "examples_without_fit": 0,
        "level": "identified by the draws",
    }
    assert found.provenance()["penalty"] > 0


def test_what_is_finite_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        assert warn_of_quarantine(np.ones((4, 3), dtype=bool)) == 0
        assert not caplog.records
        assert warn_of_quarantine(np.eye(3, dtype=bool)) == 6
    assert "6 of 9" in caplog.text
    with pytest.raises(al.InputError, match=r"\(6 of 9 are not finite\)"):
        refuse_no_fit(6, 9)
