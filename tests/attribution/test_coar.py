"""COAR from the front door."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import ablationlens as al
from tests.conftest import Host


@pytest.fixture
def model(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))


@pytest.mark.parametrize("design", ["bernoulli", "balanced"])
def test_least_squares_is_sklearns_linear_regression(model: al.MaskedModel, small: Host, design: str) -> None:
    data = small.data(3)
    coar = al.coar(model, data, alpha=0.2, draws=200, seed=6, solver="least_squares", design=design)  # type: ignore[arg-type]
    masks = {"bernoulli": al.Bernoulli, "balanced": al.Balanced}[design](len(model.registry), 0.2, 200, 6)
    x, y = masks.masks(0, 200).astype(float), model.sweep(masks, data).double().numpy()
    theirs = LinearRegression().fit(x, y)
    if design == "bernoulli":
        assert np.abs(coar.weights.values - theirs.coef_).max() < 1e-6
        assert np.abs(coar.bias.values - theirs.intercept_).max() < 1e-6
    assert np.abs(coar.predict(x) - theirs.predict(x)).max() < 1e-5


def test_subsets_fix_the_level_by_the_output_with_everything_kept(model: al.MaskedModel, small: Host) -> None:
    data = small.data(3)
    coar = al.coar(model, data, alpha=0.2, draws=300, design="subset", solver="least_squares")
    full = model(torch.ones(1, len(model.registry)), data).numpy()
    assert np.abs(coar.bias.values + coar.weights.values.sum(1) - full).max() < 1e-5
    assert np.abs(coar.predict(np.ones(len(model.registry)))[0] - full).max() < 1e-5
    assert "all kept" in coar.provenance["level"]
    free = al.coar(model, data, alpha=0.2, draws=300, solver="least_squares")
    # not shifted by a common constant: the mean weight is about that of independent masks
    assert abs(coar.weights.values.mean() - free.weights.values.mean()) < 0.25 * np.abs(free.weights.values).mean()


def test_the_result_is_labelled(model: al.MaskedModel, small: Host) -> None:
    coar = al.coar(model, small.data(3), alpha=0.2, draws=100)
    assert coar.weights.dims == ("example", "component")
    assert coar.weights["component"].values.tolist() == list(model.registry.names)
    by_layer = coar.weights.groupby("layer").mean()
    assert by_layer.sizes["layer"] == 3
    first = coar.weights.values[:, :16].mean()
    assert abs(float(by_layer.sel(layer=0).mean()) - first) < 1e-12
    json.dumps(coar.provenance)
    for key in (
        "design",
        "alpha",
        "draws",
        "seconds",
        "fit_seconds",
        "seed",
        "solver",
        "rank",
        "condition",
        "penalty",
        "masks",
        "model",
        "packages",
    ):
        assert key in coar.provenance


def test_a_store_gives_the_same_and_keeps_the_attribution(
    model: al.MaskedModel, small: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = small.data(3)
    options = {"alpha": 0.2, "draws": 120, "seed": 1}
    plain = al.coar(model, data, **options)
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        stored = al.coar(model, data, store=tmp_path, **options)
    assert "COAR: 120 masks x 3 examples = 360 forward rows" in caplog.text
    resumed = al.coar(model, data, store=tmp_path, **options)
    assert np.array_equal(resumed.weights.values, stored.weights.values)
    assert np.abs(plain.weights.values - stored.weights.values).max() < 1e-5
    loaded = al.Attribution.load(tmp_path / "attribution.safetensors")
    assert np.array_equal(loaded.weights.values, stored.weights.values)
    with pytest.raises(al.StoreError, match="seed"):
        al.coar(model, data, store=tmp_path, **{**options, "seed": 2})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": 0.001}, "smallest alpha that gives one is 0.015"),
        ({"solver": "elastic"}, "ridge.*least_squares.*lasso"),
        ({"design": "sobol"}, "bernoulli.*subset.*balanced"),
        ({"draws": 33, "solver": "least_squares"}, "34"),
        ({"draws": 5}, "10"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, options: dict, match: str, tmp_path: Path
) -> None:
    def run(*args: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(small.adapter, "run", run)
    with pytest.raises((al.InputError, TypeError), match=match):
        al.coar(model, small.data(3), **{"alpha": 0.2, "draws": 60, "store": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_outputs_that_are_not_finite_are_left_out_and_counted(small: Host, caplog: pytest.LogCaptureFixture) -> None:
    registry = small.registry("row")

    data = small.data(2)
    clean = al.MaskedModel(small.adapter, registry, output=al.Logit(1))
    design = al.Bernoulli(len(registry), 0.2, 200)
    values = clean.sweep(design, data)
    limit = float(values.quantile(0.97))
    broken = al.MaskedModel(
        small.adapter, registry, output=lambda logits: torch.where(logits[:, 1] > limit, torch.nan, logits[:, 1])
    )
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        coar = al.coar(broken, data, alpha=0.2, draws=200, solver="least_squares")
    lost = int((values > limit).sum())
    assert lost > 3
    assert coar.provenance["quarantined_outputs"] == lost
    assert "not finite" in caplog.text
    masks = design.masks(0, 200).astype(float)
    for example in range(2):
        kept = (values[:, example] <= limit).numpy()
        theirs = LinearRegression().fit(masks[kept], values[kept, example].double().numpy())
        assert np.abs(coar.weights.values[example] - theirs.coef_).max() < 1e-5
    nothing = al.MaskedModel(small.adapter, registry, output=lambda logits: logits[:, 1] * torch.nan)
    with pytest.raises(al.InputError, match="no example has enough finite outputs"):
        al.coar(nothing, data, alpha=0.2, draws=100)


CALLS = {
    "coar(design=5)": "type design='bernoulli'",
    "coar(design=5, alpha=None)": "type design='bernoulli'",
    "coar(design=al.Subset)": "type design='subset'",
    "coar(design=['bernoulli'])": "type design='bernoulli'",
    "coar(design=al.spd.Stochastic)": "design=al.spd.Stochastic(decomposition)",
    "coar(solver=['ridge'])": "type solver='ridge'",
    "coar(solver=5)": "type solver='ridge'",
    "coar(store=5)": "a store is a directory, by its path, such as 'runs/first'; got 5",
    "coar(store='')": "a store is a directory",
}
"""What a user types by mistake, and what is said of it."""

PREPARED = """
import json, sys
import torch
import ablationlens as al
from tests import models
adapter = al.adapt(models.mlp(), example=models.inputs_of("mlp", 1))
model, data, passes = al.MaskedModel(adapter, adapter.registry("row")), al.batch(models.inputs_of("mlp", 2)), []
adapter.model.register_forward_hook(lambda *_: passes.append(1))
def coar(**options):
    return al.coar(model, data, **{"alpha": 0.2, "draws": 20, "show_bar": False, **options})
found = []
for line in json.loads(sys.stdin.read()):
    try:
        eval(line)
        found.append("")
    except al.InputError as error:
        found.append(str(error))
print(json.dumps([found, len(passes)]))
"""


def test_options_of_another_kind_are_refused_before_anything_runs() -> None:
    """In a process of its own, without the type checks of the tests, which would be there first."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARED],
        input=json.dumps(list(CALLS)),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    said, passes = json.loads(done.stdout.splitlines()[-1])
    for (call, expected), message in zip(CALLS.items(), said, strict=True):
        assert expected in message, f"{call}: {message}"
    assert passes == 0
