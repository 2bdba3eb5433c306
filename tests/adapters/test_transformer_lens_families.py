"""Every family that TransformerLens holds: what its bridge's hook points cut, against edited weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import ablationlens as al
from tests import models
from tests.families import FAMILIES, Family, edited, matrix, model_of, run

NOT_HELD = {
    "falcon_new": "split_with_sizes",
    "falcon_old": "ALiBi bias twice.*al.adapt.hf_model.",
    "electra": "Unsupported architecture",
    "distilbert": "Unsupported architecture",
    "clip_vision": "Unsupported architecture",
}
"""Families that TransformerLens cannot build a bridge of, or builds one that computes something else."""
HELD = [name for name in FAMILIES if name not in NOT_HELD]


@cache
def lens_of(name: str) -> al.Adapter:
    return al.adapt(models.bridge_of(model_of(name)))


def check_against_weights(family: Family, registry: al.Registry, off: list[int], **options: Any) -> None:
    """All of `off` ablated for example 0, and each alone for another, against copies with edited weights."""
    model, lens = model_of(family.name), lens_of(family.name)
    inputs = family.batch(1 + len(off))
    masked = al.MaskedModel(lens, registry, al.Zero(**options))
    mask = torch.ones(1 + len(off), len(registry))
    mask[0, off] = 0
    for row, component in enumerate(off):
        mask[1 + row, component] = 0
    got = masked.logits(mask, al.batch(inputs))
    for row, components in enumerate([off, *([component] for component in off)]):
        own = edited(family, model, [registry[component] for component in components], **options)
        expected = run(own, {name: tensor[row : row + 1] for name, tensor in inputs.items()})
        assert models.close(got[row : row + 1], expected), (row, [registry[component].name for component in components])
    assert not models.close(got[:1], run(model, {name: tensor[:1] for name, tensor in inputs.items()}), 1e-3)


@pytest.mark.parametrize("kind", ["head", "row", "column", "row_block", "matrix", "neuron"])
@pytest.mark.parametrize("name", HELD)
def test_hard_masks_equal_edited_weights(name: str, kind: str) -> None:
    family = FAMILIES[name]
    registry = lens_of(name).registry(kind, **({"size": 5} if kind == "row_block" else {}))
    generator = torch.Generator().manual_seed(3)
    off = torch.randperm(len(registry), generator=generator)[:5].tolist()
    check_against_weights(family, registry, off)


@pytest.mark.parametrize("name", HELD)
def test_every_module_is_cut_where_its_own_rows_and_columns_are(name: str) -> None:
    """One row with its bias, and one column, of every logical module: the parts of fused matrices included."""
    family, lens = FAMILIES[name], lens_of(name)
    layer = lens.layout.layers[-1]
    whole = [module for module in lens.layout.modules if module.layer == layer]
    rows = lens.registry("row", layers=[layer])
    first = {part.site.module: part.start for part in rows.parts}
    check_against_weights(family, rows, [start + 1 for start in first.values()], include_bias=True)
    parts = [module.name for module in whole if not module.parts]
    columns = lens.registry("column", layers=[layer], modules=parts)
    check_against_weights(family, columns, [part.start + 2 for part in columns.parts])


@pytest.mark.parametrize("name", HELD)
def test_layout_and_weights_are_the_models(name: str) -> None:
    family, lens, model = FAMILIES[name], lens_of(name), model_of(name)
    assert lens.layout.names == family.modules
    assert {heads.attention for heads in lens.layout.heads} == set(family.attention)
    assert {heads.size for heads in lens.layout.heads} == {family.head}
    for module in lens.layout.modules:
        owner, rows = family.part(model, module.layer, module.name)
        weight, bias = lens.weight(module.layer, module.name), lens.bias(module.layer, module.name)
        assert torch.equal(weight, matrix(owner)[rows]), module
        assert (module.rows, module.columns) == tuple(weight.shape)
        stated = getattr(owner, "bias", None)
        assert bias is None if stated is None else torch.equal(bias, stated[rows]), module
    described = lens.describe()
    assert described["class"] == type(model).__name__
    assert described["parameters"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NOT_HELD)
def test_what_transformer_lens_cannot_hold_is_an_error_and_no_wrong_number(name: str) -> None:
    with pytest.raises((al.AdapterError, ValueError, RuntimeError), match=NOT_HELD[name]):
        al.adapt(models.bridge_of(model_of(name)))
    assert len(al.adapt(FAMILIES[name].make()).registry("head"))  # plain PyTorch holds it


@pytest.mark.parametrize("name", ["gpt_neox", "opt", "bert", "t5"])
def test_masks_differ_between_positions(name: str) -> None:
    """Also in OPT, whose MLP has batch and positions in one axis; in T5 the positions are the decoder's."""
    family, lens = FAMILIES[name], lens_of(name)
    stack, tokens = ("decoder.", "decoder_input_ids") if name == "t5" else ("", "input_ids")
    registry = lens.registry("row", layers=lens.layout.layers[-1:], modules=[f"{stack}mlp.out"])
    inputs = family.batch(3)
    mask = torch.ones(3, inputs[tokens].shape[1], len(registry))
    mask[1, 2] = 0
    got = al.MaskedModel(lens, registry).logits(mask, al.batch(inputs))
    expected = run(model_of(name), inputs)
    off = run(edited(family, model_of(name), list(registry)), inputs)
    elsewhere = [position for position in range(mask.shape[1]) if position != 2]
    assert models.close(got[[0, 2]], expected[[0, 2]])
    assert models.close(got[1, elsewhere], expected[1, elsewhere])  # nothing comes after the last MLP's output
    assert models.close(got[1, 2], off[1, 2])
    assert not models.close(off[1, 2], expected[1, 2], 1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "opt", "roberta", "t5"])
