"""Positions, counted over the real tokens of each example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablationlens.data import NO_LABEL, batch
from ablationlens.errors import InputError
from tests.data.examples import IDS, LEFT, MASK, RIGHT, TEXTS, by_position, token_rows


@settings(deadline=None, max_examples=40)
@given(rows=token_rows(), position=st.integers(-2, 1))
def test_ints_count_real_tokens_from_either_end(rows: list[list[int]], position: int) -> None:
    for tokenizer in (RIGHT, LEFT):
        data = batch(rows, tokenizer=tokenizer, positions=position)
        assert data.scored is not None and int(data.scored.sum()) == len(rows)
        for row, scored in zip(rows, by_position(data.scored, data), strict=True):
            assert scored[position] and len(scored) == len(row)


@pytest.mark.parametrize("positions", [slice(1, None), slice(None, 2), slice(-3, -1), slice(None, None, 2)])
def test_slices_keep_the_positions_of_their_range_that_have_a_label(positions: slice) -> None:
    for tokenizer in (RIGHT, LEFT):
        data = batch(TEXTS, tokenizer=tokenizer, positions=positions)
        assert data.scored is not None
        for text, scored in zip(TEXTS, by_position(data.scored, data), strict=True):
            length = len(text.split())
            wanted = set(range(length)[positions]) - {length - 1}
            assert [index for index, is_scored in enumerate(scored) if is_scored] == sorted(wanted)


def test_sequences_and_bool_tensors_of_positions() -> None:
    ids = torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])
    for positions in ([0, -2], (0, -2), torch.tensor([0, 2]), np.array([0, 2])):
        scored = batch(ids, positions=positions).scored
        assert scored is not None and scored.tolist() == [[True, False, True, False]] * 2
    for positions in (torch.tensor([False, True, False, False]), torch.tensor([[False, True, False, False]] * 2)):
        scored = batch(ids, positions=positions).scored
        assert scored is not None and scored.tolist() == [[False, True, False, False]] * 2


def test_the_last_token_can_be_scored_when_it_is_asked_for_by_number() -> None:
    data = batch([[2, 3, 4]], positions=-1)
    assert data.scored is not None and data.scored.tolist() == [[False, False, True]]
    assert data.labels is not None and data.labels[0, 2] == NO_LABEL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": IDS, "positions": 3}, "position 3 is out of range: example 0 has 3 tokens, so positions -3 to 2"),
        ({"inputs": IDS, "attention_mask": MASK, "positions": -3}, "example 1 has 2 tokens"),
        ({"inputs": IDS, "positions": [0, -3]}, "twice"),
        ({"inputs": IDS, "positions": []}, "positions are an int"),
        ({"inputs": IDS, "positions": True}, "positions are an int"),
        ({"inputs": IDS, "positions": torch.tensor([0.5])}, "positions are an int"),
        ({"inputs": IDS, "positions": torch.zeros(2, dtype=torch.bool)}, "a Bool tensor of positions"),
        ({"inputs": IDS, "attention_mask": MASK, "positions": torch.tensor([0, 0, 1]).bool()}, "padding in example 1"),
    ],
)
def test_positions_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
