"""Attention patterns: what transformers itself returns, or how to load the model so that it does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from tests import models
from tests.adapters.test_architectures import OWN, Own, eager, patterns
from tests.families import FAMILIES, HEADS, Family, model_of

CANNOT_SWITCH = ("falcon", "falcon_new", "falcon_old")


def attention_of(model: nn.Module) -> list[tuple[int, str]]:
    """How the attention of every part is set to run."""
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    parts = [getattr(config, name) for config in configs for name in getattr(config, "sub_configs", ())]
    return [(id(config), config._attn_implementation) for config in (*configs, *parts)]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_they_are_those_that_transformers_returns(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = eager(family), family.batch(2)
    adapter = al.adapt(model)
    hooks = [len(module._forward_hooks) for module in model.modules()]
    found = {name: adapter.patterns(al.batch(inputs), attention=name) for name in family.attention}
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    for attention, by_layer in found.items():
        assert list(by_layer) == sorted({h.layer for h in adapter.layout.heads if h.attention == attention})
        for layer, pattern in by_layer.items():
            assert torch.equal(pattern, patterns(family, model, inputs, attention, layer))
            assert pattern.shape[:2] == (2, HEADS)
            assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_model_that_forms_none_is_switched_for_the_call_or_says_how_to_load_it(name: str) -> None:
    family = FAMILIES[name]
    model = copy.deepcopy(model_of(name))
    adapter = al.adapt(model)
    attention = next(iter(family.attention))
    if name not in CANNOT_SWITCH or model.config._attn_implementation == "eager":  # some families' own default
        before = attention_of(model)
        found = adapter.patterns(al.batch(family.batch(1)), attention=attention)
        assert attention_of(model) == before
        for layer, pattern in found.items():
            assert torch.equal(pattern, patterns(family, eager(family), family.batch(1), attention, layer))
        return
    line = 'from_pretrained(..., attn_implementation="eager")'
    with pytest.raises(al.AdapterError) as refused:
        adapter.patterns(al.batch(family.batch(1)), attention=attention)
    assert f"{type(model).__name__}.{line}" in str(refused.value)


@pytest.mark.parametrize("name", ["falcon", "llama"])
def test_the_line_to_load_works(name: str, tmp_path: Any) -> None:
    family: Family = FAMILIES[name]
    model_of(name).save_pretrained(tmp_path)
    loaded = type(model_of(name)).from_pretrained(tmp_path, attn_implementation="eager").eval()
    found = al.adapt(loaded).patterns(al.batch(family.batch(2)))
    assert torch.equal(found[1], patterns(family, loaded, family.batch(2), "attn", 1))


def test_layers_and_attentions_are_checked() -> None:
    adapter, data = al.adapt(eager(FAMILIES["t5"])), al.batch(FAMILIES["t5"].batch(2))
    with pytest.raises(al.InputError, match=r"attention='decoder.cross'.*encoder.attn, decoder.attn, decoder.cross"):
        adapter.patterns(data)
    with pytest.raises(al.InputError, match="name one"):
        adapter.patterns(data, attention="attn")
    with pytest.raises(al.UnknownNameError, match="no attention 'self'"):
        adapter.patterns(data, attention="self")
    with pytest.raises(al.UnknownNameError, match="no layer 2 in encoder.attn: it has layers 0, 1"):
        adapter.patterns(data, layers=[2], attention="encoder.attn")
    with pytest.raises(al.UnknownNameError, match="no layer 7"):
        adapter.patterns(data, layers=[7], attention="cross")
    cross = adapter.patterns(data, layers=[2, 0], attention="cross")
    assert list(cross) == [2, 0]
    assert cross[2].shape == (2, HEADS, 5, 6)  # positions of the decoder by positions of the encoder


def test_a_model_without_logical_names_is_told_to_say_them() -> None:
    adapter = al.adapt(models.convnet(), example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(al.AdapterError, match=r"not known where ConvNet has its attention.*al\.Architecture"):
        adapter.patterns(al.batch(torch.zeros(1, 3, 8, 8)))


def test_an_attention_of_ones_own_has_to_return_its_pattern() -> None:
    class Wrong(nn.Module):
        """Returns something beside its output that is no pattern."""

        def __init__(self, inner: nn.Module, beside: Tensor) -> None:
            super().__init__()
            self.joint, self.back, self.inner, self.beside = inner.joint, inner.back, [inner], beside

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner[0](x), self.beside

    class First(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.mix, self.widen, self.shrink = inner.mix, inner.widen, inner.shrink

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.mix(x)[0]
            return x + self.shrink(torch.tanh(self.widen(x)))

    data = al.batch(torch.randn(2, 5, 12))
    plain = al.adapt(Own(), example=torch.zeros(1, 5, 12), architecture=OWN)
    with pytest.raises(al.AdapterError, match=r"L0\.attn does not return its attention pattern.*\(output, pattern\)"):
        plain.patterns(data)
    for beside in (torch.rand(2, 3, 5, 5), torch.ones(2, 5, 5)):
        own = Own()
        for layer, block in enumerate(own.steps):
            block.mix = Wrong(block.mix, beside)
            own.steps[layer] = First(block)
        adapter = al.adapt(own, example=torch.zeros(1, 5, 12), architecture=OWN)
        with pytest.raises(al.AdapterError, match="not an attention pattern"):
            adapter.patterns(data)
