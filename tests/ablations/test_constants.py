"""Zero, Scale and Mean: the same value for every example."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.plan import Plan, Replacements
from ablationlens.sites import RankOne, Tap
from tests import models
from tests.conftest import Host, host_of


@pytest.mark.parametrize("kind", ["row", "head", "column", "svd"])
def test_scale_zero_is_zero_and_scale_one_is_nothing(gpt2: Host, kind: str) -> None:
    registry = gpt2.registry(kind)
    data = gpt2.data(3)
    mask = torch.rand(3, len(registry), generator=torch.Generator().manual_seed(0))
    logits = {
        gamma: al.MaskedModel(gpt2.adapter, registry, al.Scale(gamma)).logits(mask, data) for gamma in (0.0, 0.5, 1.0)
    }
    zero = al.MaskedModel(gpt2.adapter, registry, al.Zero())
    assert torch.equal(logits[0.0], zero.logits(mask, data))
    assert torch.equal(logits[1.0], models.logits_of(gpt2.adapter.model, gpt2.inputs(3)))
    assert models.close(logits[0.5], zero.logits(1 - (1 - mask) * 0.5, data))
    for gamma in (-0.1, 1.1):
        with pytest.raises(al.InputError, match="gamma"):
            al.Scale(gamma)


def test_scaled_rows_equal_scaled_weights(gpt2: Host) -> None:
    registry = gpt2.adapter.registry("row", modules=["v", "mlp.in"])
    model = al.MaskedModel(gpt2.adapter, registry, al.Scale(0.3))
    off = ["L1.mlp.in row 5", "L0.attn.v row 9"]
    own = models.untied(gpt2.reference)
    with torch.no_grad():
        for layer, module, row in ((1, "mlp.in", 5), (0, "attn.v", 9)):
            models.part(own, layer, module)[0][row] *= 0.3
    got = model.logits(model.mask(off=off), gpt2.data(3))
    assert models.close(got, models.logits_of(own, gpt2.inputs(3)))


def recorded(model: object, inputs: dict[str, Tensor], layer: int, name: str, side: str) -> Tensor:
    own = models.untied(model)
    module, rows = models.module_of(own, layer, name)
    seen: dict[str, Tensor] = {}
    module.register_forward_hook(lambda m, a, out: seen.update({"in": a[0], "out": out[..., rows]}))
    models.logits_of(own, inputs)
    return seen[side].detach()


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_mean_is_the_naive_mean_over_real_tokens(gpt2: Host, per_position: bool, side: str) -> None:
    tokens = torch.randint(0, models.VOCAB, (70, 6), generator=torch.Generator().manual_seed(2))  # more than one chunk
    lengths = torch.full((70,), 6) if side == "none" else torch.randint(2, 6, (70,))
    columns = torch.arange(6)[None]
    real = columns >= 6 - lengths[:, None] if side == "left" else columns < lengths[:, None]
    data = al.batch(tokens, attention_mask=real.long())
    taps = {Tap(1, "mlp.out", "in"): "neuron", Tap(0, "attn.k", "out"): "row"}
    registry = gpt2.adapter.registry("neuron", layers=[1]) + gpt2.adapter.registry("row", layers=[0], modules=["k"])
    found = al.Mean(data, per_position=per_position).bind(Plan(gpt2.adapter, registry), data)
    inputs = {"input_ids": tokens, "attention_mask": real.long()}
    inputs["position_ids"] = (real.long().cumsum(1) - 1).clamp(min=0)
    for tap in taps:
        activation = recorded(gpt2.reference, inputs, tap.layer, tap.module, tap.side).double().numpy()
        mine = real.numpy()
        pooled = np.mean([activation[b, t] for b in range(70) for t in range(6) if mine[b, t]], axis=0)
        if per_position:
            expected = np.stack(
                [
                    np.mean([activation[b, t] for b in range(70) if mine[b, t]], axis=0) if mine[:, t].any() else pooled
                    for t in range(6)
                ]
            )
        else:
            expected = pooled
        value = found.values[tap].double().numpy()
        assert np.abs(value - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    assert not found.per_example


def test_mean_ablation_is_the_mean_put_in_place(gpt2: Host) -> None:
    reference_data = gpt2.data(8, seed=7)
    registry = gpt2.registry("head")
    model = al.MaskedModel(gpt2.adapter, registry, al.Mean(reference_data))
    got = model.logits(model.mask(off="L1.head 3"), gpt2.data(3))
    z = recorded(gpt2.reference, {"input_ids": gpt2.inputs(8, seed=7)}, 1, "attn.o", "in")
    size = models.WIDTH // models.HEADS
    own = models.untied(gpt2.reference)

    def replace(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        changed = args[0].clone()
        changed[..., 3 * size :] = z.mean((0, 1))[3 * size :]
        return (changed, *args[1:])

    own.transformer.h[1].attn.c_proj.register_forward_pre_hook(replace)
    assert models.close(got, models.logits_of(own, gpt2.inputs(3)))


def test_mean_of_a_convolution_is_by_channel() -> None:
    host = host_of("torch", "convnet")
    images = models.inputs_of("convnet", 9, seed=4)
    registry = host.registry("filter")
    first = host.reference.first(images)
    for per_position in (False, True):
        model = al.MaskedModel(host.adapter, registry, al.Mean(al.batch(images), per_position), output=al.Logit(0))
        assert torch.isfinite(model(torch.zeros(1, len(registry)), host.data())).all()
    pooled = al.Mean(al.batch(images)).bind(Plan(host.adapter, registry), host.data())
    assert models.close(pooled.values[Tap(0, "first", "out")].flatten(), first.mean((0, 2, 3)).detach())


def test_a_mean_per_position_needs_the_same_length(gpt2: Host) -> None:
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Mean(gpt2.data(4), per_position=True))
    with pytest.raises(al.InputError, match="7 positions"):
        model(torch.ones(1, 8), al.batch(torch.zeros(2, 5, dtype=torch.long)))


@pytest.mark.parametrize("name", ["zero", "zero_with_bias", "scale", "mean", "resample", "counterfactual", "noise"])
@pytest.mark.parametrize("kind", ["row", "head", "svd"])
def test_every_ablation_is_differentiable_in_the_mask(gpt2: Host, name: str, kind: str) -> None:
    data = gpt2.data(3)
    ablation = {
        "zero": al.Zero(),
        "zero_with_bias": al.Zero(include_bias=True),
        "scale": al.Scale(0.5),
        "mean": al.Mean(gpt2.data(5, seed=3)),
        "resample": al.Resample(),
        "counterfactual": al.Counterfactual(gpt2.data(3, seed=9)),
        "noise": al.GaussianNoise(1.0),
    }[name]
    registry = gpt2.registry(kind)
    model = al.MaskedModel(gpt2.adapter, registry, ablation, output=lambda logits: logits[:, -1, :5].sum(1))
    start = torch.full((3, len(registry)), 0.7)
    mask = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(mask, data).sum(), mask)
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    step = 1e-2
    difference = (model(start + step * direction, data) - model(start - step * direction, data)).double() / (2 * step)
    slopes = (gradient * direction).sum(1).double()
    assert float((difference - slopes).abs().max()) < 0.03 * max(0.2, float(slopes.abs().max()))
    assert float(gradient.abs().max()) > 1e-4


def test_descriptions_tell_ablations_apart(gpt2: Host) -> None:
    described = [
        str(one.describe())
        for one in (
            al.Zero(),
            al.Zero(include_bias=True),
            al.Scale(0.5),
            al.Scale(0.6),
            al.Mean(gpt2.data(3)),
            al.Mean(gpt2.data(3), per_position=True),
            al.Mean(gpt2.data(4)),
            al.Resample(),
            al.Resample(seed=1),
            al.Resample(gpt2.data(3)),
            al.Counterfactual(gpt2.data(3)),
            al.Counterfactual(gpt2.data(3, seed=1)),
            al.GaussianNoise(1.0),
            al.GaussianNoise(1.0, seed=1),
            al.GaussianNoise(1.0, relative=True),
        )
    ]
    assert len(set(described)) == len(described)
    assert repr(al.Scale(0.5)) == "Scale(gamma=0.5)"


class Pixels(nn.Module):
    """Linear layers over the last of four axes, [example, height, width, feature]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(images).relu()).mean((1, 2))


