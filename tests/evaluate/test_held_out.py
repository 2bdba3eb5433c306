"""Held-out correlation."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import ablationlens as al
from ablationlens.evaluate import design_of, held_out_masks
from ablationlens.masks.designs import random_design
from tests.conftest import Host


@pytest.fixture
def model(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))


@pytest.fixture
def tiny(small: Host) -> al.MaskedModel:
    """Four components: 16 masks in all."""
    registry = small.registry("row").select(where=lambda c: c.site.layer == 2 and c.index < 4)
    return al.MaskedModel(small.adapter, registry, output=al.Logit(1))


def keys(masks: np.ndarray) -> list[bytes]:
    return [mask.tobytes() for mask in np.ascontiguousarray(masks)]


@pytest.mark.parametrize("design", ["bernoulli", "subset", "balanced"])
def test_held_out_masks_are_disjoint_from_those_of_the_fit(small: Host, design: str) -> None:
    """12 components at alpha 0.2: many collisions, if nothing were done about them."""
    registry = small.registry("row").select(where=lambda c: c.site.layer == 1)
    model = al.MaskedModel(small.adapter, registry, output=al.Logit(1))
    data = small.data(2)
    coar = al.coar(model, data, alpha=0.2, draws=60, design=design)  # type: ignore[arg-type]
    loo = al.leave_one_out(model, data)
    fit = random_design(design, len(registry), 0.2, 60)
    fitted = {*keys(fit.masks(0, 60)), *keys(al.LeaveOneOut(len(registry)).masks(0, len(registry) + 1))}
    source = random_design("bernoulli", len(registry), 0.2, 40, 0, "evaluate")
    held = held_out_masks(source, {"COAR": coar, "loo": loo})
    assert held.draws == 40
    assert held.overlap == 0
    assert not fitted & set(keys(held.masks(0, 40)))
    assert fitted & set(keys(source.masks(0, 40)))  # it would have happened
    scores = al.evaluate(model, data, {"COAR": coar, "loo": loo}, alphas=0.2, draws=40)
    assert scores.overlap == {0.2: 0}
    expected = model.sweep(held, data).numpy()
    assert np.abs(scores.true[0.2] - expected).max() < 1e-5
    assert np.abs(scores.predicted["COAR", 0.2] - coar.predict(held.masks(0, 40))).max() < 1e-12


def test_where_masks_run_out_the_overlap_is_counted(
    tiny: al.MaskedModel, small: Host, caplog: pytest.LogCaptureFixture
) -> None:
    data = small.data(2)
    coar = al.coar(tiny, data, alpha=0.4, draws=200)
    fitted = set(keys(al.Bernoulli(4, 0.4, 200).masks(0, 200)))
    assert len(fitted) == 16  # every mask there is
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        scores = al.evaluate(tiny, data, coar, alphas=[0.4], draws=25)
    assert scores.overlap == {0.4: 25}
    exact = al.shapley(tiny, data, method="exact")
    assert al.evaluate(tiny, data, exact, alphas=[0.4], draws=25).overlap == {0.4: 25}
    assert scores.true[0.4].shape == (25, 2)
    assert "25 of 25 test masks" in caplog.text


def test_few_components_are_tested_on_the_design_that_was_asked_for(small: Host) -> None:
    """Masks that 400 draws of 8 components have not met are rare ones: with these alone, twice as much is ablated."""
    rows = small.registry("row")
    model = al.MaskedModel(small.adapter, rows.select(where=lambda c: c.name in rows.names[:8]), output=al.Logit(1))
    components = 8
    coar = al.coar(model, small.data(2), alpha=0.1, draws=400)
    source = random_design("bernoulli", components, 0.1, 300, 0, "evaluate")
    held = held_out_masks(source, {"COAR": coar})
    seen = set(keys(al.Bernoulli(components, 0.1, 400).masks(0, 400)))
    unseen = [mask for mask in source.masks(0, 300) if mask.tobytes() not in seen]
    assert np.array_equal(held.masks(0, 300), source.masks(0, 300))
    assert held.overlap == 300 - len(unseen)
    assert np.mean([~mask for mask in unseen]) > 0.2


def test_designs_are_made_again_from_the_provenance(model: al.MaskedModel, small: Host, tmp_path: Path) -> None:
    data = small.data(2)
    for design, cls in (("bernoulli", al.Bernoulli), ("subset", al.Subset), ("balanced", al.Balanced)):
        coar = al.coar(model, data, alpha=0.2, draws=50, seed=9, design=design)  # type: ignore[arg-type]
        for one in (coar, al.Attribution.load(coar.save(tmp_path / design))):
            again = design_of(one)
            assert again is not None
            assert np.array_equal(again.masks(0, 50), cls(33, 0.2, 50, 9).masks(0, 50))


def test_the_table_and_its_intervals(model: al.MaskedModel, small: Host) -> None:
    data = small.data(8)
    coar, loo = al.coar(model, data, alpha=0.1, draws=300), al.leave_one_out(model, data)
    scores = al.evaluate(model, data, {"COAR": coar, "leave-one-out": loo}, alphas=[0.05, 0.1], draws=80)
    table = scores.table()
    assert table.columns.tolist() == [
        "method",
        "alpha",
        "pearson",
        "low",
        "high",
        "spearman",
        "r2",
        "slope",
        "undefined",
    ]
    assert table["method"].tolist() == ["COAR", "leave-one-out", "COAR", "leave-one-out"]
    for _, row in table.iterrows():
        own = scores.frame[(scores.frame["method"] == row["method"]) & (scores.frame["alpha"] == row["alpha"])]
        values = own["pearson"].to_numpy()
        assert len(values) == 8
        assert abs(row["pearson"] - values.mean()) < 1e-12
        theirs = stats.bootstrap((values,), np.mean, method="percentile", random_state=0).confidence_interval
        spread = theirs.high - theirs.low
        assert abs(row["low"] - theirs.low) < 0.3 * spread
        assert abs(row["high"] - theirs.high) < 0.3 * spread
    assert "COAR" in repr(scores)
    single = al.evaluate(model, data.take([0]), al.coar(model, data.take([0]), alpha=0.1, draws=200), draws=60).table()
    assert single["low"][0] < single["pearson"][0] < single["high"][0]  # over draws


def test_what_does_not_belong_together_is_refused(model: al.MaskedModel, tiny: al.MaskedModel, small: Host) -> None:
    data = small.data(3)
    loo = al.leave_one_out(model, data)
    for call, match in [
        (lambda: al.evaluate(model, data, {}), "nothing to evaluate"),
        (lambda: al.evaluate(model, data, loo, draws=2), "at least 3"),
        (lambda: al.evaluate(tiny, data, loo), "another registry"),
        (lambda: al.evaluate(model, small.data(2), loo), "3 examples, the data has 2"),
        (lambda: al.evaluate(model, data, loo, alphas=[0.0]), "alpha"),
        (lambda: al.evaluate(model, data, loo, alphas=[1e-4]), "smallest alpha"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()


def test_what_cannot_be_evaluated_is_refused(small: Host) -> None:
    registry = small.registry("row")
    model = al.MaskedModel(small.adapter, registry, output=al.Logit(1))
    data = small.data(3)
    loo = al.leave_one_out(model, data)
    with pytest.raises(al.InputError, match="is of other data"):
        al.evaluate(model, small.data(3, seed=1), loo, alphas=0.2, draws=5)
    with pytest.raises(al.InputError, match="alphas"):
        al.evaluate(model, data, loo, alphas=[], draws=5)
    for nothing in ({}, {"weights": loo.weights}, [loo]):
        with pytest.raises((al.InputError, TypeError), match="give attributions by name|type"):
            al.evaluate(model, data, nothing, draws=5)  # type: ignore[arg-type]
    for alphas in (np.float32(0.25), np.array([0.25])):
        table = al.evaluate(model, data, loo, alphas=alphas, draws=5).table()  # type: ignore[arg-type]
        assert table["alpha"].tolist() == [0.25]


def test_another_output_or_other_weights_are_said(small: Host, caplog: pytest.LogCaptureFixture) -> None:
    data, registry = small.data(2), small.registry("row")
    model = al.MaskedModel(small.adapter, registry, output=al.Logit(1))
    loo = al.leave_one_out(model, data)
    own: Any = loo.provenance["model"]
    changed = replace(loo, provenance={**loo.provenance, "model": {**own, "fingerprint": "another"}})
    moved = replace(loo, provenance={**loo.provenance, "model": {**own, "host": "another", "fingerprint": "another"}})
    for one, on, words in (
        (loo, model, ""),
        (moved, model, ""),
        (changed, model, "made with another model"),
        (loo, model.having(output=al.Logit(2)), "made with another output"),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ablationlens"):
            al.evaluate(on, data, one, alphas=[0.3], draws=10)
        assert (words in caplog.text) if words else not caplog.text
