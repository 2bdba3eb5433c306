"""Gradient x parameter and integrated gradients against captum on gate functions written by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.attribution import gradient_x_parameter, integrated_gradients
from tests.attribution.gates import gated_heads, gated_mlp, last_logit, spread
from tests.conftest import HOSTS, Host, host_of
from tests.passes import before_each_pass


def rows_and_gates(small: Host) -> tuple[al.MaskedModel, al.Batch, object]:
    inputs = small.inputs(3)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=last_logit)
    return model, al.batch(inputs), gated_mlp(small.reference, inputs, last_logit)


@pytest.mark.parametrize("steps", [1, 5, 32])
def test_integrated_gradients_are_captums(small: Host, steps: int) -> None:
    model, data, gates = rows_and_gates(small)
    theirs = captum.attr.IntegratedGradients(gates).attribute(torch.ones(3, 33), n_steps=steps)
    ours = integrated_gradients(model, data, steps=steps)
    assert np.abs(ours.weights.values - theirs.numpy()).max() < 1e-5
    assert np.abs(ours.weights.values).max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
def test_on_heads_of_every_host_both_are_captums(holder: str, name: str) -> None:
    host = host_of(holder, name)
    inputs, registry = host.inputs(3), host.registry("head")
    model, data = al.MaskedModel(host.adapter, registry, output=spread), al.batch(inputs)
    gates, ones = gated_heads(host.reference, inputs, spread), torch.ones(3, len(registry))
    theirs = captum.attr.IntegratedGradients(gates).attribute(ones, n_steps=16).numpy()
    assert np.abs(integrated_gradients(model, data, steps=16).weights.values - theirs).max() < 1e-5
    slope = captum.attr.Saliency(gates).attribute(ones.requires_grad_(), abs=False).numpy()
    assert np.abs(gradient_x_parameter(model, data).weights.values - slope).max() < 1e-5
    assert np.abs(theirs - slope).max() > 1e-2  # they are two things


def test_gradient_x_parameter_is_captums_gradient(small: Host) -> None:
    model, data, gates = rows_and_gates(small)
    theirs = captum.attr.InputXGradient(gates).attribute(torch.ones(3, 33, requires_grad=True))
    ours = gradient_x_parameter(model, data)
    assert np.abs(ours.weights.values - theirs.detach().numpy()).max() < 1e-5
    full = small.reference(small.inputs(3))[:, 2].detach().numpy()
    assert np.abs(ours.predict(np.ones(33))[0] - full).max() < 1e-5


def test_the_gap_of_integrated_gradients_is_measured(small: Host, caplog: pytest.LogCaptureFixture) -> None:
    model, data, gates = rows_and_gates(small)
    with torch.no_grad():
        change = (gates(torch.ones(3, 33)) - gates(torch.zeros(3, 33))).numpy()  # type: ignore[operator]
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        fine = integrated_gradients(model, data)
        assert not caplog.records
        coarse = integrated_gradients(model, data, steps=1)
    assert "more than steps=1" in caplog.text
    for found in (fine, coarse):
        gap = found.weights.values.sum(1) - change
        assert np.abs(gap - found.provenance["completeness_gap"]).max() < 1e-5
    assert np.abs(fine.provenance["completeness_gap"]).max() < 1e-5
    assert np.abs(coarse.provenance["completeness_gap"]).max() > 1e-2
    full, empty = fine.provenance["full_output"], fine.provenance["empty_output"]
    assert np.abs(np.subtract(full, empty) - change).max() < 1e-5
    assert np.abs(fine.predict(np.ones(33))[0] - full).max() < 1e-5
    assert np.abs(fine.predict(np.zeros(33))[0] - empty).max() < 1e-5


def test_they_cost_what_they_say(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, _ = rows_and_gates(small)
    rows: list[int] = []
    before_each_pass(small.adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    gradient_x_parameter(model, data)
    assert sum(rows) == 3
    rows.clear()
    integrated_gradients(model, data, steps=7)
    assert sum(rows) == (7 + 2) * 3


def test_rows_of_a_pass_change_nothing(small: Host) -> None:
    model, data, _ = rows_and_gates(small)
    for method in (gradient_x_parameter, integrated_gradients):
        whole = method(model, data)
        for rows in (1, 2, 5):
            assert np.abs(method(model, data, rows=rows).weights.values - whole.weights.values).max() < 1e-5


def test_what_is_not_finite_is_nan_and_counted(small: Host, caplog: pytest.LogCaptureFixture) -> None:
    registry, data = small.registry("row"), small.data(3)
    clean = al.MaskedModel(small.adapter, registry, output=last_logit)
    first = data.inputs["input"][:, 0]

    def broken(logits: Tensor, batch: al.Batch) -> Tensor:
        """The second example has no output; the third an infinite slope in one logit, where it takes a root of 0."""
        own = batch.inputs["input"][:, 0]
        lost = torch.where(own == first[1], torch.nan, 0.0)
        third = (own == first[2]).nonzero()[:, 0]
        root = (logits[third, 3] - logits[third, 3].detach()).clamp(0).sqrt()
        return (last_logit(logits) + lost).index_add(0, third, root)

    model = al.MaskedModel(small.adapter, registry, output=broken)
    for method in (gradient_x_parameter, integrated_gradients):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ablationlens"):
            found, same = method(model, data).weights.values, method(clean, data)
        assert "not finite" in caplog.text
        assert np.isnan(found[1]).all()
        assert np.isnan(found[2]).any()
        assert np.abs(found[0] - same.weights.values[0]).max() < 1e-6
    assert gradient_x_parameter(model, data).provenance["quarantined_outputs"] == 2


def test_they_are_labelled_and_kept(small: Host, tmp_path: Path) -> None:
    model, data, _ = rows_and_gates(small)
    for method, name in (
        (gradient_x_parameter, "gradient x parameter"),
        (integrated_gradients, "integrated gradients"),
    ):
        found = method(model, data)
        assert found.method == name == found.provenance["method"]
        assert found.components == model.registry.names
        json.dumps(found.provenance)
        for key in ("draws", "full_output", "model", "registry", "ablation", "output", "data", "packages", "seconds"):
            assert key in found.provenance
        loaded = al.Attribution.load(found.save(tmp_path / f"{name}.safetensors"))
        assert np.array_equal(loaded.weights.values, found.weights.values)


def test_bad_input_is_refused(small: Host) -> None:
    model, data, _ = rows_and_gates(small)
    for steps in (0, -1, True, 2.5, "3"):
        with pytest.raises((al.InputError, TypeError), match="steps"):
            integrated_gradients(model, data, steps=steps)  # type: ignore[arg-type]
    blind = al.MaskedModel(small.adapter, model.registry, output=lambda logits: logits.detach()[:, 1])
    for method in (gradient_x_parameter, integrated_gradients):
        with pytest.raises(al.InputError, match="no gradient"):
            method(blind, data)
