"""Attention is switched for the duration of a call, part by part, and comes back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from ablationlens.adapters.eager import eager
from tests import models
from tests.adapters.test_patterns import attention_of
from tests.families import FAMILIES, model_of


def runs(model: Any) -> set[str]:
    return {running for _, running in attention_of(model)}


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "vit", "gemma3_with_images"])
def test_every_part_is_eager_inside_and_as_it_was_after(name: str) -> None:
    model = copy.deepcopy(model_of(name))
    before = attention_of(model)
    assert "sdpa" in runs(model)
    with eager(model):
        assert runs(model) == {"eager"}
    assert attention_of(model) == before
    with pytest.raises(ZeroDivisionError), eager(model):
        raise ZeroDivisionError
    assert attention_of(model) == before


def test_parts_that_differ_come_back_each_as_it_was() -> None:
    model = copy.deepcopy(model_of("gemma3_with_images"))
    model.config.vision_config._attn_implementation_internal = "eager"
    before = attention_of(model)
    assert runs(model) == {"sdpa", "eager"}
    with eager(model):
        assert runs(model) == {"eager"}
    assert attention_of(model) == before


def test_patterns_are_formed_inside_alone() -> None:
    model, inputs = models.llama(), models.inputs_of("llama", 2)
    formed: list[Any] = []
    handle = model.model.layers[0].self_attn.register_forward_hook(lambda _m, _i, output: formed.append(output[1]))
    with eager(model):
        models.logits_of(model, inputs)
    models.logits_of(model, inputs)
    handle.remove()
    assert torch.allclose(formed[0].sum(-1), torch.ones(()), atol=1e-5)
    assert formed[1] is None


def test_what_cannot_be_switched_stays() -> None:
    old, plain = FAMILIES["falcon"].make(), nn.Linear(2, 2)
    before = attention_of(old)
    with eager(old), eager(plain):
        assert attention_of(old) == before
    assert attention_of(old) == before


def test_parts_that_are_no_models_of_their_own_are_found_by_their_configurations() -> None:
    class Whole(nn.Module):
        """Its text and vision towers are plain modules, which read configurations inside that of the whole."""

        def __init__(self) -> None:
            super().__init__()
            self.config = copy.deepcopy(model_of("gemma3_with_images").config)

        @staticmethod
        def _can_set_attn_implementation() -> bool:
            return True

    model = Whole()
    before = attention_of(model)
    assert len(before) == 3 and runs(model) == {"sdpa"}
    with eager(model):
        assert runs(model) == {"eager"}
    assert attention_of(model) == before
