"""What a model reads: tensors, lists, mappings, images, embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ablationlens.data import batch
from ablationlens.errors import InputError
from tests.data.examples import IDS, RIGHT


@pytest.mark.parametrize(
    "inputs",
    [
        torch.tensor([[2, 3, 4], [5, 6, 7]]),
        torch.tensor([[2, 3, 4], [5, 6, 7]], dtype=torch.int32),
        np.array([[2, 3, 4], [5, 6, 7]]),
        [[2, 3, 4], [5, 6, 7]],
        [torch.tensor([2, 3, 4]), torch.tensor([5, 6, 7])],
        {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 7]])},
        {"input_ids": torch.tensor([[2, 3, 4], [5, 6, 7]]), "attention_mask": torch.ones(2, 3)},
    ],
)
def test_unpadded_tokens_carry_neither_mask_nor_position_ids(inputs: Any) -> None:
    data = batch(inputs)
    assert list(data.inputs) == ["input_ids"]
    assert torch.equal(data.inputs["input_ids"], torch.tensor([[2, 3, 4], [5, 6, 7]]))
    assert data.inputs["input_ids"].dtype == torch.int64
    assert (len(data), data.length) == (2, 3)
    assert data.attended is not None and data.attended.all() and data.attended.shape == (2, 3)


def test_one_example_is_promoted_to_a_batch() -> None:
    for inputs in (torch.tensor([2, 3]), [2, 3]):
        assert batch(inputs).inputs["input_ids"].tolist() == [[2, 3]]
    assert batch("the cat", tokenizer=RIGHT).texts == ("the cat",)
    assert batch([2, 3, 0], attention_mask=[1, 1, 0]).inputs["attention_mask"].tolist() == [[1, 1, 0]]


def test_floats_are_the_first_positional_argument_and_have_no_positions() -> None:
    image = torch.rand(2, 3, 4, 4)
    data = batch(image)
    assert list(data.inputs) == ["input"] and data.inputs["input"] is image
    assert data.labels is None and data.scored is None and data.length is None and data.attended is None
    assert batch({"pixel_values": image}, labels=[1, 0]).scored is None
    sound = {"input_values": torch.rand(2, 9), "attention_mask": torch.ones(2, 9)}  # a mask of samples, not of tokens
    assert set(batch(sound).inputs) == set(sound) and batch(sound).length is None


def test_embeddings_have_positions_but_no_default_labels() -> None:
    data = batch({"inputs_embeds": torch.rand(2, 3, 4), "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])})
    assert data.labels is None and data.length == 3
    assert data.scored is not None and data.scored.tolist() == [[True] * 3, [False, True, True]]


def test_integers_as_the_first_positional_argument_are_tokens() -> None:
    data = batch({"input": torch.tensor([[2, 3, 4]])})
    assert data.labels is not None and data.labels.tolist() == [[3, 4, -100]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, r"inputs.float\(\) / 255"),
        ({"inputs": torch.rand(3)}, r"\[batch, \.\.\.\]"),
        ({"inputs": {"input_ids": [[2, 3]]}}, 'return_tensors="pt"'),
        ({"inputs": {"input_ids": IDS, "labels": IDS}}, "Give them apart"),
        ({"inputs": {}}, "empty"),
        ({"inputs": {"input_ids": IDS, "extra": torch.zeros(3)}}, "disagree on the batch"),
        ({"inputs": {"input_ids": IDS, "extra": torch.tensor(1)}}, "needs a batch axis"),
        ({"inputs": {"inputs_embeds": torch.rand(2)}}, "is .batch, position"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
