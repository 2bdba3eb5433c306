"""Where logical modules live in the families of the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.architectures import ARCHITECTURES, architecture_of, layer_list
from ablationlens.layout import MODULE_ORDER
from tests import models


@pytest.mark.parametrize("name", models.TRANSFORMERS)
def test_logical_modules_have_the_shapes_of_the_weights(name: str) -> None:
    model = models.MODELS[name]()
    layout = al.adapt(model).layout
    assert layout.transformer
    assert layout.layers == (0, 1)
    for module in layout.modules:
        weight, _ = models.part(model, module.layer, module.name)
        assert (module.rows, module.columns) == tuple(weight.shape), module
    assert [(heads.queries, heads.size) for heads in layout.heads] == [(4, 8), (4, 8)]


def other_family(name: str) -> nn.Module:
    import transformers

    options = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "head_dim": 6,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    config = getattr(transformers, f"{name}Config")(**options)
    return models.scramble(getattr(transformers, f"{name}ForCausalLM")(config))


@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Qwen3"])
def test_the_other_families_of_the_table_equal_edited_weights(name: str) -> None:
    model = other_family(name)
    adapter = al.adapt(model)
    inputs = torch.randint(0, 40, (3, 6), generator=torch.Generator().manual_seed(0))
    size = adapter.layout.heads[0].size
    assert size * 4 == adapter.layout.module(0, "attn.o").columns
    registry = adapter.registry("head")
    masked = al.MaskedModel(adapter, registry)
    edited = models.untied(model)
    with torch.no_grad():
        edited.model.layers[1].self_attn.o_proj.weight[:, 2 * size : 3 * size] = 0
    got = masked.logits(masked.mask(off="L1.head 2"), al.batch(inputs))
    assert models.close(got, models.logits_of(edited, inputs))
    rows = al.MaskedModel(adapter, adapter.registry("row", modules=["v"]))
    edited = models.untied(model)
    with torch.no_grad():
        edited.model.layers[0].self_attn.v_proj.weight[3] = 0
    got = rows.logits(rows.mask(off="L0.attn.v row 3"), al.batch(inputs))
    assert models.close(got, models.logits_of(edited, inputs))


def test_the_table_names_only_logical_modules() -> None:
    for family in ARCHITECTURES:
        assert set(family.modules) <= set(MODULE_ORDER)
        for whole, parts in family.fused.items():
            assert whole in family.modules
            assert set(parts) <= set(MODULE_ORDER)


def test_models_outside_the_table_go_by_path() -> None:
    assert architecture_of(models.mlp()) is None
    adapter = al.adapt(models.mlp(), example=torch.zeros(1, 10))
    assert adapter.layout.names == ("first", "middle", "last")  # in the order of execution
    assert [module.layer for module in adapter.layout.modules] == [0, 1, 2]
    assert not adapter.layout.transformer
    with pytest.raises(al.InputError, match="head"):
        adapter.registry("head")


def test_the_inner_model_of_a_family_is_found_too() -> None:
    inner = models.gpt2().transformer
    family = architecture_of(inner)
    assert family is not None
    assert layer_list(inner, family) is not None
    assert al.adapt(inner).layout == al.adapt(models.gpt2()).layout
