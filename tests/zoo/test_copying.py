"""Repeated sequences, and the measurements on them, against models whose answer is known."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import ablationlens.zoo
from ablationlens.errors import InputError
from ablationlens.zoo.copying import accuracy_without, copy_accuracy, head_scores, repeated_sequences


class Perfect(nn.Module):
    """Copies without fail, knowing the distance."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        source = torch.arange(input_ids.shape[1]) - self.length + 1
        return SimpleNamespace(logits=nn.functional.one_hot(input_ids[:, source.clamp(min=0)], 256).float())


def test_sequences_repeat_and_depend_on_the_seed_alone() -> None:
    ids = repeated_sequences(5, 12, 256, seed=3)
    assert ids.shape == (5, 24)
    assert ids.dtype == torch.long
    assert torch.equal(ids[:, :12], ids[:, 12:])
    assert torch.equal(ids, repeated_sequences(5, 12, 256, seed=3))
    assert not torch.equal(ids, repeated_sequences(5, 12, 256, seed=4))
    assert ids.min() >= 1


@pytest.mark.parametrize(("n", "length"), [(0, 8), (4, 1)])
def test_sequences_too_small_are_refused(n: int, length: int) -> None:
    with pytest.raises(InputError, match="at least"):
        repeated_sequences(n, length, 256)


def test_accuracy_counts_exactly_the_tokens_that_are_known() -> None:
    ids = repeated_sequences(4, 10, 256)
    assert copy_accuracy(Perfect(10), ids) == 1.0
    ids[:, 10] = 255 - ids[:, 10]  # the first token of the second half cannot be known and does not count
    assert copy_accuracy(Perfect(10), ids) == 1.0
    ids[:, 11] = 255 - ids[:, 11]  # every other one does
    assert copy_accuracy(Perfect(10), ids) == pytest.approx(8 / 9)


def test_head_scores_are_attention_masses_on_the_right_places() -> None:
    length, query = 6, torch.arange(12)
    pattern = torch.zeros(1, 3, 12, 12)  # one head that looks back one, one that does induction, one that does neither
    pattern[:, 0, query[1:], query[1:] - 1] = 0.75
    pattern[:, 1, query[length:], query[length:] - length + 1] = 0.5
    pattern[:, 2, query, query] = 1.0

    class Fixed(nn.Module):
        def forward(self, **_: object) -> SimpleNamespace:
            return SimpleNamespace(attentions=(pattern,))

    scores = head_scores(Fixed(), repeated_sequences(1, length, 256))  # type: ignore[arg-type]
    assert scores["current_token"].tolist() == [[0.0, 0.0, 1.0]]
    assert scores["previous_token"].tolist() == [[0.75, 0.0, 0.0]]
    assert scores["induction"].tolist() == [[0.0, 0.5, 0.0]]


@pytest.mark.parametrize("heads", [[(0, 3)], [(1, 2)], [(0, 0), (1, 0), (1, 3)], []])
def test_a_silenced_head_is_one_whose_columns_of_o_proj_are_zero(heads: list[tuple[int, int]]) -> None:
    zoo = ablationlens.zoo.load("induction")
    model, ids = zoo.model, zoo.sequences(32, 12, seed=5)
    edited = copy.deepcopy(model)
    width = model.config.head_dim
    for layer, head in heads:
        weight = edited.get_parameter(f"model.layers.{layer}.self_attn.o_proj.weight")
        with torch.no_grad():
            weight[:, head * width : (head + 1) * width] = 0
    accuracy = accuracy_without(model, ids, heads)  # type: ignore[arg-type]
    assert accuracy == pytest.approx(copy_accuracy(edited, ids))
    assert not [module for module in model.modules() if module._forward_pre_hooks]
