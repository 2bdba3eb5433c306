"""Clean and corrupt inputs that do not belong together are refused, with the line to type."""

from __future__ import annotations

import re

import pytest
import torch

import ablationlens as al
from ablationlens.attribution import activation_patching, attribution_patching
from ablationlens.attribution.patching.pairs import paired
from tests import models
from tests.conftest import Host


def refused(host: Host, clean: object, corrupt: object, direction: str = "denoising") -> str:
    model = al.MaskedModel(host.adapter, host.registry("row"), output=al.Logit(0))
    with pytest.raises(al.InputError) as error:
        paired.__wrapped__(model, clean, corrupt, direction)  # as without the tests' type checks
    return str(error.value)


def test_another_number_of_examples(torch_gpt2: Host) -> None:
    message = refused(torch_gpt2, torch_gpt2.data(3), torch_gpt2.data(2))
    assert message == (
        "there are 3 clean and 2 corrupt examples: give one corrupt counterpart for each, corrupt = clean.like(texts)"
    )


def test_another_number_of_tokens(torch_gpt2: Host) -> None:
    tokens = torch_gpt2.inputs(2)
    longer = torch.cat([tokens, tokens[:, :2]], 1)
    message = refused(torch_gpt2, al.batch(tokens), al.batch(longer))
    assert "example 0 has 7 tokens in the clean and 9 in the corrupt input" in message
    assert message.endswith("corrupt = clean.like(texts)")
    padded = al.batch(longer, attention_mask=[[1] * 7 + [0] * 2, [1] * 8 + [0]])
    assert "example 1 has 7 tokens in the clean and 8" in refused(torch_gpt2, al.batch(tokens), padded)


def test_tokens_of_a_padded_example_that_would_be_cut_off(torch_gpt2: Host) -> None:
    """Its tensor has the same shape, so that only the attention mask knows."""
    tokens = torch_gpt2.inputs(2)
    padded = al.batch(tokens, attention_mask=[[1] * 7, [1] * 5 + [0] * 2])
    assert "example 1 has 5 tokens in the clean and 7" in refused(torch_gpt2, padded, al.batch(tokens))
    assert "example 1 has 7 tokens in the clean and 5" in refused(torch_gpt2, al.batch(tokens), padded)


def test_padding_on_the_other_side(torch_gpt2: Host) -> None:
    tokens = torch_gpt2.inputs(2)
    left, right = torch.ones(2, 7), torch.ones(2, 7)
    left[1, :2], right[1, -2:] = 0, 0
    message = refused(torch_gpt2, al.batch(tokens, attention_mask=left), al.batch(tokens, attention_mask=right))
    assert "not padded in the same places" in message
    assert "corrupt = clean.like(texts)" in message


def test_padding_of_an_encoder(torch_gpt2: Host) -> None:
    tokens, short = torch_gpt2.inputs(2), torch.ones(2, 7, dtype=torch.long)
    short[1, 5:] = 0
    named = {"input_ids": tokens, "decoder_input_ids": tokens[:, :3]}
    message = refused(torch_gpt2, al.batch(named), al.batch({**named, "attention_mask": short}))
    assert "example 1 has 7 tokens in the clean and 5 in the corrupt input" in message


def test_what_is_no_batch(torch_gpt2: Host) -> None:
    data = torch_gpt2.data(2)
    assert "the corrupt input is a Batch, al.batch(inputs, tokenizer=...); got list" in refused(torch_gpt2, data, [[1]])
    assert "the clean input is a Batch" in refused(torch_gpt2, None, data)
    named = al.batch({"pixels": torch.zeros(2, 7)})
    assert "make it from inputs of the same names" in refused(torch_gpt2, data, named)


def test_another_shape_of_images(torch_gpt2: Host) -> None:
    message = refused(torch_gpt2, al.batch(torch.zeros(2, 3, 8, 8)), al.batch(torch.zeros(2, 3, 9, 9)))
    assert "a counterfactual needs the same shape" in message


def test_a_direction_that_does_not_exist(torch_gpt2: Host) -> None:
    data = torch_gpt2.data(2)
    message = refused(torch_gpt2, data, data, "forwards")
    assert re.fullmatch('direction is "denoising" or "noising"; got \'forwards\'', message)


def test_inputs_that_are_the_same_have_no_effect(torch_gpt2: Host) -> None:
    data = torch_gpt2.data(2)
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"), output=al.Logit(0))
    for method in (activation_patching, attribution_patching):
        found = method(model, data, al.batch(models.inputs_of("gpt2", 2)))
        assert float(abs(found.weights).max()) < 1e-6
