"""Completeness: sums of weights against outputs of edited models, and captum's Shapley values, which add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import ShapleyValues
from scipy import stats

import ablationlens as al
from ablationlens.evaluate import Completeness, completeness
from tests import models
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted

A = np.array([2.0, -1.0, 3.0])
PAIRS = np.array([[0, 2.0, 0], [0, 0, 0], [0, 0, 0]])
"""f_x = 5 + x (2 a - b + 3 c) + 2 x^2 a b: f(all) - f(none) is 4 x + 2 x^2, the sum of leave-one-out 4 x + 4 x^2."""


def test_gaps_by_hand() -> None:
    model, data = game(A, PAIRS, constant=5.0), scales(1, 2)
    loo = al.leave_one_out(model, data)
    own = weighted(model, data, np.outer([1, 2], A), bias=np.array([5.0, 4.0]))
    frame = completeness(model, data, {"loo": loo, "own": own}).frame.set_index(["method", "example"])
    first, second = data.names()
    assert frame.loc[("loo", first), "change"] == pytest.approx(6)
    assert frame.loc[("loo", second), "change"] == pytest.approx(16)
    assert frame.loc["loo", "gap"].tolist() == pytest.approx([2, 8])
    assert frame.loc["own", "gap"].tolist() == pytest.approx([2, 8])
    assert frame.loc["own", "relative"].tolist() == pytest.approx([2 / 6, 8 / 16])
    assert frame.loc["own", "weights"].tolist() == pytest.approx([4, 8])
    assert frame.loc["own", "empty"].tolist() == pytest.approx([5, 5])
    assert frame.loc["own", "bias_gap"].tolist() == pytest.approx([0, 1])
    # leave-one-out's bias makes its prediction for everything kept right, so its bias misses by its gap
    assert frame.loc["loo", "bias_gap"].tolist() == pytest.approx([2, 8])


def test_shapley_values_of_captum_have_no_gap() -> None:
    model, data = game(A, PAIRS, constant=5.0), scales(1, 2)

    def outputs(gates: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model(gates.float(), al.batch(x))

    shapley = ShapleyValues(outputs).attribute(torch.ones(2, 3), additional_forward_args=(data.inputs["input"],))
    found = completeness(model, data, weighted(model, data, shapley.numpy(), bias=5.0))
    assert found.frame["gap"].max() < 1e-4
    assert found.table()["relative"][0] < 1e-5
    assert found.table()["bias_gap"][0] < 1e-5


def test_everything_ablated_is_the_model_without_those_weights(small: Host) -> None:
    registry = small.registry("row")
    model = al.MaskedModel(small.adapter, registry, output=al.Logit(1))
    data = small.data(4)
    found = completeness(model, data, al.leave_one_out(model, data)).frame
    bare = models.edited(small.reference, list(registry))
    expected = models.logits_of(bare, small.inputs(4))[:, 1]
    assert found["empty"].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    whole = models.logits_of(small.reference, small.inputs(4))[:, 1]
    assert found["change"].tolist() == pytest.approx((whole - expected).tolist(), abs=1e-5)


def test_the_table_has_intervals_and_a_ratio_of_means() -> None:
    model, data = game(A, PAIRS, constant=5.0), scales(1, 2, 0.5, 3, 1.5, 2.5)
    found = completeness(model, data, al.leave_one_out(model, data))
    row = found.table().iloc[0]
    x = np.array([1, 2, 0.5, 3, 1.5, 2.5])
    gaps, changes = 2 * x**2, 4 * x + 2 * x**2
    assert row["gap"] == pytest.approx(gaps.mean(), rel=1e-5)
    assert row["relative"] == pytest.approx(gaps.mean() / changes.mean(), rel=1e-5)
    theirs = stats.bootstrap((gaps,), np.mean, method="percentile", random_state=0).confidence_interval
    ratio = stats.bootstrap(
        (gaps, changes),
        lambda a, b: a.mean() / b.mean(),
        paired=True,
        vectorized=False,
        method="percentile",
        random_state=0,
    ).confidence_interval
    for low, high, interval in (("low", "high", theirs), ("relative_low", "relative_high", ratio)):
        spread = interval.high - interval.low
        assert abs(row[low] - interval.low) < 0.2 * spread
        assert abs(row[high] - interval.high) < 0.2 * spread


def test_where_nothing_changes_the_ratio_is_undefined() -> None:
    model, data = game([3.0, -3.0], constant=5.0), scales(1, 2)
    found = completeness(model, data, weighted(model, data, np.ones(2)))
    assert found.frame["relative"].isna().all()
    assert np.isnan(found.table()["relative"][0])
    assert found.table()["gap"][0] == pytest.approx(2)


def test_weights_that_are_not_finite_count_as_0() -> None:
    model, data = game(A), scales(1, 2)
    weights = np.array([[2.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    found = completeness(model, data, weighted(model, data, weights, bias=np.array([0.0, np.nan])))
    assert found.frame["weights"][0] == 5
    assert np.isnan(found.frame["gap"][1])
    table = found.table()
    assert table["undefined"].tolist() == [1]
    assert table["gap"][0] == pytest.approx(1)
    assert np.isnan(table["low"][0])


def test_completeness_survives_a_round_trip(tmp_path: Path) -> None:
    model, data = game(A, PAIRS), scales(1, 2)
    found = completeness(model, data, {"a": weighted(model, data, A), "b": weighted(model, data, -A)})
    back = Completeness.load(found.save(tmp_path / "completeness.safetensors"))
    pd.testing.assert_frame_equal(back.frame, found.frame)
    pd.testing.assert_frame_equal(back.table(), found.table())
    assert back.provenance == json.loads(json.dumps(found.provenance))
    assert "bias_gap" in repr(back)
    with pytest.raises(al.StoreError, match="completeness gaps"):
        Completeness.load(weighted(model, data, A).save(tmp_path / "attribution"))


def test_what_does_not_belong_together_is_refused() -> None:
    model, data = game(A), scales(1, 2)
    own = weighted(model, data, A)
    for call, match in [
        (lambda: completeness(model, data, {}), "nothing to evaluate.*al.completeness"),
        (lambda: completeness(game(np.ones(4)), data, own), "another registry"),
        (lambda: completeness(model, scales(1), own), "2 examples, the data has 1"),
        (lambda: completeness(model, scales(3, 4), al.leave_one_out(model, data)), "other data"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()
