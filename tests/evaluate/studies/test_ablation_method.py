"""What stands in: weights that are known under each ablation, and outputs of masks run one by one under each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens import studies
from tests.evaluate.games import scales, weighted
from tests.evaluate.studies.known import (
    additive,
    cosine,
    effects,
    held_out,
    interacting,
    noisy,
    rows_run,
    rows_where,
    scipys,
)

ABLATIONS = {"nothing": al.Zero(), "a third left": al.Scale(1 / 3)}
SEEDS = {"Zero": 10, "Scale": 20}


def by_ablation(model: al.MaskedModel, data: al.Batch, *, alpha: float) -> al.Attribution:
    """Weights that say under which ablation they were fitted."""
    return weighted(model, data, noisy(alpha, 9, SEEDS[type(model.ablation).__name__]))


def small_study(**options: object) -> studies.AblationMethod:
    settings = {"ablations": ABLATIONS, "alpha": 0.2, "method": by_ablation, "draws": 30, **options}
    return studies.ablation_method(interacting(), scales(1, -2, 0.5), **settings)  # type: ignore[arg-type]


def test_every_fit_is_tested_under_every_ablation() -> None:
    study, data = small_study(seed=2), scales(1, -2, 0.5)
    table, model = study.table(), interacting()
    names = list(ABLATIONS)
    assert table[["tested", "fitted"]].to_numpy().tolist() == [[t, f] for t in names for f in names]
    weights = {name: noisy(0.2, 9, SEEDS[type(one).__name__]) for name, one in ABLATIONS.items()}
    for tested, ablation in ABLATIONS.items():
        under = al.MaskedModel(model.adapter, model.registry, ablation, model.output)
        masks, outputs = held_out(under, data, 0.2, 30, seed=2)
        for fitted in names:
            expected = scipys(masks, outputs, weights[fitted])
            similar = cosine(weights[fitted], weights[tested])
            rows = rows_where(study.frame, fitted=fitted, tested=tested)
            np.testing.assert_allclose(rows["pearson"], expected, atol=1e-5)
            np.testing.assert_allclose(rows["cosine"], similar, atol=1e-9)
            (row,) = rows_where(table, fitted=fitted, tested=tested).to_dict("records")
            assert row["pearson"] == pytest.approx(expected.mean(), abs=1e-5)
            assert row["cosine"] == pytest.approx(similar)
    assert table.columns.tolist()[-2:] == ["cosine", "undefined"]


def test_the_default_halves_an_additive_effect() -> None:
    """Under Scale(0.5) every effect is half, so the slope is 2 one way and a half the other, and the cosine 1."""
    study = studies.ablation_method(additive(), scales(1, 2), alpha=0.1, fit_draws=600, draws=60)
    table = study.table().set_index(["fitted", "tested"])
    assert (table["pearson"] > 0.99).all()
    assert (table["cosine"] > 0.99).all()
    assert table.loc[("scale 0.5", "zero"), "slope"] == pytest.approx(2, rel=0.1)
    assert table.loc[("zero", "scale 0.5"), "slope"] == pytest.approx(0.5, rel=0.1)
    assert table.loc[("zero", "zero"), "slope"] == pytest.approx(1, rel=0.1)
    assert study.provenance["ablation"] == {"zero": al.Zero().describe(), "scale 0.5": al.Scale(0.5).describe()}


def test_the_models_own_ablation_is_not_used() -> None:
    model = interacting()
    other = al.MaskedModel(model.adapter, model.registry, al.Scale(0.9), model.output)
    studies_of_both = [
        studies.ablation_method(each, scales(1), ablations=ABLATIONS, alpha=0.2, method=by_ablation, draws=20).frame
        for each in (model, other)
    ]
    pd.testing.assert_frame_equal(*studies_of_both)


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = additive()
    run = rows_run(model, monkeypatch)
    study = studies.ablation_method(model, scales(1, 2), alpha=0.2, fit_draws=20, draws=7)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 2 * (3 * 20 + 1 + 7) * 2


def test_examples_without_a_correlation_are_counted() -> None:
    """An example of x = 0 has the same output whatever is ablated."""

    def method(model: al.MaskedModel, data: al.Batch, *, alpha: float) -> al.Attribution:
        return weighted(model, data, np.outer([1.0, 0.0], effects()))

    table = studies.ablation_method(additive(), scales(1, 0), alpha=0.2, method=method, draws=9).table()
    assert table["undefined"].tolist() == [1] * 4
    np.testing.assert_allclose(table["pearson"], 1, atol=1e-5)
    np.testing.assert_allclose(table["cosine"], 1)


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = small_study()
    back = studies.AblationMethod.load(study.save(tmp_path / "study.safetensors"))
    pd.testing.assert_frame_equal(back.frame, study.frame)
    pd.testing.assert_frame_equal(back.table(), study.table())
    assert back.provenance == json.loads(json.dumps(study.provenance))


def test_the_seed_decides() -> None:
    one, same, other = (small_study(method=al.path_gradient, fit_draws=20, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    assert (one.frame["pearson"] - other.frame["pearson"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ablations": {}}, r"ablations go by name, ablations=\{'zero': al.Zero\(\)"),
        ({"ablations": {"zero": al.Zero}}, r"ablations\['zero'\] is an ablation such as al.Zero\(\)"),
        ({"draws": 2}, "at least 3"),
        ({"alpha": 1e-4}, "ablates 0.00 of 40"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        small_study(**options)
