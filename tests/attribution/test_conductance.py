"""Conductance and internal influence against captum's classes on plain modules."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.attribution import conductance, internal_influence
from tests import families, models, own_sites
from tests.attribution.gates import last_logit, spread
from tests.conftest import HOSTS, Host, host_of
from tests.identities import test_law_7_the_users_model as law_7
from tests.passes import before_each_pass

METHODS: dict[str, tuple[Callable[..., al.Attribution], Any]] = {
    "conductance": (conductance, captum.attr.LayerConductance),
    "internal influence": (internal_influence, captum.attr.InternalInfluence),
}
KINDS = ("row", "row_block", "head", "neuron", "column", "matrix")


@pytest.fixture(params=list(METHODS))
def both(request: pytest.FixtureRequest) -> tuple[Callable[..., al.Attribution], Any]:
    """One of our methods, and captum's class."""
    return METHODS[request.param]


class Hand(nn.Module):
    """Hands its input on as a tensor of its own, so that captum sees one reader of an input with several."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


@cache
def features(captums: Any, name: str, layer: int, module_name: str, side: str, steps: int, start: Any = 0.0) -> Tensor:
    """Captum on one module of a plain model, summed over positions: [example, feature].

    Tokens enter as `inputs_embeds`.
    """
    own, inputs = models.untied(host_of("torch", name).reference), models.inputs_of(name, 3)
    images = inputs.is_floating_point()
    values = inputs if images else own.get_input_embeddings()(inputs).detach()

    def forward(given: Tensor) -> Tensor:
        output = own(given) if images else own(inputs_embeds=given)
        return spread(getattr(output, "logits", output))

    module, rows = models.module_of(own, layer, module_name)
    watched = module
    if side == "in":
        watched, rows = Hand(), slice(None)
        parent, _, child = next(path for path, one in own.named_modules() if one is module).rpartition(".")
        setattr(own.get_submodule(parent), child, nn.Sequential(watched, module))
    found = captums(forward, watched).attribute(values, baselines=start, n_steps=steps).detach().double()
    if isinstance(module, nn.Conv2d):
        return found.flatten(2).sum(2)
    return found[..., rows] if found.ndim == 2 else found.sum(1)[..., rows]


def through_captum(captums: Any, name: str, registry: al.Registry, steps: int, start: Any = 0.0) -> np.ndarray:
    """The same for every component: [example, component]."""
    found: list[Tensor] = []
    for part in registry.parts:
        site = part.site
        module = {"head": "attn.o", "neuron": "mlp.out"}.get(site.kind, site.module)
        side = "in" if site.kind in ("head", "neuron", "column") else "out"
        own = features(captums, name, site.layer, module, side, steps, start)
        found += [own[:, list(site.basis.members(index))].sum(1) for index in part.indices]
    return torch.stack(found, 1).numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
def test_on_every_host_and_kind_they_are_captums(both: tuple[Any, Any], holder: str, name: str) -> None:
    host, (ours, captums) = host_of(holder, name), both
    for kind in KINDS:
        registry = host.adapter.registry(kind, layers=[1], **({"size": 5} if kind == "row_block" else {}))
        found = ours(al.MaskedModel(host.adapter, registry, output=spread), host.data(3), steps=6)
        theirs = through_captum(captums, name, registry, 6)
        scale = max(1.0, np.abs(theirs).max())
        assert np.abs(found.weights.values - theirs).max() < 1e-5 * scale, kind
        assert np.abs(theirs).max() > 1e-2


@pytest.mark.parametrize("kind", ["filter", "column", "matrix"])
@pytest.mark.parametrize("holder", ["torch", "nnsight"])
def test_on_images_they_are_captums(both: tuple[Any, Any], holder: str, kind: str) -> None:
    host, (ours, captums) = host_of(holder, "convnet"), both
    registry = host.registry(kind)
    model = al.MaskedModel(host.adapter, registry, output=spread)
    baseline = torch.linspace(-1, 1, 8).expand(1, 3, 8, 8)
    for start in (0.0, 0.5, baseline):
        found = ours(model, host.data(3), steps=9, baseline=start)
        theirs = through_captum(captums, "convnet", registry, 9, start)
        assert np.abs(found.weights.values - theirs).max() < 1e-5 * max(1.0, np.abs(theirs).max())


def test_the_line_may_begin_at_other_examples(both: tuple[Any, Any]) -> None:
    host, (ours, captums) = host_of("torch", "gpt2"), both
    others, registry, data = host.inputs(3, seed=7), host.registry("head"), host.data(3)
    model = al.MaskedModel(host.adapter, registry, output=spread)
    found = ours(model, data, steps=6, baseline=data.like(others))
    start = host.reference.get_input_embeddings()(others).detach()
    theirs = through_captum(captums, "gpt2", registry, 6, start)
    assert np.abs(found.weights.values - theirs).max() < 1e-5
    assert np.abs(found.weights.values - ours(model, data, steps=6).weights.values).max() > 1e-2
    json.dumps(found.provenance)


def test_labels_go_with_their_examples(both: tuple[Any, Any]) -> None:
    """Captum stacks the steps along the batch, and the labels have to follow."""
    host, (ours, captums) = host_of("torch", "convnet"), both
    inputs, labels = host.inputs(4), torch.tensor([3, 0, 5, 1])
    model = al.MaskedModel(host.adapter, host.registry("filter"), output=al.Logit("label"))
    found = ours(model, al.batch(inputs, labels=labels), steps=8, rows=6)
    module = host.reference.second
    theirs = captums(host.reference, module).attribute(inputs, target=labels, n_steps=8).detach().sum((2, 3))
    assert np.abs(found.weights.values[:, 6:] - theirs.numpy()).max() < 1e-5 * max(1.0, float(theirs.abs().max()))


def test_the_reference_goes_with_its_examples(both: tuple[Any, Any]) -> None:
    host, (ours, captums) = host_of("torch", "convnet"), both
    inputs, labels = host.inputs(4), torch.zeros(4, dtype=torch.long)
    data = al.batch(inputs, labels=labels)
    found = ours(al.MaskedModel(host.adapter, host.registry("filter"), output=al.KL()), data, steps=8)
    plain = models.logits_of(host.reference, inputs).log_softmax(-1)

    def divergence(images: Tensor) -> Tensor:
        logs = host.reference(images).log_softmax(-1)
        target = plain.repeat(len(images) // 4, 1)
        return (target.exp() * (target - logs)).sum(-1)

    theirs = captums(divergence, host.reference.second).attribute(inputs, n_steps=8).detach().sum((2, 3))
    assert np.abs(np.abs(found.weights.values[:, 6:]) - np.abs(theirs.numpy())).max() < 1e-4


def test_rows_of_a_pass_change_nothing(both: tuple[Any, Any]) -> None:
    ours, _ = both
    host = host_of("torch", "gpt2")
    registry = host.adapter.registry("head", layers=[1])
    model, data = al.MaskedModel(host.adapter, registry, output=spread), host.data(5)
    whole = ours(model, data, steps=6).weights.values
    for rows in (1, 2, 7, 100):
        assert np.abs(ours(model, data, steps=6, rows=rows).weights.values - whole).max() < 1e-5


def test_they_cost_what_they_say(both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One activation, all steps in one pass: nothing is run twice. The embeddings and the bias are a pass each."""
    ours, _ = both
    host = host_of("torch", "gpt2")
    seen: list[int] = []
    monkeypatch.setattr(host.adapter, "arguments", _counted(host.adapter.arguments, seen))
    registry = host.adapter.registry("head", layers=[0])
    ours(al.MaskedModel(host.adapter, registry, output=spread), host.data(2), steps=10, rows=64)
    assert sum(seen) == (11 + 2) * 2 - (2 if ours is internal_influence else 0)


