"""Attention patterns of a bridge: what its hook points show, against the patterns that transformers returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.adapters.transformer_lens import TransformerLensAdapter
from tests import models
from tests.families import FAMILIES, Family, model_of

OWN_ATTENTION = ["gpt2", "gpt_neox", "llama", "gemma2", "phi", "phi3"]
LEFT_TO_TRANSFORMERS = ["opt", "bert", "vit", "t5"]


def lens_of(model: Any) -> TransformerLensAdapter:
    adapter = al.adapt(models.bridge_of(model))
    assert isinstance(adapter, TransformerLensAdapter)
    return adapter


def returned(family: Family, attention: str) -> tuple[torch.Tensor, ...]:
    """The patterns of every layer as transformers returns them."""
    model = family.make()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(**family.batch(), output_attentions=True)[family.attention[attention]]


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_an_attention_of_the_bridges_own_shows_its_pattern_however_it_was_loaded(name: str) -> None:
    family = FAMILIES[name]
    got = lens_of(model_of(name)).patterns(al.batch(family.batch()))
    expected = returned(family, "attn")
    assert list(got) == list(range(len(expected)))
    for layer, pattern in enumerate(expected):
        assert models.close(got[layer], pattern)
    one = lens_of(model_of(name)).patterns(al.batch(family.batch()), layers=[1])
    assert list(one) == [1]
    assert torch.equal(one[1], got[1])


@pytest.mark.parametrize("name", LEFT_TO_TRANSFORMERS)
def test_an_attention_that_is_left_to_transformers_is_switched_for_the_call(name: str) -> None:
    family, lens = FAMILIES[name], lens_of(model_of(name))
    batch = al.batch(family.batch())
    config = lens.bridge.original_model.config
    before = config._attn_implementation
    for attention in family.attention:
        assert before == config._attn_implementation
        got = lens.patterns(batch, attention=attention)
        for layer, pattern in enumerate(returned(family, attention)):
            assert models.close(got[layer], pattern), attention


def test_booting_from_a_directory_shows_the_pattern_by_itself(tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    family = FAMILIES["vit"]
    family.make().save_pretrained(tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    adapter = al.adapt(bridge)
    assert isinstance(adapter, TransformerLensAdapter)
    got = adapter.patterns(al.batch(family.batch()))
    for layer, pattern in enumerate(returned(family, "attn")):
        assert models.close(got[layer], pattern)


def test_an_attention_that_cannot_be_switched_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    lens = lens_of(model_of("opt"))
    model = lens.bridge.original_model
    model.config._attn_implementation = "sdpa"
    for part in {type(module) for module in model.modules()}:
        if hasattr(part, "_can_set_attn_implementation"):
            monkeypatch.setattr(part, "_can_set_attn_implementation", lambda *_: False)
    with pytest.raises(al.AdapterError, match=r'L0.*not shown|not shown.*L0.*set_attn_implementation."eager".'):
        lens.patterns(al.batch(FAMILIES["opt"].batch()))


def test_several_attentions_have_to_be_told_apart() -> None:
    lens = lens_of(model_of("t5"))
    batch = al.batch(FAMILIES["t5"].batch())
    with pytest.raises(al.InputError, match=r"name one, adapter.patterns\(batch, attention='decoder.cross'"):
        lens.patterns(batch)
    with pytest.raises(al.UnknownNameError, match="no layer 7"):
        lens.patterns(batch, [7], "cross")


def test_reading_leaves_no_hook() -> None:
    lens = lens_of(model_of("gpt2"))
    lens.patterns(al.batch(FAMILIES["gpt2"].batch()))
    points = [block.attn.hook_pattern for block in lens.bridge.blocks]
    assert not any(point._forward_hooks for point in points)
