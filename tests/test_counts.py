"""Counts that the literature states, on the meta device: without weights, and without an example from the user."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ablationlens as al
from tests.families import FAMILIES, SIBLINGS, model_of


def on_meta(model: str, config: str, **options: Any) -> al.Adapter:
    import transformers

    with torch.device("meta"):
        empty = getattr(transformers, model)(getattr(transformers, config)(**options))
    adapter = al.adapt(empty)
    assert all(parameter.is_meta for parameter in empty.parameters())
    return adapter


def test_gpt2_small() -> None:
    adapter = on_meta("GPT2LMHeadModel", "GPT2Config")
    columns = adapter.registry("column")
    assert len(columns) == 64_512  # of c_attn, c_proj, c_fc and c_proj (COAR, arXiv 2404.11534)
    assert set(columns.frame()["module"]) == {"attn.qkv", "attn.o", "mlp.in", "mlp.out"}
    assert len(adapter.registry("row")) == 82_944
    assert len(adapter.registry("head")) == 144
    assert len(adapter.registry("head_value")) == len(adapter.registry("head_query")) == 144


def test_vit_b_16() -> None:
    adapter = on_meta("ViTForImageClassification", "ViTConfig")
    assert len(adapter.registry("row")) == 82_944  # of q, k, v, o and both matrices of the MLP (COAR)
    assert len(adapter.registry("head")) == 144


def test_phi_2() -> None:
    adapter = on_meta(
        "PhiForCausalLM",
        "PhiConfig",
        hidden_size=2560,
        intermediate_size=10_240,
        num_hidden_layers=32,
        num_attention_heads=32,
        vocab_size=51_200,
    )
    blocks = adapter.registry("row_block", size=10)
    assert len(blocks) == 73_728  # every attention and MLP matrix; COAR states 55,552 of a selection not spelled out
    assert len(adapter.registry("row_block", size=10, modules=["mlp.in", "mlp.out"])) == 32 * (1024 + 256)


def test_llama_3_2_3b() -> None:
    adapter = on_meta(
        "LlamaForCausalLM",
        "LlamaConfig",
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=128_256,
        tie_word_embeddings=True,
    )
    assert len(adapter.registry("matrix")) == 28 * 7 == 196
    assert len(adapter.registry("head")) == 28 * 24
    assert len(adapter.registry("row_block", modules=["k"], size=128)) == 28 * 8  # one for each key/value head
    assert len(adapter.registry("head_value")) == 28 * 8
    assert len(adapter.registry("head_query")) == 28 * 24


@pytest.mark.parametrize("name", [*FAMILIES, *SIBLINGS])
def test_every_family_has_the_same_layout_with_and_without_weights(name: str) -> None:
    model = model_of(name)
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert al.adapt(empty).layout == al.adapt(model).layout
