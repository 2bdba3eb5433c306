"""The noise ceiling: functions with interactions, whose best linear prediction is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

import ablationlens as al
from ablationlens.evaluate import Ceiling, ceiling
from ablationlens.evaluate.ceiling import attenuated, reliability
from ablationlens.results import Attribution
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted

ALPHA, COUNT = 0.2, 120


def interacting(strength: float, count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Additive terms, and an upper triangle of pairs."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(count), np.triu(strength * rng.standard_normal((count, count)), 1)


def coefficients(additive: np.ndarray, pairs: np.ndarray, alpha: float) -> np.ndarray:
    """Of the best linear prediction under independent gates: E[f | m_j = 1] - E[f | m_j = 0]."""
    return additive + (1 - alpha) * (pairs + pairs.T).sum(axis=1)


def known_ceiling(additive: np.ndarray, pairs: np.ndarray, alpha: float) -> float:
    """sd of the linear part over sd of all: with gates of variance v, v |w|^2 beside v^2 sum of squared pairs."""
    v = alpha * (1 - alpha)
    linear, rest = v * (coefficients(additive, pairs, alpha) ** 2).sum(), v**2 * (pairs**2).sum()
    return float(np.sqrt(linear / (linear + rest)))


def test_the_known_ceiling_is_scikit_learns_on_all_masks() -> None:
    """The oracle of this file, checked on 1,024 masks with their probabilities as sample weights."""
    additive, pairs = interacting(0.8, 10)
    masks = ((np.arange(1024)[:, None] >> np.arange(10)) & 1).astype(float)
    chances = np.prod(np.where(masks == 1, 1 - ALPHA, ALPHA), axis=1)
    f = masks @ additive + np.einsum("ni,ij,nj->n", masks, pairs, masks)
    fit = LinearRegression().fit(masks, f, sample_weight=chances)
    np.testing.assert_allclose(fit.coef_, coefficients(additive, pairs, ALPHA), atol=1e-9)
    r2 = fit.score(masks, f, sample_weight=chances)
    assert known_ceiling(additive, pairs, ALPHA) == pytest.approx(np.sqrt(r2), abs=1e-9)
    assert 0.5 < np.sqrt(r2) < 0.99


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_noisy_estimates_have_the_known_ceiling(strength: float, noise: float) -> None:
    """Whatever the noise of the estimates, and whatever their scale."""
    additive, pairs = interacting(strength)
    model, data = game(additive, pairs), scales(1)
    w = coefficients(additive, pairs, ALPHA)
    rng = np.random.default_rng(1)
    size = noise * np.linalg.norm(w) / np.sqrt(COUNT)
    estimates = [w + size * rng.standard_normal((COUNT,)) for _ in range(2)]
    first, second = (weighted(model, data, 0.1 * one) for one in estimates)
    found = ceiling(model, data, first, again=second, alphas=ALPHA, draws=4000)
    expected = known_ceiling(additive, pairs, ALPHA)
    row = found.table().iloc[0]
    assert row["ceiling"] == pytest.approx(expected, abs=0.03 if noise == 0.2 else 0.12)
    assert row["low"] - 0.01 <= expected <= row["high"] + 0.01
    if noise == 1.0:
        assert row["pearson"] < expected - 0.15  # the correlation itself is far below


def test_the_mean_over_many_examples_is_unbiased() -> None:
    """Examples whose noise is as large as the signal: single ceilings scatter, their mean does not."""
    additive, pairs = interacting(0.5)
    model, data = game(additive, pairs), scales(*np.ones(24))
    w = coefficients(additive, pairs, ALPHA)
    rng = np.random.default_rng(2)
    size = np.linalg.norm(w) / np.sqrt(COUNT)
    first, second = (weighted(model, data, w + size * rng.standard_normal((24, COUNT))) for _ in range(2))
    found = ceiling(model, data, first, again=second, alphas=ALPHA, draws=2000)
    row = found.table().iloc[0]
    assert found.frame["ceiling"].std() > 0.02
    assert row["ceiling"] == pytest.approx(known_ceiling(additive, pairs, ALPHA), abs=0.03)
    assert row["low"] < known_ceiling(additive, pairs, ALPHA) < row["high"]


def test_least_squares_on_few_draws_shows_the_ceiling_of_many() -> None:
    additive, pairs = interacting(0.7, 40)
    model, data = game(additive, pairs), scales(1, 1.2, 0.8)
    fits = [
        al.coar(model, data, alpha=ALPHA, draws=56, seed=seed, solver="least_squares", show_bar=False)
        for seed in (0, 1)
    ]
    found = ceiling(model, data, {"COAR": fits[0]}, again={"COAR": fits[1]}, alphas=ALPHA, draws=2000)
    many = al.coar(model, data, alpha=ALPHA, draws=4000, seed=2, solver="least_squares", show_bar=False)
    reached = al.evaluate(model, data, many, alphas=ALPHA, draws=2000).table()["pearson"][0]
    row = found.table().iloc[0]
    assert row["pearson"] < reached - 0.06
    assert row["ceiling"] == pytest.approx(reached, abs=0.03)
    assert found.scores is not None
    assert found.scores.overlap == {ALPHA: 0}
    assert {method for method, _ in found.scores.predicted} == {"COAR", "COAR (again)"}


@pytest.mark.parametrize("design", ["bernoulli", "subset"])
def test_reliability_is_the_correlation_of_predictions(design: str) -> None:
    """Under masks of a fixed size a common level of the weights has no effect, and must not count as agreement."""
    model, data = game(np.ones(60)), scales(1)
    rng = np.random.default_rng(0)
    a, b = 1.0 + rng.standard_normal((2, 60))
    masks = (al.Bernoulli if design == "bernoulli" else al.Subset)(60, ALPHA, 20_000, 0).masks(0, 20_000)
    first, second = weighted(model, data, a), weighted(model, data, b)
    expected = np.corrcoef(first.predict(masks)[:, 0], second.predict(masks)[:, 0])[0, 1]
    assert reliability(first, second, centred=design == "subset")[0] == pytest.approx(expected, abs=0.03)
    assert abs(reliability(first, second, centred=design != "subset")[0] - expected) > 0.1


def test_subset_masks_have_the_same_ceiling() -> None:
    additive, pairs = interacting(0.5)
    model, data = game(additive, pairs), scales(1)
    w = coefficients(additive, pairs, ALPHA)
    rng = np.random.default_rng(3)
    size = 0.7 * np.linalg.norm(w) / np.sqrt(COUNT)
    first, second = (weighted(model, data, 5 + w + size * rng.standard_normal((COUNT,))) for _ in range(2))
    found = ceiling(model, data, first, again=second, alphas=ALPHA, draws=4000, design="subset")
    assert found.table()["ceiling"][0] == pytest.approx(known_ceiling(additive, pairs, ALPHA), abs=0.08)


def test_seeds_that_do_not_agree_say_nothing() -> None:
    agreement = np.array([0.5, 0.05, 0.5, np.nan])
    found = attenuated(np.array([0.4, 0.4, -0.1, 0.4]), np.array([0.4, 0.4, 0.4, 0.4]), agreement, 1000)
    assert found[0] == pytest.approx(0.4 / np.sqrt(0.5))
    assert np.isnan(found[1:]).all()
    model, data = game(np.ones(COUNT)), scales(1, 2)
    rng = np.random.default_rng(0)
    first, second = (weighted(model, data, rng.standard_normal((2, COUNT))) for _ in range(2))
    row = ceiling(model, data, first, again=second, alphas=ALPHA, draws=50).table().iloc[0]
    assert row["undefined"] == 2
    assert np.isnan([row["ceiling"], row["low"], row["high"]]).all()


def test_ceilings_survive_a_round_trip(tmp_path: Path) -> None:
    found, attributions = small_ceiling()
    back = Ceiling.load(found.save(tmp_path / "ceiling.safetensors"))
    pd.testing.assert_frame_equal(back.frame, found.frame)
    pd.testing.assert_frame_equal(back.table(), found.table())
    assert back.provenance == json.loads(json.dumps(found.provenance))
    assert back.scores is None
    assert found.table()["alpha"].tolist() == [0.2, 0.4]
    assert "ceiling" in repr(found)
    with pytest.raises(al.StoreError, match="noise ceilings"):
        Ceiling.load(attributions[0].save(tmp_path / "attribution"))


def small_ceiling() -> tuple[Ceiling, list[Attribution]]:
    model, data = game(np.arange(1.0, 21.0)), scales(1, 2)
    rng = np.random.default_rng(0)
    pair = [weighted(model, data, np.arange(1.0, 21.0) + rng.standard_normal(20), seed=seed) for seed in (0, 1)]
    return ceiling(model, data, pair[0], again=pair[1], alphas=[0.2, 0.4], draws=40), pair


def test_what_does_not_fit_is_refused(small: Host) -> None:
    model, data = game(np.ones(20)), scales(1, 2)
    one, two = (weighted(model, data, np.arange(20), seed=seed, method="a") for seed in (0, 1))
    other = weighted(game(np.ones(21)), data, np.arange(21))
    for call, match in [
        (lambda: ceiling(model, data, {}, again={}), "nothing to evaluate"),
        (lambda: ceiling(model, data, {"a": one}, again={}), "nothing to evaluate.*again="),
        (lambda: ceiling(model, data, {"a": one}, again={"b": two}), "'b', but no first"),
        (lambda: ceiling(model, data, {"a": one}, again={"a": one}), "the seed 0.*seed=1"),
        (lambda: ceiling(model, data, {"a": one}, again={"a": other}), "another registry"),
        (
            lambda: ceiling(model, data, {"a": one}, again={"a": weighted(model, data, np.arange(20), method="b")}),
            "differs in more than its seed: method 'a' and 'b'",
        ),
        (lambda: ceiling(model, data, {"a": one}, again={"a": two}, draws=2), "at least 3"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()
