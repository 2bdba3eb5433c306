"""Direct effects, by hand: the final residual stream without what one component wrote into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.attribution.direct_effect import direct_effect
from tests import families, models
from tests.conftest import HOSTS, Host, host_of
from tests.families import FAMILIES, model_of

OUTPUT = al.Margin()

ENDS: dict[str, Callable[[Any], tuple[nn.Module, nn.Module]]] = {
    "gpt2": lambda model: (model.transformer.ln_f, model.lm_head),
    "llama": lambda model: (model.model.norm, model.lm_head),
    "gpt_neox": lambda model: (model.gpt_neox.final_layer_norm, model.get_output_embeddings()),
    "gptj": lambda model: (model.transformer.ln_f, model.lm_head),
    "phi": lambda model: (model.model.final_layernorm, model.lm_head),
    "falcon": lambda model: (model.transformer.ln_f, model.lm_head),
}
"""The final norm and the unembedding of each family."""


@pytest.fixture(params=[(host, name) for host in HOSTS for name in ("gpt2", "llama")], ids="-".join)
def held(request: pytest.FixtureRequest) -> Host:
    return host_of(*request.param)


def entering(model: Any, inputs: Tensor, modules: list[nn.Module]) -> list[Tensor]:
    """What each module is given in one pass."""
    found: dict[int, Tensor] = {}
    handles = [m.register_forward_pre_hook(lambda m, given: found.update({id(m): given[0].detach()})) for m in modules]
    models.logits_of(model, inputs)
    for handle in handles:
        handle.remove()
    return [found[id(module)] for module in modules]


def by_hand(
    model: Any,
    name: str,
    data: al.Batch,
    writers: list[tuple[nn.Module, Tensor, slice]],
    others: Tensor | None = None,
) -> np.ndarray:
    """Effect of each (module, its out x in matrix, columns) on the logits by way of the residual stream alone."""
    norm, unembedding = ENDS[name](model)
    modules = [module for module, _, _ in writers]
    inputs = data.inputs["input_ids"]
    final, *own = entering(model, inputs, [norm, *modules])
    instead = [torch.zeros_like(value) for value in own] if others is None else entering(model, others, modules)

    def scores(residual: Tensor) -> Tensor:
        return OUTPUT(unembedding(norm(residual)).detach(), data)

    full = scores(final)
    assert torch.allclose(full, OUTPUT(models.logits_of(model, inputs), data), atol=1e-5)
    effects = [
        full - scores(final - (was - now)[..., columns] @ weight[:, columns].T.detach())
        for (_, weight, columns), was, now in zip(writers, own, instead, strict=True)
    ]
    return torch.stack(effects, 1).numpy()


def heads_of(model: Any) -> list[tuple[nn.Module, Tensor, slice]]:
    size = models.WIDTH // models.HEADS
    return [
        (models.module_of(model, layer, "attn.o")[0], models.part(model, layer, "attn.o")[0], slice(at, at + size))
        for layer in range(models.LAYERS)
        for at in range(0, models.WIDTH, size)
    ]


def close(found: al.Attribution, expected: np.ndarray) -> bool:
    return np.abs(found.weights.values - expected).max() < 2e-5 * max(1, np.abs(expected).max())


def test_heads_removed(held: Host) -> None:
    data = held.data(3)
    model = al.MaskedModel(held.adapter, held.adapter.registry("head"), output=OUTPUT)
    found = direct_effect(model, data)
    expected = by_hand(held.reference, held.name, data, heads_of(held.reference))
    assert close(found, expected) and np.abs(expected).max() > 0.1
    total = al.leave_one_out(model, data)
    assert np.abs(found.weights.values - total.weights.values).max() > 0.05  # what later parts make of it
    full = OUTPUT(models.logits_of(held.reference, held.inputs(3)), data).numpy()
    assert np.allclose(found.bias.values + found.weights.values.sum(1), full, atol=1e-4)
    assert (found.provenance["method"], found.provenance["draws"]) == ("direct effect", 9)
    assert found.registry == model.registry


def test_heads_as_in_a_counterfactual(held: Host) -> None:
    data, others = held.data(3), held.inputs(3, seed=4)
    ablation = al.Counterfactual(data.like(others))
    model = al.MaskedModel(held.adapter, held.adapter.registry("head"), ablation, OUTPUT)
    expected = by_hand(held.reference, held.name, data, heads_of(held.reference), others)
    assert close(direct_effect(model, data), expected)


def test_neurons_beside_heads_in_any_order(held: Host) -> None:
    """Neurons of the last layer, which nothing writes after, have a direct effect that is the whole."""
    registry = held.adapter.registry("neuron").select(where=lambda c: c.index in (3, 30, 47))
    registry = registry + held.adapter.registry("head").select(where=lambda c: c.index % 2 == 1)
    data = held.data(2)
    model = al.MaskedModel(held.adapter, registry, output=OUTPUT)
    heads = heads_of(held.reference)
    writers: list[tuple[nn.Module, Tensor, slice]] = []
    for component in registry:
        layer, index = component.site.layer, component.index
        module, weight = (
            models.module_of(held.reference, layer, "mlp.out")[0],
            models.part(held.reference, layer, "mlp.out")[0],
        )
        neuron = (module, weight, slice(index, index + 1))
        writers.append(neuron if component.site.kind == "neuron" else heads[4 * layer + index])
    found = direct_effect(model, data)
    assert close(found, by_hand(held.reference, held.name, data, writers))
    total = al.leave_one_out(model, data).weights.values
    last = [c.site.layer == 1 and c.site.kind == "neuron" for c in registry]
    assert np.abs(found.weights.values - total)[:, last].max() < 1e-5
    assert np.abs(found.weights.values - total)[:, ~np.array(last)].max(0).min() > 1e-5
    columns = model.adapter.registry("column", modules=["mlp.out"]).select(where=lambda c: c.index == 30)
    by_column = direct_effect(al.MaskedModel(held.adapter, columns, output=OUTPUT), data).weights.values
    neurons = [number for number, c in enumerate(registry) if c.site.kind == "neuron" and c.index == 30]
    assert np.abs(by_column - found.weights.values[:, neurons]).max() < 1e-5


@pytest.mark.parametrize("name", ["gpt_neox", "gptj", "phi", "falcon"])
def test_blocks_whose_mlp_runs_beside_attention(name: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    data = al.batch(family.batch())
    adapter = al.adapt(model)
    masked = al.MaskedModel(adapter, adapter.registry("head"), output=OUTPUT)
    writers = [
        (module, families.matrix(module), slice(at, at + family.head))
        for module in (family.part(model, layer, "attn.o")[0] for layer in range(families.LAYERS))
        for at in range(0, families.HEADS * family.head, family.head)
    ]
    found = direct_effect(masked, data)
    assert close(found, by_hand(model, name, data, writers))
    total = al.leave_one_out(masked, data).weights.values
    assert np.abs(found.weights.values - total)[:, families.HEADS :].max() < 1e-5  # the last MLP does not read them
    assert np.abs(found.weights.values - total)[:, : families.HEADS].max() > 1e-3


def test_padding_and_packing_change_nothing() -> None:
    host = host_of("torch", "llama")
    rows = [[5, 9, 5, 9, 7], [3, 8, 3]]
    ids, mask = torch.tensor([rows[0], [0, 0, *rows[1]]]), torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=OUTPUT)
    data = al.batch(ids, attention_mask=mask)
    found = direct_effect(model, data).weights.values
    for example, row in enumerate(rows):
        alone = direct_effect(model, al.batch(torch.tensor([row]))).weights.values[0]
        assert np.abs(found[example] - alone).max() < 1e-5
    for count in (1, 3):
        assert np.abs(direct_effect(model, data, rows=count).weights.values - found).max() < 1e-5


@pytest.mark.parametrize("ablation", ["mean", "mean per position", "resample"])
def test_other_ablations(ablation: str) -> None:
    """What an ablation puts in place is what it puts there without the writers that are held."""
    host = host_of("torch", "gpt2")
    data, registry = host.data(3), host.adapter.registry("neuron", layers=1)
    made = {"mean": al.Mean(data), "mean per position": al.Mean(data, per_position=True), "resample": al.Resample()}
    model = al.MaskedModel(host.adapter, registry, made[ablation], OUTPUT)
    total = al.leave_one_out(model, data).weights.values  # nothing comes after these
    assert np.abs(direct_effect(model, data).weights.values - total).max() < 1e-5
    assert np.abs(total).max() > 1e-2


def test_an_encoder_reaches_the_logits_through_the_decoder_alone() -> None:
    adapter = al.adapt(model_of("t5"))
    model = al.MaskedModel(adapter, adapter.registry("head"), output=OUTPUT)
    data = al.batch(FAMILIES["t5"].batch())
    weights = direct_effect(model, data).weights.values
    module = model.registry.frame()["module"].to_numpy()
    found = {name: np.abs(weights[:, module == name]).max() for name in FAMILIES["t5"].attention}
    assert found["encoder.attn"] == 0
    assert found["decoder.attn"] > 1e-3 and found["decoder.cross"] > 1e-3


def test_neurons_of_a_bridge_whose_weights_were_folded() -> None:
    """Folding changes no function and no neuron, so it changes no direct effect of one."""
    bridge = models.bridge_of(models.gpt2())
    bridge.enable_compatibility_mode()
    folded, plain = al.adapt(bridge), host_of("torch", "gpt2")
    model = al.MaskedModel(folded, folded.registry("neuron"), output=OUTPUT)
    with pytest.raises(al.AdapterError, match="processed"):
        al.MaskedModel(folded, folded.registry("head"))
    expected = direct_effect(
        al.MaskedModel(plain.adapter, plain.adapter.registry("neuron"), output=OUTPUT), plain.data(2)
    )
    found = direct_effect(model, plain.data(2))
    assert np.abs(found.weights.values - expected.weights.values).max() < 1e-4


def test_a_pattern_has_direct_causes_too() -> None:
    """By way of the residual stream alone, no MLP between: the MLP of the first layer is held."""
    host = host_of("torch", "gpt2")
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=al.PatternMass(1, 2, "previous"))
    found = direct_effect(model, host.data(3)).weights.values
    total = al.leave_one_out(model, host.data(3)).weights.values
    assert np.abs(found[:, 4:]).max() < 1e-6
    assert np.abs(found[:, :4] - total[:, :4]).max() > 1e-3
    silent = models.untied(host.reference)
    silent.set_attn_implementation("eager")
    kept: list[Tensor] = []
    mlp = silent.transformer.h[0].mlp
    handle = mlp.register_forward_hook(lambda _m, _i, output: kept.append(output.detach()))
    mass: list[Tensor] = []
    for head in (None, 1):
        if head is not None:
            handle.remove()
            handle = mlp.register_forward_hook(lambda *_: kept[0])
            with torch.no_grad():
                models.part(silent, 0, "attn.o")[0][:, 8:16] = 0
        with torch.no_grad():
            pattern = silent(host.inputs(3), output_attentions=True).attentions[1][:, 2]
        mass.append(pattern.diagonal(-1, 1, 2)[:, :-1].mean(1))  # the last token predicts nothing
    assert np.abs(found[:, 1] - (mass[0] - mass[1]).numpy()).max() < 1e-5


def test_outputs_that_are_not_finite_are_counted() -> None:
    host = host_of("torch", "gpt2")
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=al.Logit(2))
    clean = direct_effect(model, host.data(2))
    lost = float(clean.provenance["full_output"][0] - clean.weights.values[0, 5])

    def broken(logits: Tensor, batch: al.Batch) -> Tensor:
        scores = al.Logit(2)(logits, batch)
        return torch.where((scores - lost).abs() < 1e-5, torch.nan, scores)

    found = direct_effect(model.having(output=broken), host.data(2))
    assert found.provenance["quarantined_outputs"] == 1
    assert np.argwhere(np.isnan(found.weights.values)).tolist() == [[0, 5]]
    assert np.isfinite(found.bias.values).all()


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("row", {"modules": ["q"]}, "L0.attn.q row 0"),
        ("row", {"modules": ["o"]}, "L0.attn.o row 0"),
        ("matrix", {}, "L0.attn.q"),
        ("column", {"modules": ["q"]}, "L0.attn.q column 0"),
        ("column", {"modules": ["mlp.in"]}, "L0.mlp.in column 0"),
        ("head_value", {}, "L0.attn.v head 0"),
        ("rank_one", {"svd": 2, "modules": ["mlp.out"]}, "L0.mlp.out rank_one 0"),
    ],
)
def test_what_does_not_write_into_the_residual_stream_is_refused(kind: str, options: Any, named: str) -> None:
    host = host_of("torch", "gpt2")
    model = al.MaskedModel(host.adapter, host.adapter.registry(kind, **options))
    with pytest.raises(al.InputError, match=rf"^{named} does not write .* by itself.*registry\('head'\)"):
        direct_effect(model, host.data(2))


def test_what_else_is_refused() -> None:
    host = host_of("torch", "gpt2")
    scaled = al.MaskedModel(host.adapter, host.adapter.registry("head"), al.Scale(0.5))
    with pytest.raises(al.InputError, match=r"a whole ablation: give model.having\(ablation=al.Zero\(\)\)"):
        direct_effect(scaled, host.data(2))
    own = al.custom_site("own", {"torch": "transformer.h.0.mlp"}, groups=4)
    with pytest.raises(al.InputError, match="L0.own 0 does not write"):
        direct_effect(al.MaskedModel(host.adapter, host.adapter.registry(own)), host.data(2))
    images = host_of("torch", "convnet")
    with pytest.raises(al.InputError, match="does not write"):
        direct_effect(al.MaskedModel(images.adapter, images.adapter.registry("filter")), images.data(2))
