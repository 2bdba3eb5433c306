"""attention_mask and position_ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablationlens.data import batch
from ablationlens.errors import InputError
from tests.data.examples import IDS, MASK, RIGHT


def test_interior_padding_keeps_both_and_scores_only_true_neighbours() -> None:
    data = batch([[2, 3, 0, 4, 5]], attention_mask=[[1, 1, 0, 1, 1]])
    assert data.inputs["position_ids"].tolist() == [[0, 1, 1, 2, 3]]
    assert data.labels is not None and data.labels.tolist() == [[3, -100, -100, 5, -100]]
    assert data.scored is not None and data.scored.tolist() == [[True, False, False, True, False]]


def test_given_position_ids_are_kept_and_bring_the_mask() -> None:
    ids = torch.tensor([[2, 3], [4, 5]])
    data = batch({"input_ids": ids, "position_ids": torch.tensor([[7, 9]])})
    assert data.inputs["position_ids"].tolist() == [[7, 9], [7, 9]]
    assert data.inputs["attention_mask"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": {"input_ids": IDS, "position_ids": torch.zeros(2, 2, dtype=torch.long)}}, "position_ids are"),
        ({"inputs": {"input_ids": IDS, "position_ids": torch.zeros(2, 3)}}, "position_ids are"),
        ({"inputs": IDS, "attention_mask": torch.ones(2, 2)}, r"attention_mask has shape \[2, 2\]"),
        ({"inputs": IDS, "attention_mask": torch.tensor([[1, 1, 1], [1, 2, 1]])}, "something else in example 1"),
        ({"inputs": IDS, "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "0 everywhere in example 1"),
        ({"inputs": {"input_ids": IDS, "attention_mask": MASK}, "attention_mask": MASK}, "given twice"),
        ({"inputs": [[2, 3], [4]], "tokenizer": RIGHT, "attention_mask": [[1, 1], [1, 0]]}, "given twice"),
        ({"inputs": torch.rand(2, 3), "attention_mask": torch.ones(2, 3)}, "leave out attention_mask"),
    ],
)
def test_padding_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
