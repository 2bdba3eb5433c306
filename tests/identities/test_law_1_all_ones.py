"""Law 1: an all-ones mask is bit-equal to the unmodified model, the user's own hooks included; all-zeros changes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import Host


def ablations(host: Host) -> list[al.Ablation]:
    data = host.data(4, seed=1)
    return [al.Zero(), al.Scale(0.3), al.Counterfactual(data)]


def test_all_ones_is_bit_equal_to_the_unmodified_model(host_and_kind: tuple[Host, str]) -> None:
    host, kind = host_and_kind
    registry, inputs = host.registry(kind), host.inputs()
    data = al.batch(inputs)
    expected = models.logits_of(host.adapter.model, inputs)
    for ablation in ablations(host):
        model = al.MaskedModel(host.adapter, registry, ablation)
        assert torch.equal(model.logits(torch.ones(1, len(registry)), data), expected), ablation
        assert torch.equal(model.logits(torch.ones(4, len(registry)), data), expected), ablation
        assert torch.equal(model.logits(model.mask(), data), expected), ablation
        changed = model.logits(torch.zeros(4, len(registry)), data)
        distance = [models.distance(changed[row], expected[row]) for row in range(4)]
        assert min(distance) > 1e-3, (ablation, distance)


def test_all_ones_is_bit_equal_under_gradients_and_by_position(host: Host) -> None:
    registry, inputs = host.registry("row"), host.inputs()
    data, expected = al.batch(inputs), models.logits_of(host.adapter.model, inputs)
    model = al.MaskedModel(host.adapter, registry)
    mask = torch.ones(4, len(registry), requires_grad=True)
    with torch.enable_grad():
        logits = model.logits(mask, data)
    assert logits.requires_grad
    assert torch.equal(logits.detach(), expected)
    if host.transformer:
        assert torch.equal(model.logits(torch.ones(4, 7, len(registry)), data), expected)


@pytest.mark.parametrize("when", ["hooked_before_adapt", "hooked_after_adapt"])
@pytest.mark.parametrize("holder", ["torch", "nnsight"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_all_ones_is_bit_equal_to_the_users_own_hooked_model_in_torch(name: str, holder: str, when: str) -> None:
    held = models.held_by(holder, models.MODELS[name]())
    model = getattr(held, "_module", held)
    layers = model.transformer.h if name == "gpt2" else model.model.layers
    inputs = models.inputs_of(name)
    plain = models.logits_of(model, inputs)
    adapter = al.adapt(held) if when == "hooked_after_adapt" else None
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def halve_the_mlp(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        kept.append((output, output.clone()))
        return 0.5 * output if module is layers[0].mlp else output

    layers[0].mlp.register_forward_hook(halve_the_mlp)
    out = layers[1].mlp.c_proj if name == "gpt2" else layers[1].mlp.down_proj
    out.register_forward_hook(halve_the_mlp)  # on a module that is cut itself
    expected = models.logits_of(model, inputs)
    assert not torch.equal(plain, expected)
    adapter = adapter or al.adapt(held)
    registry = adapter.registry("row")
    masked = al.MaskedModel(adapter, registry)
    kept.clear()
    data = al.batch(inputs)
    assert torch.equal(masked.logits(torch.ones(4, len(registry)), data), expected)
    masked.logits(torch.zeros(4, len(registry)), data)
    # what the user's hook has kept is not edited under their hands
    assert len(kept) == 4
    assert all(torch.equal(tensor, then) for tensor, then in kept)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_all_ones_is_bit_equal_to_the_users_own_hooked_bridge(name: str) -> None:
    bridge = models.bridge_of(models.MODELS[name]())
    inputs = models.inputs_of(name)
    plain = models.logits_of(bridge, inputs)
    adapter = al.adapt(bridge)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def halve(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append((value, value.clone()))
        return 0.5 * value

    def look(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append((value, value.clone()))
        return value

    bridge.add_hook("blocks.0.hook_mlp_out", halve)
    bridge.add_hook("blocks.1.mlp.out.hook_out", look)  # a hook point that is cut itself
    expected = models.logits_of(bridge, inputs)
    assert not torch.equal(plain, expected)
    registry = adapter.registry("row")
    masked = al.MaskedModel(adapter, registry)
    seen.clear()
    data = al.batch(inputs)
    assert torch.equal(masked.logits(torch.ones(4, len(registry)), data), expected)
    masked.logits(torch.zeros(4, len(registry)), data)
    assert len(seen) == 4
    assert all(torch.equal(tensor, then) for tensor, then in seen)


def test_an_ablation_elsewhere_keeps_the_users_hook(gpt2: Host) -> None:
    """Hooked and ablated equals hooked and edited."""
    model = gpt2.fresh()
    adapter = al.adapt(model)
    registry = adapter.registry("head")
    off = [registry[registry.column("L1.head 2")]]
    edited_first = models.edited(gpt2.reference, off)
    edited_first.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: 0.5 * out)
    if gpt2.host != "transformer_lens":
        model = getattr(model, "_module", model)  # nnsight leaves a module's own hooks to PyTorch
        model.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: 0.5 * out)
    else:
        model.add_hook("blocks.0.hook_mlp_out", lambda value, hook: 0.5 * value)
    inputs = gpt2.inputs()
    masked = al.MaskedModel(adapter, registry)
    got = masked.logits(masked.mask(off=off), al.batch(inputs))
    assert models.close(got, models.logits_of(edited_first, inputs))
