"""Labels, aligned with the logits, and the positions that have one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings

from ablationlens.data import NO_LABEL, batch
from ablationlens.errors import InputError
from tests.data.examples import IDS, LEFT, RIGHT, TEXTS, by_position, token_rows


@settings(deadline=None, max_examples=40)
@given(rows=token_rows())
def test_next_token_labels_equal_a_naive_loop_on_either_side(rows: list[list[int]]) -> None:
    for tokenizer in (RIGHT, LEFT):
        data = batch(rows, tokenizer=tokenizer)
        assert data.labels is not None and data.scored is not None
        assert by_position(data.labels, data) == [[*row[1:], NO_LABEL] for row in rows]
        assert by_position(data.scored, data) == [[True] * (len(row) - 1) + [False] for row in rows]
        assert int(data.scored.sum()) == sum(len(row) - 1 for row in rows)  # so none at padding
        assert (data.labels == NO_LABEL).equal(~data.scored)


def test_one_label_for_each_example_is_scored_at_its_last_token() -> None:
    for tokenizer, column in ((RIGHT, 2), (LEFT, 5)):
        data = batch(TEXTS, tokenizer=tokenizer, labels=[7, 8, 9])
        assert data.labels is not None and data.labels.tolist() == [7, 8, 9]
        assert data.scored is not None and data.scored.sum(1).tolist() == [1, 1, 1]
        assert data.scored[0, 5] and data.scored[1, column] and data.scored[2, column]
    scored = batch(TEXTS, tokenizer=RIGHT, labels=[7, 8, 9], positions=1).scored
    assert scored is not None and scored.sum().item() == 3 and scored[:, 1].all()


def test_labels_may_be_texts_that_are_one_token() -> None:
    data = batch(TEXTS, tokenizer=LEFT, labels=["dog", "[UNK]", "dog"])
    assert data.labels is not None and data.labels.tolist() == [8, 1, 8]
    assert data.scored is not None and data.scored[:, -1].all() and data.scored.sum().item() == 3


def test_labels_follow_the_positions_in_their_order() -> None:
    ids = torch.arange(12).reshape(2, 6)
    labels = torch.tensor([[20, 21], [30, 31]])
    ordered, swapped = batch(ids, labels=labels, positions=slice(-3, -1)), batch(ids, labels=labels, positions=[4, 3])
    assert ordered.labels is not None and ordered.labels.tolist() == [
        [-100, -100, -100, 20, 21, -100],
        [-100, -100, -100, 30, 31, -100],
    ]
    assert swapped.labels is not None and swapped.labels[:, 3:5].tolist() == [[21, 20], [31, 30]]
    for data in (ordered, swapped):
        assert data.scored is not None and data.scored.tolist() == [[False] * 3 + [True] * 2 + [False]] * 2


def test_full_labels_are_scored_where_they_are_labels_of_real_tokens() -> None:
    labels = torch.tensor([[5, -100, 6], [7, 8, 9]])
    data = batch([[2, 3, 4], [5, 6, 0]], labels=labels, attention_mask=[[1, 1, 1], [1, 1, 0]])
    assert data.labels is not None and data.labels.tolist() == [[5, -100, 6], [7, 8, -100]]
    assert data.scored is not None and data.scored.tolist() == [[True, False, True], [True, True, False]]


def test_float_labels_are_targets() -> None:
    assert batch(torch.rand(2, 3), labels=torch.rand(2, 5)).labels is not None
    data = batch([[2, 3, 4]], labels=torch.rand(1, 3, 5), positions=[0, 2])
    assert data.scored is not None and data.scored.tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": IDS, "positions": slice(2, None)}, "no next token"),
        ({"inputs": IDS, "positions": torch.zeros(3, dtype=torch.bool)}, "nothing to score in example 0"),
        ({"inputs": IDS, "labels": [1]}, "there are 2 examples"),
        ({"inputs": IDS, "labels": torch.tensor(1)}, "there are 2 examples"),
        ({"inputs": IDS, "labels": [[1], [1, 2]]}, "labels are numbers"),
        ({"inputs": IDS, "labels": ["a", 1]}, "labels are numbers .* or one text for each example"),
        ({"inputs": IDS, "labels": [["a"], ["a"]]}, "labels are numbers"),
        ({"inputs": IDS, "labels": ["a", "cat"]}, "the label of example 0: the token 'a' needs a tokenizer"),
        (
            {"inputs": IDS, "labels": ["a", "a cat"], "tokenizer": RIGHT},
            r"of example 1: 'a cat' is 2 tokens, \['a', 'cat'\]",
        ),
        ({"inputs": IDS, "labels": ["a", "owl"], "tokenizer": RIGHT}, r"of example 1: 'owl' is no token .* '\[UNK\]'"),
        ({"inputs": IDS, "labels": ["a"], "tokenizer": RIGHT}, "there are 2 examples"),
        ({"inputs": IDS, "labels": [True, False]}, "torch.bool"),
        ({"inputs": IDS, "labels": [1, -1]}, "labels of example 1 are negative"),
        ({"inputs": IDS, "labels": [[1, 2, 3], [-5, 2, 3]]}, "labels of example 1 are negative"),
        ({"inputs": IDS, "labels": [[1, 2], [3, 4]]}, "positions= selecting k positions"),
        ({"inputs": IDS, "labels": [[1, 2], [3, 4]], "positions": 0}, "selects 1 positions of example 0"),
        ({"inputs": IDS, "labels": [1, 2], "positions": [0, 1]}, r"give labels \[batch, 2\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
