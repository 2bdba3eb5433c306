"""Attribution patching: where it is exact, where it is not, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.attribution import activation_patching, attribution_patching
from tests import models
from tests.conftest import HOSTS, Host
from tests.passes import before_each_pass


def output(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().flatten(1)[:, ::5].sum(1) / 5


def additive(holder: str, name: str, kind: str) -> al.MaskedModel:
    """Parts of the last MLP's output matrix, with nothing that is not linear after it: the final norm is skipped."""
    held = models.held_by(holder, models.MODELS[name]())
    original = models.module_in(held)
    norm = original.transformer.ln_f if name == "gpt2" else original.model.norm
    norm.register_forward_hook(lambda module, args, out: args[0])
    adapter = al.adapt(held)
    options = {"modules": ["mlp.out"]} if kind == "row" else {}
    return al.MaskedModel(adapter, adapter.registry(kind, layers=[1], **options), output=output)


CASES = [(holder, name, kind, False) for holder in HOSTS for name in ("gpt2", "llama") for kind in ("row", "neuron")]
CASES += [(holder, "llama", "row", True) for holder in HOSTS] + [("torch", "gpt2", "row", True)]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("holder", "name", "kind", "by_position"), CASES)
def test_on_an_additive_function_both_methods_agree(
    holder: str, name: str, kind: str, by_position: bool, direction: Any
) -> None:
    model = additive(holder, name, kind)
    data = al.batch(models.inputs_of(name, 2))
    bad = data.like(models.inputs_of(name, 2, seed=5))
    exact = activation_patching(model, data, bad, direction=direction, by_position=by_position, rows=256)
    first_order = attribution_patching(model, data, bad, direction=direction, by_position=by_position)
    scale = max(1.0, np.abs(exact.weights.values).max())
    assert np.abs(exact.weights.values).max() > 1e-2
    assert np.abs(exact.weights.values - first_order.weights.values).max() < 1e-5 * scale
    # rounding in the output of the input that is run is in every difference, and the bias sums them
    cells = exact.weights[0].size
    assert np.abs(exact.bias.values - first_order.bias.values).max() < 1e-5 * scale + 5e-6 * cells


def test_on_a_real_model_they_differ_and_so_do_the_directions(torch_gpt2: Host) -> None:
    """What makes the agreement above mean something."""
    model, data = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head")), torch_gpt2.data(3)
    bad = data.like(torch_gpt2.inputs(3, seed=5))
    found = [
        method(model, data, bad, direction=direction).weights.values
        for method in (activation_patching, attribution_patching)
        for direction in ("denoising", "noising")
    ]
    for one in range(4):
        for other in range(one):
            assert np.abs(found[one] - found[other]).max() > 1e-2


def test_positions_sum_to_the_component(gpt2: Host) -> None:
    model, data = al.MaskedModel(gpt2.adapter, gpt2.registry("head")), gpt2.data(3)
    bad = data.like(gpt2.inputs(3, seed=5))
    for direction in ("denoising", "noising"):
        whole = attribution_patching(model, data, bad, direction=direction)
        parts = attribution_patching(model, data, bad, direction=direction, by_position=True)
        assert np.abs(parts.total().weights.values - whole.weights.values).max() < 1e-5
        assert np.abs(parts.bias.values - whole.bias.values).max() < 1e-5
        assert np.abs(parts.weights.values).max() > 1e-2


def test_it_costs_one_backward_pass_however_many_components(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("row")), torch_gpt2.data(3)
    bad = data.like(torch_gpt2.inputs(3, seed=5))
    runs: list[bool] = []
    before_each_pass(torch_gpt2.adapter, monkeypatch, lambda batch: runs.append(torch.is_grad_enabled()))
    attribution_patching(model, data, bad)
    assert sorted(runs) == [
        False,
        False,
        True,
    ]  # the activations and the output of the other input; the one that is run


def test_an_output_without_a_gradient_is_refused(small: Host) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), output=lambda logits: logits[:, 0].detach())
    data = small.data(3)
    with pytest.raises(al.InputError, match="no gradient in the mask"):
        attribution_patching(model, data, data.like(small.inputs(3, seed=5)))


def test_gradients_that_are_not_finite_are_counted(small: Host) -> None:
    data = small.data(3)

    def output(logits: torch.Tensor) -> torch.Tensor:
        scores = logits[:, 1]
        if scores.requires_grad:
            scores.register_hook(lambda gradient: gradient * torch.tensor([1.0, torch.nan, 1.0]))
        return scores

    model = al.MaskedModel(small.adapter, small.registry("row"), output=output)
    for direction in ("denoising", "noising"):
        found = attribution_patching(model, data, data.like(small.inputs(3, seed=5)), direction=direction)
        assert np.isnan(found.weights.values).any(1).tolist() == [False, True, False]
        assert np.isfinite(found.weights.values[[0, 2]]).all()
        assert found.provenance["quarantined_outputs"] == 1
        assert np.isfinite(found.bias.values).all()
    broken = al.MaskedModel(
        small.adapter,
        small.registry("row"),
        output=lambda logits: logits[:, 1] + torch.tensor([0.0, 0.0, torch.inf]),  # whose gradient is finite
    )
    found = attribution_patching(broken, data, data.like(small.inputs(3, seed=5)))
    assert np.isnan(found.weights.values).all(1).tolist() == [False, False, True]
    assert found.provenance["quarantined_outputs"] == 1
