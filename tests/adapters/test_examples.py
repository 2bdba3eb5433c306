"""The input of the dry forward, and inputs that are of another kind than it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.examples import given_example, takes_tokens, token_example
from tests import models
from tests.conftest import HOSTS, host_of


def test_an_example_is_a_tensor_a_mapping_or_a_batch() -> None:
    tokens, numbers = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3)
    assert list(given_example(tokens).inputs) == ["input_ids"]
    assert list(given_example(numbers).inputs) == ["input"]
    assert given_example({"pixels": numbers}).inputs["pixels"] is numbers
    batch = al.batch(tokens)
    assert given_example(batch) is batch
    with pytest.raises(al.InputError, match="a tensor, a mapping of tensors or a Batch; got list"):
        given_example([1, 2])


def test_tokens_are_made_for_a_model_that_reads_them() -> None:
    assert takes_tokens(models.gpt2())
    assert not takes_tokens(models.mlp())
    own = token_example(models.gpt2(), ["input_ids"], torch.device("cpu")).inputs["input_ids"]
    assert own.shape[0] == 1
    assert own.dtype == torch.long


@pytest.mark.parametrize("holder", ["torch", "nnsight"])
def test_integers_are_refused_where_the_model_reads_numbers(holder: str) -> None:
    inputs = torch.ones(3, 10, dtype=torch.long)
    adapter = al.adapt(models.held_by(holder, models.mlp()), example=models.inputs_of("mlp", 1))
    model = al.MaskedModel(adapter, adapter.registry("row"))
    for key in ("input", "input_ids"):
        with pytest.raises(al.InputError, match=r"MLP read float32 .* are int64: .*al\.batch\(inputs\.float\(\)\)"):
            model.logits(model.mask(), al.batch({key: inputs}))
    numbers = al.batch(inputs.float())
    assert models.close(model.logits(model.mask(), numbers), models.logits_of(models.mlp(), inputs.float()))


@pytest.mark.parametrize("holder", HOSTS)
def test_numbers_are_refused_where_the_model_reads_tokens(holder: str) -> None:
    adapter = host_of(holder, "gpt2").adapter
    model = al.MaskedModel(adapter, adapter.registry("head"))
    with pytest.raises(al.InputError, match=r"read int64 .* are float32: .*al\.batch\(inputs\.long\(\)\)"):
        model.logits(model.mask(), al.batch(torch.ones(3, 7)))
    shorter = al.batch(torch.ones(3, 7, dtype=torch.int32))  # another width of integers is no other kind
    assert model.logits(model.mask(), shorter).shape[:2] == (3, 7)


def test_an_example_of_integers_is_no_input_of_numbers() -> None:
    with pytest.raises(al.InputError, match=r"input_ids \[3, 10\] .*example=inputs\.float\(\)") as caught:
        al.adapt(models.mlp(), example=torch.ones(3, 10, dtype=torch.long))
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):  # what is no matter of integers is the model's own
        al.adapt(models.mlp(), example=torch.ones(3, 11))


def test_a_model_that_makes_numbers_of_integers_takes_them() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Any) -> torch.Tensor:
            return self.linear(x.float())

    own, x = Casting(), torch.arange(8).reshape(2, 4)
    adapter = al.adapt(own, example=x)
    model = al.MaskedModel(adapter, adapter.registry("row"))
    assert models.close(model.logits(model.mask(), al.batch(x)), models.logits_of(own, x))
