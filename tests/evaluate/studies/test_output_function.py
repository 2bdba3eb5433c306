"""What is measured: weights that are known for each output, and outputs of masks run one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

import ablationlens as al
from ablationlens import studies
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted
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


def value(logits: Tensor) -> Tensor:
    return logits[:, 0]


def fallen(logits: Tensor) -> Tensor:
    return -2 * logits[:, 0]


def squared(logits: Tensor) -> Tensor:
    return (logits[:, 0] - 1) ** 2


OUTPUTS = {"value": value, "fallen": fallen, "squared": squared}
SEEDS = {"value": 10, "fallen": 20, "squared": 30}


def by_output(model: al.MaskedModel, data: al.Batch, *, alpha: float) -> al.Attribution:
    """Weights that say of which output they are."""
    name = str(model.output.describe()["function"]["name"]).rpartition(".")[2]
    return weighted(model, data, noisy(alpha, 9, SEEDS[name]))


def small_study(**options: object) -> studies.OutputFunction:
    settings = {"outputs": OUTPUTS, "alpha": 0.2, "method": by_output, "draws": 30, **options}
    return studies.output_function(interacting(), scales(1, -2, 0.5), **settings)  # type: ignore[arg-type]


def test_each_output_is_attributed_and_tested_by_itself() -> None:
    study, data, model = small_study(seed=2), scales(1, -2, 0.5), interacting()
    table = study.table()
    assert table["output"].tolist() == list(OUTPUTS)
    for name, output in OUTPUTS.items():
        own = al.MaskedModel(model.adapter, model.registry, model.ablation, output)
        masks, outputs = held_out(own, data, 0.2, 30, seed=2)
        expected = scipys(masks, outputs, noisy(0.2, 9, SEEDS[name]))
        similar = cosine(noisy(0.2, 9, SEEDS[name]), noisy(0.2, 9, SEEDS["value"]))
        rows = rows_where(study.frame, output=name)
        np.testing.assert_allclose(rows["pearson"], expected, atol=1e-4)
        np.testing.assert_allclose(rows["cosine"], similar, atol=1e-9)
        (row,) = rows_where(table, output=name).to_dict("records")
        assert row["pearson"] == pytest.approx(expected.mean(), abs=1e-4)
        assert row["cosine"] == pytest.approx(similar)
        assert (row["cosine_low"], row["cosine_high"]) == pytest.approx((similar, similar))
    assert table.columns.tolist()[-4:] == ["cosine", "cosine_low", "cosine_high", "undefined"]
    assert list(study.provenance["output"]) == list(OUTPUTS)


def test_an_output_that_falls_has_the_opposite_weights() -> None:
    study = studies.output_function(
        additive(), scales(1, 2), outputs={"value": value, "fallen": fallen}, alpha=0.1, fit_draws=600, draws=60
    )
    first, second = study.table().to_dict("records")
    assert first["cosine"] == pytest.approx(1)
    assert second["cosine"] < -0.99
    assert min(first["pearson"], second["pearson"]) > 0.99  # each on its own output, not on that of the other


def test_by_default_three_outputs_of_labels(small: Host) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"))
    data = al.batch(small.inputs(3), labels=[1, 0, 4])
    study = studies.output_function(model, data, alpha=0.1, fit_draws=200, draws=30)
    assert study.table()["output"].tolist() == ["margin", "label logit", "cross-entropy"]
    assert study.table()["cosine"].tolist()[2] < 0  # a loss falls where a margin rises
    with pytest.raises(al.InputError, match="label"):
        studies.output_function(model, small.data(3), alpha=0.1, fit_draws=5, draws=5)


def test_an_output_that_does_not_vary_is_counted() -> None:
    def nothing(logits: Tensor) -> Tensor:
        return 0 * logits[:, 1]

    def method(model: al.MaskedModel, data: al.Batch, *, alpha: float) -> al.Attribution:
        return weighted(model, data, effects())

    study = studies.output_function(
        additive(), scales(1, 2), outputs={"value": value, "nothing": nothing}, alpha=0.2, method=method, draws=9
    )
    first, second = study.table().to_dict("records")
    assert (first["undefined"], second["undefined"]) == (0, 2)
    assert np.isnan(second["pearson"])


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = additive()
    run = rows_run(model, monkeypatch)
    study = studies.output_function(model, scales(1, 2), outputs=OUTPUTS, alpha=0.2, fit_draws=20, draws=7)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 3 * (3 * 20 + 1 + 7) * 2


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = small_study()
    back = studies.OutputFunction.load(study.save(tmp_path / "study.safetensors"))
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
        ({"outputs": {}}, r"outputs go by name, outputs=\{'margin': al.Margin\(\)"),
        ({"draws": 2}, "at least 3"),
        ({"alpha": 1e-4}, "ablates 0.00 of 40"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        small_study(**options)


def test_the_models_own_output_is_not_used() -> None:
    own, other = game([1.0, 2.0, 3.0]), game([1.0, 2.0, 3.0])
    other = al.MaskedModel(other.adapter, other.registry, other.ablation, squared)
    found = [
        studies.output_function(each, scales(1), outputs={"value": value}, alpha=0.3, fit_draws=9, draws=9).frame
        for each in (own, other)
    ]
    pd.testing.assert_frame_equal(*found)
