"""Leave-one-out against edited weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import Host


def test_weights_are_the_effects_of_editing_each_weight(host: Host) -> None:
    registry = host.registry("head" if host.transformer else "column")
    inputs = host.inputs(3)
    output = al.Logit(2)
    data = al.batch(inputs)
    loo = al.leave_one_out(al.MaskedModel(host.adapter, registry, output=output), data)
    full = output(models.logits_of(host.reference, inputs), data)
    for column, component in enumerate(registry):
        without = output(models.logits_of(models.edited(host.reference, [component]), inputs), data)
        assert np.abs(loo.weights.values[:, column] - (full - without).numpy()).max() < 1e-5 * max(
            1, float(full.abs().max())
        )
    assert np.abs(loo.predict(np.ones(len(registry)))[0] - full.numpy()).max() < 1e-5 * max(1, float(full.abs().max()))
    assert loo.provenance["draws"] == len(registry) + 1


def test_outputs_that_are_not_finite_are_counted(small: Host) -> None:
    registry = small.registry("row")
    data = small.data(3)
    clean = al.leave_one_out(al.MaskedModel(small.adapter, registry, output=al.Logit(1)), data)
    worst = int(np.abs(clean.weights.values[0]).argmax())
    value = float(clean.provenance["full_output"][0] - clean.weights.values[0, worst])
    model = al.MaskedModel(
        small.adapter,
        registry,
        output=lambda logits: torch.where((logits[:, 1] - value).abs() < 1e-5, torch.nan, logits[:, 1]),
    )
    loo = al.leave_one_out(model, data)
    assert loo.provenance["quarantined_outputs"] == 1
    assert np.argwhere(np.isnan(loo.weights.values)).tolist() == [[0, worst]]
    assert np.isfinite(loo.bias.values).all()
    assert np.isfinite(loo.predict(np.zeros(len(registry)))).all()


def test_a_store_resumes_and_is_not_a_coar_store(small: Host, tmp_path: Path) -> None:
    model, data = al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1)), small.data(3)
    first = al.leave_one_out(model, data, store=tmp_path)
    next(iter(sorted((tmp_path / "blocks").iterdir()))).unlink()
    again = al.leave_one_out(model, data, store=tmp_path)
    assert np.array_equal(first.weights.values, again.weights.values)
    with pytest.raises(al.StoreError, match=r"masks\.design"):
        al.coar(model, data, alpha=0.2, draws=50, store=tmp_path)
