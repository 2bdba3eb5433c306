"""Scores: a table of means and intervals, by hand and by SciPy; and what files give back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ablationlens as al
from ablationlens.evaluate import Scores
from tests.conftest import Host


@pytest.fixture
def model(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))


def made(pearson: list[float], true: np.ndarray, predicted: np.ndarray) -> Scores:
    rows = [
        {"method": "m", "alpha": 0.1, "example": str(i), "pearson": value, "spearman": i, "r2": 2.0 * i, "slope": -i}
        for i, value in enumerate(pearson)
    ]
    return Scores(pd.DataFrame(rows), {0.1: true}, {("m", 0.1): predicted}, {0.1: 0}, len(true))


def test_examples_that_do_not_vary_are_counted_and_left_out() -> None:
    values = [0.9, math.nan, 0.5, 0.7, 0.1, math.nan]
    row: Any = made(values, np.zeros((5, 6)), np.zeros((5, 6))).table().iloc[0]
    assert row["undefined"] == 2
    assert row["pearson"] == pytest.approx(0.55)
    assert (row["spearman"], row["r2"], row["slope"]) == (2.5, 5.0, -2.5)
    defined = np.array([0.9, 0.5, 0.7, 0.1])
    theirs = stats.bootstrap((defined,), np.mean, method="percentile", rng=0).confidence_interval
    assert abs(row["low"] - theirs.low) < 0.05
    assert abs(row["high"] - theirs.high) < 0.05
    nothing: Any = made([math.nan] * 2, np.zeros((5, 2)), np.zeros((5, 2))).table().iloc[0]
    assert np.isnan([nothing["pearson"], nothing["low"], nothing["high"]]).all()
    assert nothing["undefined"] == 2


def test_the_interval_of_one_example_is_over_its_draws() -> None:
    generator = np.random.default_rng(0)
    true = generator.standard_normal((60, 2))
    predicted = true + 0.7 * generator.standard_normal((60, 2))
    true[3, 1], predicted[5, 1] = np.nan, np.inf
    ok = np.isfinite(true[:, 1]) & np.isfinite(predicted[:, 1])
    pair = (true[ok, 1], predicted[ok, 1])
    correlation = stats.pearsonr(*pair).statistic
    row: Any = made([math.nan, correlation], true, predicted).table().iloc[0]
    theirs = stats.bootstrap(
        pair, lambda x, y: stats.pearsonr(x, y).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=1000, rng=0,
    ).confidence_interval  # fmt: skip
    spread = theirs.high - theirs.low
    assert abs(row["low"] - theirs.low) < 0.2 * spread
    assert abs(row["high"] - theirs.high) < 0.2 * spread


def test_scores_survive_a_round_trip(model: al.MaskedModel, small: Host, tmp_path: Path) -> None:
    data = small.data(3)
    coar = al.coar(model, data, alpha=0.1, draws=60)
    scores = al.evaluate(model, data, {"COAR": coar}, alphas=[0.05, 0.1], draws=20)
    scores.frame.loc[1, "pearson"] = np.nan
    back = al.Scores.load(scores.save(tmp_path / "scores.safetensors"))
    pd.testing.assert_frame_equal(back.frame, scores.frame)
    pd.testing.assert_frame_equal(back.table(), scores.table())
    assert list(back.true) == list(scores.true)
    assert all(np.array_equal(back.true[alpha], scores.true[alpha]) for alpha in scores.true)
    assert all(np.array_equal(back.predicted[key], scores.predicted[key]) for key in scores.predicted)
    assert (back.overlap, back.draws) == (scores.overlap, scores.draws)
    assert back.provenance == json.loads(json.dumps(scores.provenance))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_damaged_scores_are_refused(model: al.MaskedModel, small: Host, tmp_path: Path, share: float) -> None:
    data = small.data(2)
    path = al.evaluate(model, data, al.leave_one_out(model, data), draws=10).save(tmp_path / "scores.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(al.StoreError):
        al.Scores.load(path)
    with pytest.raises(al.StoreError, match="there is no file"):
        al.Scores.load(tmp_path / "other")
