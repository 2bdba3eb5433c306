"""Law 3: d output / d mask at 1 is gradient x parameter (zero ablation), or attribution patching (counterfactual)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.attribution import attribution_patching
from ablationlens.sites import Site
from tests import models
from tests.conftest import HOSTS, Host, host_of


def scalar(logits: Tensor) -> Tensor:
    """One number for each row that depends on every logit, unevenly."""
    weights = torch.linspace(-1, 1, logits[0].numel()).cos().reshape(logits.shape[1:])
    return (logits * weights).flatten(1).sum(1) / 10


def gradient_copy(model: Any, inputs: Tensor) -> Any:
    """A copy whose parameters hold the gradient of the scalar of one example."""
    own = models.untied(model)
    output = own(inputs)
    scalar(getattr(output, "logits", output)).sum().backward()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    return own


def gradient_times_parameter(model: Any, gradients: Any, site: Site, include_bias: bool) -> Tensor:
    module = {"head": "attn.o", "neuron": "mlp.out"}.get(site.kind, site.module)
    (weight, bias), (slope, slope_of_bias) = (models.part(m, site.layer, module) for m in (model, gradients))
    of_bias = slope_of_bias * bias if include_bias and bias is not None else 0
    if site.kind == "rank_one":
        V, U = site.basis.V, site.basis.U
        parts = torch.einsum("co,oi,ic->c", U, slope, V)
        remainder = (slope * (weight - (V @ U).T)).sum() + (of_bias.sum() if isinstance(of_bias, Tensor) else 0)
        return torch.cat([parts, remainder[None]])
    product = slope * weight
    if site.kind in ("head", "neuron", "column"):
        features = product.flatten(2).sum(-1).sum(0) if product.ndim > 2 else product.sum(0)
    else:
        features = product.flatten(1).sum(1) + of_bias
    return torch.stack(
        [group.sum() for group in features.split(site.basis.block if hasattr(site.basis, "block") else 1)]
    )


@pytest.mark.parametrize("include_bias", [False, True], ids=["bias_kept", "bias_too"])
def test_mask_gradient_at_one_is_gradient_times_parameter(host_and_kind: tuple[Host, str], include_bias: bool) -> None:
    host, kind = host_and_kind
    registry, inputs = host.registry(kind), host.inputs(3)
    model = al.MaskedModel(host.adapter, registry, al.Zero(include_bias=include_bias), output=scalar)
    mask = torch.ones(3, len(registry), requires_grad=True)
    (gradient,) = torch.autograd.grad(model(mask, al.batch(inputs)).sum(), mask)
    largest = 0.0
    for row in range(3):
        slopes = gradient_copy(host.reference, inputs[row : row + 1])
        with torch.no_grad():
            expected = torch.cat(
                [gradient_times_parameter(host.reference, slopes, part.site, include_bias) for part in registry.parts]
            )
        largest = max(largest, float(expected.abs().max()))
        assert models.distance(gradient[row], expected) < 1e-5
    assert largest > 1e-3


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["row", "neuron", "head", "column"])
@pytest.mark.parametrize("holder", HOSTS)
def test_attribution_patching_is_the_difference_of_activations_times_the_gradient(
    holder: str, kind: str, name: str, direction: Any
) -> None:
    host = host_of(holder, name)
    registry = host.registry(kind)
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    data = al.batch(clean)
    model = al.MaskedModel(host.adapter, registry, output=scalar)
    found = attribution_patching(model, data, data.like(corrupt), direction=direction, by_position=True)
    whole = attribution_patching(model, data, data.like(corrupt), direction=direction)

    of_clean, of_corrupt = probed(host.reference, clean), probed(host.reference, corrupt)
    expected: list[Tensor] = []
    for part in registry.parts:
        site = part.site
        module = {"head": "attn.o", "neuron": "mlp.out"}.get(site.kind, site.module)
        key = (site.layer, module, "out" if site.kind == "row" else "in")
        _, slope = (of_corrupt if direction == "denoising" else of_clean)[key]
        features = (of_clean[key][0] - of_corrupt[key][0]) * slope
        expected += [group.sum(-1) for group in features.split(site.basis.block, dim=-1)]
    by_position = torch.stack(expected, -1)
    assert models.distance(torch.tensor(found.weights.values), by_position) < 1e-5
    assert models.distance(torch.tensor(whole.weights.values), by_position.sum(1)) < 1e-5
    assert float(by_position.abs().max()) > 1e-3


@pytest.mark.parametrize("holder", HOSTS)
def test_mask_gradient_at_one_with_a_counterfactual_is_attribution_patching(holder: str) -> None:
    """In noising; what a MaskedModel gives by itself."""
    host = host_of(holder, "gpt2")
    registry, data = host.registry("head"), al.batch(host.inputs(3))
    other = data.like(host.inputs(3, seed=5))
    model = al.MaskedModel(host.adapter, registry, al.Counterfactual(other), output=scalar)
    mask = torch.ones(3, len(registry), requires_grad=True)
    (gradient,) = torch.autograd.grad(model(mask, data).sum(), mask)
    found = attribution_patching(model, data, other, direction="noising")
    assert models.distance(gradient, torch.tensor(found.weights.values).float()) < 1e-5


def probed(model: Any, inputs: Tensor) -> dict[tuple[int, str, str], tuple[Tensor, Tensor]]:
    """Every module's input and output, and the gradient of the scalar there, by hooks on an untied copy."""
    own = models.untied(model)
    names = models.GPT2_PATHS if hasattr(own, "transformer") else models.LLAMA_PATHS
    found: dict[tuple[int, str, str], tuple[Tensor, Tensor]] = {}

    def probe(key: tuple[int, str, str], value: Tensor) -> Tensor:
        zeros = torch.zeros_like(value, requires_grad=True)
        found[key] = (value.detach(), zeros)
        return value + zeros

    for layer in range(models.LAYERS):
        for name in names:
            module, _ = models.module_of(own, layer, name)
            module.register_forward_hook(lambda m, a, out, key=(layer, name, "out"): probe(key, out))
            module.register_forward_pre_hook(lambda m, a, key=(layer, name, "in"): (probe(key, a[0]), *a[1:]))
    scalar(own(inputs).logits).sum().backward()
    done = {key: (value, zeros.grad) for key, (value, zeros) in found.items()}
    for layer in range(models.LAYERS):  # projections of a fused matrix are slices of its output
        for name in ("attn.q", "attn.k", "attn.v"):
            if (layer, name, "out") not in done:
                _, rows = models.module_of(own, layer, name)
                value, slope = done[layer, "attn.qkv", "out"]
                done[layer, name, "out"] = (value[..., rows], slope[..., rows])
    return done