def _counted(plain: Callable[[al.Batch], Any], seen: list[int]) -> Callable[[al.Batch], Any]:
    def arguments(batch: al.Batch) -> Any:
        seen.append(len(batch))
        return plain(batch)

    return arguments


def test_what_everything_flows_through_is_complete() -> None:
    """All filters of one convolution share out f(input) - f(baseline); the bias makes the prediction right."""
    host = host_of("torch", "convnet")
    model, data = al.MaskedModel(host.adapter, host.registry("filter"), output=last_logit), host.data(3)
    found = conductance(model, data, steps=400)
    with torch.no_grad():
        full = last_logit(host.reference(host.inputs(3))).numpy()
        empty = last_logit(host.reference(torch.zeros(3, 3, 8, 8))).numpy()
    for filters in (slice(0, 6), slice(6, 11)):
        assert np.abs(found.weights.values[:, filters].sum(1) - (full - empty)).max() < 2e-3 * np.abs(full).max()
    assert np.abs(found.predict(np.ones(11))[0] - full).max() < 1e-4


def test_columns_of_a_projection_need_an_input_of_its_own(both: tuple[Any, Any]) -> None:
    """A bridge splits the fused matrix of GPT-2, so there the input of q alone can be seen; elsewhere it cannot."""
    ours, captums = both
    bridge, plain = host_of("transformer_lens", "gpt2"), host_of("torch", "gpt2")
    registry = bridge.adapter.registry("column", modules=["q"], layers=[0])
    with pytest.raises(al.InputError, match=r"L0.attn.q column 0 .* modules=\['qkv'\]"):
        ours(al.MaskedModel(plain.adapter, registry, output=spread), plain.data(2))
    found = ours(al.MaskedModel(bridge.adapter, registry, output=spread), bridge.data(2), steps=5)
    own = models.untied(plain.reference)
    attention = own.transformer.h[0].attn
    hand, fused = Hand(), attention.c_attn

    class Split(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([fused(hand(x))[..., : models.WIDTH], fused(x)[..., models.WIDTH :]], -1)

    attention.c_attn = Split()
    values = own.get_input_embeddings()(plain.inputs(2)).detach()
    theirs = captums(lambda given: spread(own(inputs_embeds=given).logits), hand).attribute(values, n_steps=5)
    assert np.abs(found.weights.values - theirs.detach().sum(1).numpy()).max() < 1e-5


def test_an_activation_whose_positions_share_the_batch_axis(both: tuple[Any, Any]) -> None:
    """The MLP of OPT works on [batch * position, feature], of which captum would make nothing; checked by hand."""
    ours, _ = both
    family = families.FAMILIES["opt"]
    plain = families.model_of("opt")
    tokens = family.batch(2)["input_ids"]
    adapter = al.adapt(models.untied(plain))
    registry = adapter.registry("row", layers=[1], modules=["mlp.in"])
    found = ours(al.MaskedModel(adapter, registry, output=spread), al.batch(tokens), steps=1)
    nodes = [0.5] if ours is internal_influence else [0.5 - 12**-0.5, 0.5 + 12**-0.5]
    own = models.untied(plain)
    seen: list[Tensor] = []
    module, _ = family.part(own, 1, "mlp.in")
    module.register_forward_hook(lambda _m, _a, out: seen.append(out))
    values, slopes = own.get_input_embeddings()(tokens).detach(), []
    for node in nodes:
        spread(own(inputs_embeds=node * values).logits).sum().backward(inputs=_kept(seen))
        slopes.append(seen[-1].grad)
    product = slopes[0] if ours is internal_influence else slopes[0] * (seen[1] - seen[0])
    expected = product.detach().unflatten(0, (2, -1)).sum(1).numpy()
    assert np.abs(found.weights.values - expected).max() < 1e-5
    assert np.abs(expected).max() > 1e-3


def _kept(seen: list[Tensor]) -> list[Tensor]:
    seen[-1].retain_grad()
    return [seen[-1]]


def test_sites_of_the_users_own_are_activations_too(both: tuple[Any, Any]) -> None:
    """The residual stream after a block, whose output is a tuple in some versions, on three hosts."""
    ours, captums = both
    found = {}
    for holder in HOSTS:
        host = host_of(holder, "llama")
        registry = host.adapter.registry(own_sites.residual("llama", 0))
        found[holder] = ours(
            al.MaskedModel(host.adapter, registry, output=spread), host.data(3), steps=6
        ).weights.values
    own = models.untied(host_of("torch", "llama").reference)
    values = own.get_input_embeddings()(models.inputs_of("llama", 3)).detach()
    layer = captums(lambda given: spread(own(inputs_embeds=given).logits), own.model.layers[0])
    theirs = layer.attribute(values, n_steps=6)
    theirs = (theirs[0] if isinstance(theirs, tuple) else theirs).detach().sum(1)
    groups = theirs.unflatten(1, (own_sites.GROUPS, -1)).sum(2).numpy()
    for weights in found.values():
        assert np.abs(weights - groups).max() < 1e-5 * max(1.0, np.abs(groups).max())


@pytest.mark.parametrize(("holder", "name"), law_7.HOSTS)
def test_the_users_model_is_left_as_it_was(holder: str, name: str) -> None:
    held = law_7.lived_in(holder, name)
    inputs = models.inputs_of(name, 2)
    adapter = al.adapt(held, example=inputs[:1] if name == "convnet" else None)
    registry = adapter.registry("filter" if name == "convnet" else "row", layers=[1])
    before = law_7.state(held)
    model = al.MaskedModel(adapter, registry, output=spread)
    for method in (conductance, internal_influence):
        with torch.inference_mode():
            method(model, al.batch(inputs), steps=3)
    assert law_7.differences(before, law_7.state(held)) == []

    def broken(logits: Tensor) -> Tensor:
        raise law_7.BrokenError

    for method in (conductance, internal_influence):
        with pytest.raises(law_7.BrokenError):
            method(al.MaskedModel(adapter, registry, output=broken), al.batch(inputs), steps=3)
    assert law_7.differences(before, law_7.state(held)) == []


def test_what_captum_cannot_see_is_refused(both: tuple[Any, Any], small: Host, torch_gpt2: Host) -> None:
    ours, _ = both
    adapter, data = torch_gpt2.adapter, torch_gpt2.data(2)
    rank_one = adapter.registry("rank_one", svd=2, modules=["mlp.in"])
    with pytest.raises(al.InputError, match=r"rank_one 0 is no set of features.*integrated_gradients"):
        ours(al.MaskedModel(adapter, rank_one, output=spread), data)
    codes = adapter.registry(own_sites.latents("gpt2"))
    with pytest.raises(al.InputError, match="no set of features"):
        ours(al.MaskedModel(adapter, codes, output=spread), data)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=last_logit)
    for steps in (0, True, "4"):
        with pytest.raises((al.InputError, TypeError), match="steps"):
            ours(model, small.data(2), steps=steps)
    with pytest.raises(al.InputError, match=r"broadcast to the input, \[2, 10\].*got \[3, 10\]"):
        ours(model, small.data(2), baseline=torch.zeros(3, 10))
    broken = al.MaskedModel(small.adapter, small.registry("row"), output=lambda logits: logits[:, 1] + torch.inf)
    assert np.isnan(ours(broken, small.data(2)).weights).all()
    blind = al.MaskedModel(small.adapter, small.registry("row"), output=lambda logits: logits.detach()[:, 1])
    with pytest.raises(al.InputError, match="no gradient"):
        ours(blind, small.data(2))


def test_without_captum_it_says_what_to_install(
    both: tuple[Any, Any], small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=last_logit)

    def run(_: al.Batch) -> None:
        raise AssertionError("the model was run")

    before_each_pass(small.adapter, monkeypatch, run)
    with pytest.raises(al.MissingExtraError, match=r"pip install 'ablationlens\[captum\]'"):
        both[0](model, small.data(2))


def test_they_are_labelled_and_kept(both: tuple[Any, Any], small: Host, tmp_path: Path) -> None:
    model, data = al.MaskedModel(small.adapter, small.registry("row"), output=last_logit), small.data(3)
    found = both[0](model, data)
    assert found.method == found.provenance["method"]
    assert found.components == model.registry.names
    json.dumps(found.provenance)
    for key in ("steps", "baseline", "input", "full_output", "model", "registry", "output", "data", "packages"):
        assert key in found.provenance
    assert "captum" in found.provenance["packages"]
    loaded = al.Attribution.load(found.save(tmp_path / "kept.safetensors"))
    assert np.array_equal(loaded.weights.values, found.weights.values)
