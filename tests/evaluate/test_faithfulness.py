"""Faithfulness: functions whose areas can be worked out by hand, and masks made one by one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc

import ablationlens as al
from ablationlens.evaluate import Faithfulness, faithfulness
from ablationlens.evaluate.faithfulness import counts_of
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted

FOUR = np.array([1.0, 4.0, 2.0, 3.0])
"""Kept in the right order their sums are 4, 7, 9, 10."""


def areas(found: Faithfulness, method: str) -> dict[str, float]:
    table = found.table()
    return dict(table[table["method"] == method].set_index("measure")["value"])


def test_areas_of_an_additive_function() -> None:
    """F(C_k) = .4, .7, .9, 1 for the right order; .1, .3, .6, 1 for the reverse. The constant does not enter."""
    model, data = game(FOUR, constant=7.0), scales(1, 2)
    named = {"right": weighted(model, data, FOUR), "reverse": weighted(model, data, -FOUR)}
    found = faithfulness(model, data, named)
    assert found.counts.tolist() == [0, 1, 2, 3, 4]
    assert areas(found, "right") == pytest.approx({"cpr": 0.625, "cmd": 0.375, "deletion": 0.375})
    assert areas(found, "reverse") == pytest.approx({"cpr": 0.375, "cmd": 0.625, "deletion": 0.625})
    curves = found.curves().set_index(["method", "direction"])
    assert curves.loc[("right", "insertion"), "faithfulness"].tolist() == pytest.approx([0, 0.4, 0.7, 0.9, 1])
    assert curves.loc[("right", "deletion"), "faithfulness"].tolist() == pytest.approx([1, 0.6, 0.3, 0.1, 0])
    assert found.full.tolist() == pytest.approx([17, 27])
    assert found.empty.tolist() == pytest.approx([7, 7])


def test_cmd_counts_what_is_above_1_too() -> None:
    """a = (6, -2): keeping the first alone gives F = 1.5, so CMD is not 1 - CPR."""
    model, data = game([6.0, -2.0]), scales(1)
    found = faithfulness(model, data, weighted(model, data, np.array([6.0, -2.0])))
    assert areas(found, "given") == pytest.approx(
        {"cpr": (0 + 1.5) / 4 + (1.5 + 1) / 4, "cmd": (1 + 0.5) / 4 + 0.5 / 4, "deletion": (1 - 0.5) / 4 - 0.5 / 4}
    )


@pytest.mark.parametrize("ranking", ["mean", "example"])
def test_an_output_that_falls_is_made_by_what_lowers_it(ranking: str) -> None:
    """A loss, or a divergence: f(all) = 20 - 10 x is below f(none) = 20."""
    model, data = game(-FOUR, constant=20.0), scales(1, 2)
    named = {"right": weighted(model, data, -FOUR), "reverse": weighted(model, data, FOUR)}
    found = faithfulness(model, data, named, ranking=ranking)  # type: ignore[arg-type]
    assert areas(found, "right") == pytest.approx({"cpr": 0.625, "cmd": 0.375, "deletion": 0.375})
    assert areas(found, "reverse") == pytest.approx({"cpr": 0.375, "cmd": 0.625, "deletion": 0.625})
    assert found.provenance["toward"] == (-1 if ranking == "mean" else [-1, -1])


def test_orders_by_sign_and_by_size() -> None:
    weights = np.array([2.0, -5.0, 1.0])
    model, data = game([3.0, -1.0, 2.0]), scales(1)
    for order, expected in (("signed", [0, 3, 5, 4]), ("absolute", [0, -1, 2, 4])):
        found = faithfulness(model, data, weighted(model, data, weights), order=order)  # type: ignore[arg-type]
        assert found.outputs[0, 0, :, 0].tolist() == pytest.approx(expected)
        assert found.provenance["order"] == order


@pytest.fixture
def rows(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))


@pytest.mark.parametrize("ranking", ["mean", "example"])
@pytest.mark.parametrize("packed", [None, 2, 5])
def test_outputs_are_those_of_masks_made_by_hand(
    rows: al.MaskedModel, small: Host, ranking: str, packed: int | None
) -> None:
    data = small.data(3)
    loo = al.leave_one_out(rows, data)
    found = faithfulness(rows, data, loo, counts=[1, 5, 20], ranking=ranking, random_orders=2, rows=packed)  # type: ignore[arg-type]
    assert found.counts.tolist() == [0, 1, 5, 20, 33]
    weights = loo.weights.values
    for example in range(3):
        own = weights[example] if ranking == "example" else weights.mean(axis=0)
        gaps = found.full - found.empty
        order = np.argsort(-own * np.sign(gaps[example] if ranking == "example" else gaps.mean()))
        for place, count in enumerate(found.counts):
            for direction in range(2):
                mask = torch.zeros(1, 33) if direction == 0 else torch.ones(1, 33)
                mask[0, order[:count].copy()] = 1.0 - direction
                alone = float(rows(mask, data.take([example]))[0])
                assert abs(found.outputs[0, direction, place, example] - alone) < 1e-5
    pooled = (found.outputs[0, 0].mean(-1) - found.empty.mean()) / (found.full.mean() - found.empty.mean())
    assert areas(found, "leave-one-out")["cpr"] == pytest.approx(auc(found.counts / 33, pooled))


def test_rankings_of_their_own_keep_the_replacements_of_their_example(small: Host) -> None:
    """Counterfactual replacements belong to examples: a sweep over one example at a time would mix them up."""
    data = small.data(3)
    other = al.Counterfactual(data.like(small.inputs(3, 5)))
    model = al.MaskedModel(small.adapter, small.registry("row"), ablation=other, output=al.Logit(1))
    loo = al.leave_one_out(model, data)
    found = faithfulness(model, data, loo, counts=[7], ranking="example", random_orders=1)
    masks = torch.zeros(3, 33)
    for example in range(3):
        toward = np.sign(found.full[example] - found.empty[example])
        masks[example, np.argsort(-toward * loo.weights.values[example])[:7].copy()] = 1
    assert found.outputs[0, 0, 1] == pytest.approx(model(masks, data).tolist(), abs=1e-5)


def test_random_orders_are_shared_and_seeded() -> None:
    model, data = game(np.arange(1.0, 9.0)), scales(1, 2)
    weights = np.arange(1.0, 9.0)
    one = faithfulness(model, data, weighted(model, data, weights), seed=3)
    both = faithfulness(
        model, data, {"a": weighted(model, data, weights), "b": weighted(model, data, -weights)}, seed=3
    )
    other = faithfulness(model, data, weighted(model, data, weights), seed=4)
    own = faithfulness(model, data, weighted(model, data, weights), seed=3, ranking="example")
    assert one.random.shape == (20, 2, 9, 2)
    np.testing.assert_allclose(one.random, both.random, atol=1e-5)
    # scale 2 has twice the output of scale 1 in the same order
    np.testing.assert_allclose(one.random[..., 1], 2 * one.random[..., 0], atol=1e-5)
    assert np.abs(own.random[..., 1] - 2 * own.random[..., 0]).max() > 1
    again = faithfulness(model, data, weighted(model, data, weights), seed=3, ranking="example")
    np.testing.assert_allclose(own.random, again.random, atol=1e-5)
    assert np.abs(one.random - other.random).max() > 0.1
    # deleting the first k of an order keeps the others: not the same set as the first N - k
    assert np.abs(one.random[:, 0] + one.random[:, 1] - one.full - one.empty).max() < 1e-4


def test_the_band_and_the_level_are_those_of_the_random_orders() -> None:
    model, data = game(np.arange(1.0, 9.0)), scales(1, 2)
    weights = np.arange(1.0, 9.0)
    found = faithfulness(
        model, data, {"best": weighted(model, data, weights), "worst": weighted(model, data, -weights)}
    )
    fractions = found.counts / 8
    by_hand = [auc(fractions, (order[0].mean(-1) - 0) / found.full.mean()) for order in found.random]
    best, worst = (found.table().set_index(["method", "measure"]).loc[(name, "cpr")] for name in ("best", "worst"))
    assert (best["random_low"], best["random"], best["random_high"]) == pytest.approx(
        (min(by_hand), np.mean(by_hand), max(by_hand))
    )
    assert best["p"] == pytest.approx(1 / 21)
    assert worst["p"] == pytest.approx(1.0)
    deletion = found.table().set_index(["method", "measure"]).loc[("best", "deletion")]
    assert deletion["p"] == pytest.approx(1 / 21)
    curves = found.curves().query("method == 'best' and direction == 'insertion'")
    pooled = np.stack([order[0].mean(-1) / found.full.mean() for order in found.random])
    np.testing.assert_allclose(curves["random_low"], pooled.min(0), atol=1e-9)
    np.testing.assert_allclose(curves["random_high"], pooled.max(0), atol=1e-9)


def test_orders_by_chance_differ_between_examples_as_those_of_the_method_do() -> None:
    """Noise ranks each example by itself: against one order for all examples it would never be far from the middle."""
    model, data = game(np.arange(1.0, 7.0)), scales(*np.ones(12))
    levels = []
    for seed in range(30):
        noise = np.random.default_rng(seed).standard_normal((12, 6))
        found = faithfulness(model, data, weighted(model, data, noise), seed=seed, ranking="example", counts=[2, 4])
        levels.append(found.table().set_index("measure").loc["cpr", "p"])
    assert np.std(levels) == pytest.approx(1 / np.sqrt(12), abs=0.09)


def test_intervals_are_over_examples() -> None:
    """Half of the examples have F .4 first, the others .1: a resample holds between none and all of either."""
    pairs = np.zeros((4, 4))
    model = game(FOUR, pairs)
    data = scales(1, 1.5, 2, 2.5, 3, 3.5)
    given = np.stack([FOUR if i % 2 else -FOUR for i in range(6)])
    found = faithfulness(model, data, weighted(model, data, given), ranking="example")
    row = found.table().set_index("measure").loc["cpr"]
    assert 0.375 <= row["low"] < row["value"] < row["high"] <= 0.625
    each = found.frame.query("direction == 'insertion' and count == 1")["faithfulness"]
    assert each.tolist() == pytest.approx([0.1, 0.4] * 3)
    weighted_mean = np.average(each, weights=[1, 1.5, 2, 2.5, 3, 3.5])  # the mean of outputs, not of ratios
    assert found.curves().query("direction == 'insertion'")["faithfulness"].iloc[1] == pytest.approx(weighted_mean)
    single = faithfulness(model, scales(1), weighted(model, scales(1), FOUR)).table()
    assert single["low"].isna().all()
    assert single["value"].notna().all()


def test_without_a_gap_faithfulness_is_undefined_and_outputs_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    model, data = game([3.0, -3.0, 0.0], constant=5.0), scales(1, 2)
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        found = faithfulness(model, data, weighted(model, data, np.array([3.0, -3.0, 0.0])))
    assert "undefined for 2 of 2 examples" in caplog.text
    assert found.frame["faithfulness"].isna().all()
    assert found.table()[["value", "low", "random", "p"]].isna().all(axis=None)
    assert found.curves()["faithfulness"].isna().all()
    assert found.outputs[0, 0, 1].tolist() == pytest.approx([8, 11])
    assert found.provenance["undefined_examples"] == 2


def test_examples_that_are_not_finite_are_left_out() -> None:
    model, data = game(FOUR), scales(1, 2, 3)
    broken = al.MaskedModel(
        model.adapter, model.registry, output=lambda logits: torch.where(logits[:, 0] == 8, torch.nan, logits[:, 0])
    )  # example 1 (x = 2) with the first component kept alone
    found = faithfulness(broken, data, weighted(broken, data, FOUR))
    table = found.table().set_index("measure")
    assert table.loc["cpr", "left_out"] == 1
    assert table.loc["cpr", "value"] == pytest.approx(0.625)
    assert found.provenance["examples_not_finite"] >= 1


def test_weights_that_are_not_finite_count_as_0_and_ties_have_no_order_of_their_own() -> None:
    model, data = game(FOUR), scales(1)
    found = faithfulness(model, data, weighted(model, data, np.array([-1.0, 4.0, np.nan, 3.0])))
    assert found.outputs[0, 0, :, 0].tolist() == pytest.approx([0, 4, 7, 9, 10])
    wide = game(np.arange(1.0, 31.0))
    firsts = {
        float(faithfulness(wide, data, weighted(wide, data, np.zeros(30)), seed=seed, counts=[1]).outputs[0, 0, 1, 0])
        for seed in range(6)
    }
    assert len(firsts) > 3


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        (4, (1, 2, 3)),
        (32, tuple(range(1, 32))),
        (100, (1, 2, 5, 10, 20, 50)),
        (144, (1, 2, 7, 14, 28, 72)),
        (1000, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (64512, (64, 129, 322, 645, 1290, 3225, 6451, 12902, 32256)),
    ],
)
def test_default_counts_are_mibs_without_collapse(components: int, expected: tuple[int, ...]) -> None:
    assert counts_of(components) == expected


@given(additive=st.lists(st.floats(0.1, 5), min_size=3, max_size=7), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_no_order_of_an_additive_function_beats_its_own_weights(additive: list[float], seed: int) -> None:
    model, data = game(additive), scales(1)
    other = np.random.default_rng(seed).standard_normal(len(additive))
    named = {"own": weighted(model, data, np.array(additive)), "other": weighted(model, data, other)}
    found = faithfulness(model, data, named, random_orders=3)
    own, rival = areas(found, "own"), areas(found, "other")
    assert own["cpr"] >= max(rival["cpr"], 0.5) - 1e-6
    assert own["cmd"] == pytest.approx(1 - own["cpr"], abs=1e-6)
    assert own["deletion"] == pytest.approx(1 - own["cpr"], abs=1e-6)


def test_the_cost_is_logged_before_it_is_paid(caplog: pytest.LogCaptureFixture) -> None:
    model, data = game(FOUR), scales(1, 2)
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        faithfulness(model, data, weighted(model, data, FOUR), random_orders=5)
    assert "faithfulness, ends: 2 masks x 2 examples" in caplog.text
    assert "faithfulness: 36 masks x 2 examples" in caplog.text  # 6 orders x 2 directions x 3 counts


def test_faithfulness_survives_a_round_trip(tmp_path: Path) -> None:
    model, data = game(FOUR), scales(1, 2)
    found = faithfulness(model, data, weighted(model, data, FOUR))
    back = Faithfulness.load(found.save(tmp_path / "faithfulness.safetensors"))
    pd.testing.assert_frame_equal(back.table(), found.table())
    pd.testing.assert_frame_equal(back.curves(), found.curves())
    pd.testing.assert_frame_equal(back.frame, found.frame)
    assert back.provenance == json.loads(json.dumps(found.provenance))
    assert "cpr" in repr(back)
    with pytest.raises(al.StoreError, match="does not hold faithfulness curves"):
        Faithfulness.load(weighted(model, data, FOUR).save(tmp_path / "attribution"))


def test_what_does_not_fit_is_refused(rows: al.MaskedModel, small: Host) -> None:
    model, data = game(FOUR), scales(1, 2)
    own = weighted(model, data, FOUR)
    one = game([1.0])
    for call, match in [
        (lambda: faithfulness(model, data, {}), "nothing to evaluate.*al.faithfulness"),
        (lambda: faithfulness(rows, small.data(2), own), "another registry"),
        (lambda: faithfulness(model, scales(1), own), "2 examples, the data has 1"),
        (lambda: faithfulness(model, data, own, counts=[0, 4]), "from 0 to 4.*counts=range"),
        (lambda: faithfulness(model, data, own, counts=[2, 5]), "from 0 to 4"),
        (lambda: faithfulness(model, data, own, counts=[-1, 2]), "from 0 to 4"),
        (lambda: faithfulness(model, data, own, counts=np.array([0.5])), "counts is an integer"),
        (lambda: faithfulness(model, data, own, random_orders=0), "random_orders=0"),
        (lambda: faithfulness(one, data, weighted(one, data, np.ones(1))), "at least 2 components"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()
    loo = al.leave_one_out(rows, small.data(3))
    with pytest.raises(al.InputError, match="other data"):
        faithfulness(rows, small.data(3, seed=1), loo)
    for arguments in ({"order": "size"}, {"ranking": "all"}, {"seed": 0.5}):
        with pytest.raises((al.InputError, TypeError), match="use one of|seed is an integer|type"):
            faithfulness(model, data, own, **arguments)  # type: ignore[arg-type]
