"""Where a bridge keeps the logical modules; that they are the right ones is tested against edited weights by family."""

from __future__ import annotations

import pytest

import ablationlens as al
from ablationlens.adapters.bridge_modules import attention_in, find_in_bridge
from ablationlens.sites import Tap
from tests import models
from tests.families import FAMILIES, build, model_of


def test_addresses_are_names_of_the_bridges_own_hook_points() -> None:
    for name in ("gpt2", "phi3", "t5_gated", "vit"):
        bridge = models.bridge_of(model_of(name))
        found = find_in_bridge(bridge, FAMILIES[name].head)
        assert {
            address.name: address.module for address in found.addresses.values()
        }.items() <= bridge.hook_dict.items()


def test_a_fused_matrix_is_read_where_its_parts_are_fed() -> None:
    found = find_in_bridge(models.bridge_of(model_of("phi3")), 4)
    assert found.addresses[Tap(1, "attn.qkv", "in")].name == "blocks.1.attn.hook_in"
    assert found.addresses[Tap(1, "mlp.gate_in", "in")].name == "blocks.1.mlp.hook_in"
    adapter = al.adapt(models.bridge_of(model_of("phi3")))
    assert set(adapter.silent) == {f"blocks.{layer}.attn.qkv.hook_out" for layer in (0, 1)}
    with pytest.raises(al.AdapterError, match="a bridge splits the fused attn.qkv"):
        adapter.place(Tap(1, "attn.qkv", "out"))


def test_a_bridge_without_attention_and_mlp_says_what_to_adapt_instead() -> None:
    model = build("MambaForCausalLM", "MambaConfig", vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(al.AdapterError, match=r"MambaForCausalLM has no blocks with.*al.adapt.hf_model."):
        al.adapt(models.bridge_of(model))


def test_attentions_by_their_logical_names() -> None:
    bridge = models.bridge_of(model_of("t5"))
    assert attention_in(bridge, 2, "decoder.cross") == (
        "decoder_blocks.2.cross_attn",
        bridge.decoder_blocks[2].cross_attn,
    )
    assert attention_in(bridge, 0, "encoder.attn")[0] == "encoder_blocks.0.attn"
    with pytest.raises(al.AdapterError, match="no L7.encoder.attn"):
        attention_in(bridge, 7, "encoder.attn")
