"""What a bridge gets wrong, or only reports, is refused; what works is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.adapters.plan import Plan
from ablationlens.sites import Coordinates, Cut, Location, Site, Tap
from tests import models
from tests.families import FAMILIES, build, model_of, run


def plan_at(adapter: al.Adapter, name: str, features: int = models.HEADS, axis: int = 1) -> Plan:
    """What a masked model makes of a site of the user's own at a hook point; by default, the heads of a pattern."""
    tap = Tap(0, "own", "out", Location((("transformer_lens", name),), axis))
    site = Site("custom", 0, "own", tap, tap, Coordinates(features), Cut(("own",), "row"))
    return Plan(adapter, al.Registry([(site, None)]))


def falcon(**options: Any) -> Any:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    return build("FalconForCausalLM", "FalconConfig", **sizes, bos_token_id=0, eos_token_id=0, **options)


def test_a_fused_matrix_that_is_split_in_another_order_is_refused() -> None:
    model = falcon(new_decoder_architecture=True, num_kv_heads=2, multi_query=False)
    bridge = models.bridge_of(model)
    tokens = FAMILIES["falcon"].batch()["input_ids"]
    assert not models.close(bridge(tokens), run(model, {"input_ids": tokens}), 1e-2)  # the numbers are another model's
    with pytest.raises(al.AdapterError, match=r"another order.*al.adapt.hf_model."):
        al.adapt(bridge)
    al.adapt(models.bridge_of(falcon(multi_query=True)))  # one key/value head: no order to get wrong
    al.adapt(models.bridge_of(falcon(multi_query=False)))  # head by head, and split so


def test_alibi_that_is_added_twice_is_refused() -> None:
    model = model_of("falcon_old")
    bridge = models.bridge_of(model)
    inputs = FAMILIES["falcon_old"].batch()
    assert not models.close(bridge(inputs["input_ids"]), run(model, inputs), 1e-2)
    with pytest.raises(al.AdapterError, match="ALiBi bias twice"):
        al.adapt(bridge)
    assert not any(block.attn._forward_pre_hooks for block in bridge.blocks)


def test_alibi_that_is_added_once_is_not() -> None:
    """BLOOM's mask holds no bias: its bridge is right."""
    model = build("BloomForCausalLM", "BloomConfig", vocab_size=40, hidden_size=16, n_layer=2, n_head=4)
    adapter = al.adapt(models.bridge_of(model))
    inputs = FAMILIES["gpt2"].batch()
    registry = adapter.registry("row")
    got = al.MaskedModel(adapter, registry).logits(torch.ones(1, len(registry)), al.batch(inputs))
    assert models.close(got, run(model, inputs))


def test_a_hook_point_behind_a_flag_names_the_flag() -> None:
    bridge = models.bridge_of(model_of("llama"))
    adapter = al.adapt(bridge)
    with pytest.raises(al.AdapterError, match=r"set_use_hook_mlp_in\(True\)"):
        plan_at(adapter, "blocks.1.hook_mlp_in", 16, -1)
    bridge.set_use_hook_mlp_in(True)
    assert plan_at(adapter, "blocks.1.hook_mlp_in", 16, -1).taps


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("bert", "blocks.0.attn.hook_pattern"),
        ("gptj", "blocks.1.attn.hook_attn_scores"),
        ("t5", "decoder_blocks.0.cross_attn.hook_pattern"),
    ],
)
def test_a_hook_point_that_only_shows_a_value_is_refused(name: str, point: str) -> None:
    """Where the attention is left to transformers, the bridge shows patterns after they were used."""
    bridge = models.bridge_of(model_of(name))
    bridge.original_model.set_attn_implementation("eager")
    adapter = al.adapt(bridge)
    with pytest.raises(al.AdapterError, match="changes nothing"):
        plan_at(adapter, point)
    assert not bridge.hook_dict[point]._forward_hooks


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
def test_hook_points_that_the_computation_goes_through_are_taken(name: str) -> None:
    """Also where the tokens of the dry forward, all equal, would make of it no more than rounding."""
    adapter = al.adapt(models.bridge_of(model_of(name)))
    stack = "encoder_blocks" if name == "t5" else "blocks"
    each = FAMILIES[name].head  # the bridge shows queries as [batch, position, head, feature]
    points = {f"{stack}.1.hook_resid_post": 16, f"{stack}.0.attn.q.hook_out": each, f"{stack}.0.ln1.hook_scale": 1}
    for point, features in points.items():
        assert plan_at(adapter, point, features, -1).taps
    if name in ("gpt2", "llama"):
        assert plan_at(adapter, "blocks.1.attn.hook_pattern").taps


def test_a_pattern_that_does_not_fire_says_what_to_type() -> None:
    adapter = al.adapt(models.bridge_of(model_of("bert")))
    with pytest.raises(al.AdapterError, match=r'does not fire.*set_attn_implementation."eager".'):
        plan_at(adapter, "blocks.0.attn.hook_pattern")