@pytest.mark.parametrize("per_position", [False, True])
def test_a_mean_over_activations_with_several_axes(per_position: bool) -> None:
    model, images = Pixels(), torch.randn(6, 5, 7, 3)
    data = al.batch(images)
    adapter = al.adapt(model, example=images)
    registry = adapter.registry("row", modules=["first"])
    masked = al.MaskedModel(adapter, registry, al.Mean(data, per_position=per_position))
    hidden = model.first(images)
    mean = hidden.mean(0, keepdim=True) if per_position else hidden.mean((0, 1, 2), keepdim=True)
    expected = model.last(mean.expand_as(hidden).relu()).mean((1, 2)).detach()
    assert torch.allclose(masked.logits(torch.zeros(1, 8), data), expected, atol=1e-6)


class Shifted(al.Ablation):
    """What `Zero` gives, with other values."""

    def bind(self, plan: Plan, data: al.Batch) -> Replacements:
        found = al.Zero().bind(plan, data)
        return replace(found, values={tap: value + 0.5 for tap, value in found.values.items()})

    def describe(self) -> dict[str, object]:
        return {"ablation": "Shifted"}


def test_values_in_place_of_those_of_zero_are_taken(gpt2: Host) -> None:
    """An ablated part writes what it would for an input of 0.5 in each feature."""
    registry = gpt2.adapter.registry("rank_one", svd=3, modules=["mlp.in"], layers=[1])
    model = al.MaskedModel(gpt2.adapter, registry, Shifted())
    off = [component for component in registry if component.index < 2]
    basis = registry[0].site.basis
    assert isinstance(basis, RankOne)
    own = models.edited(gpt2.reference, off)
    module, _ = models.module_of(own, 1, "mlp.in")
    with torch.no_grad():
        module.bias += torch.full((models.WIDTH,), 0.5) @ basis.V[:, :2] @ basis.U[:2]
    assert models.close(model.logits(model.mask(off=off), gpt2.data(3)), models.logits_of(own, gpt2.inputs(3)))