def test_padding_changes_nothing(name: str, side: str) -> None:
    """OPT counts positions from the mask, RoBERTa from the padding token's own number, T5 not at all."""
    family, lens = FAMILIES[name], lens_of(name)
    inputs = family.batch(2)
    tokens, real = inputs["input_ids"], torch.ones_like(inputs["input_ids"])
    own = slice(2, None) if side == "left" else slice(0, -2)
    real[0] = 0
    real[0, own] = 1
    registry = lens.registry("row")
    masked = al.MaskedModel(lens, registry)
    off = [registry[3], registry[77]]
    got = masked.logits(masked.mask(off=off), al.batch({**inputs, "attention_mask": real}))[0]
    alone = {key: value[:1] for key, value in inputs.items()} | {"input_ids": tokens[:1, own]}
    expected = run(edited(family, model_of(name), off), alone)[0]
    assert models.close(got if name == "t5" else got[own], expected)


@pytest.mark.parametrize("name", ["gpt_neox", "phi3", "opt", "bert", "t5_gated", "gemma2"])
def test_processed_weights_are_found_in_every_family(name: str) -> None:
    bridge = models.bridge_of(model_of(name))
    bridge.enable_compatibility_mode()
    adapter = al.adapt(bridge)
    assert adapter.describe()["folded"] is True
    with pytest.raises(al.AdapterError, match="processed"):
        adapter.registry("head")
    raw = models.bridge_of(model_of(name))
    raw.enable_compatibility_mode(no_processing=True)
    assert al.adapt(raw).describe()["folded"] is False


def test_a_native_bridge_needs_no_hugging_face_model() -> None:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        d_model=16, d_head=4, n_heads=4, n_layers=2, n_ctx=32, d_vocab=40, act_fn="gelu", d_mlp=24, seed=0
    )
    bridge = TransformerBridge.boot_native(config)
    adapter = al.adapt(bridge)
    assert (adapter.vocabulary, len(adapter.registry("head")), len(adapter.registry("neuron"))) == (40, 8, 48)
    registry = adapter.registry("row")
    tokens = torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    masked = al.MaskedModel(adapter, registry)
    got = masked.logits(masked.mask(off=[registry[3]]), al.batch(tokens))
    plain = bridge(tokens)
    query = bridge.blocks[0].attn.q.original_component
    with torch.no_grad():
        query.weight[3] = 0
        assert models.close(got, bridge(tokens))
    assert not torch.equal(got, plain)
