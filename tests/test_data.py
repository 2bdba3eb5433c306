"""Batches: inputs, padding, labels and scored positions."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ablationlens.data import NO_LABEL, Batch, batch
from ablationlens.errors import InputError

WORDS = ["[PAD]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


def make_tokenizer(side: str = "right", pad: bool = True) -> PreTrainedTokenizerFast:
    plain = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    kinds: dict[str, Any] = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", padding_side=side, **kinds)


RIGHT, LEFT = make_tokenizer("right"), make_tokenizer("left")
TEXTS = ["the cat sat on a mat", "a dog ran", "the dog sat"]


def by_position(tensor: Tensor, data: Batch) -> list[list[Any]]:
    """The values at the real tokens of each example: what padding may not change."""
    assert data.attended is not None
    return [row[kept].tolist() for row, kept in zip(tensor, data.attended, strict=True)]


# --- inputs ---------------------------------------------------------------------------------------


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


def test_texts_are_padded_on_the_tokenizers_side_and_the_tokenizer_is_not_changed() -> None:
    before = (pickle.dumps(RIGHT.init_kwargs), RIGHT.backend_tokenizer.to_str())
    right, left = batch(TEXTS, tokenizer=RIGHT), batch(TEXTS, tokenizer=LEFT)
    assert right.inputs["input_ids"].tolist() == [[2, 3, 4, 5, 6, 7], [6, 8, 9, 0, 0, 0], [2, 8, 4, 0, 0, 0]]
    assert right.inputs["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert right.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 2], [0, 1, 2, 2, 2, 2]]
    assert left.inputs["input_ids"].tolist() == [[2, 3, 4, 5, 6, 7], [0, 0, 0, 6, 8, 9], [0, 0, 0, 2, 8, 4]]
    assert left.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 2]]
    assert before == (pickle.dumps(RIGHT.init_kwargs), RIGHT.backend_tokenizer.to_str())


def test_a_tokenizers_own_output_gives_the_same_batch_as_the_texts() -> None:
    for tokenizer in (RIGHT, LEFT):
        ours = batch(TEXTS, tokenizer=tokenizer)
        theirs = batch(tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=True))
        for name in ("input_ids", "attention_mask", "position_ids"):
            assert torch.equal(ours.inputs[name], theirs.inputs[name])
        assert "token_type_ids" in theirs.inputs  # whatever else there is passes through
        assert ours.labels is not None and theirs.labels is not None and torch.equal(ours.labels, theirs.labels)


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


# --- labels and positions -------------------------------------------------------------------------


@st.composite
def token_rows(draw: st.DrawFn) -> list[list[int]]:
    return draw(st.lists(st.lists(st.integers(2, 9), min_size=2, max_size=7), min_size=1, max_size=4))


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


def test_one_label_for_each_example_is_scored_at_its_last_token() -> None:
    for tokenizer, column in ((RIGHT, 2), (LEFT, 5)):
        data = batch(TEXTS, tokenizer=tokenizer, labels=[7, 8, 9])
        assert data.labels is not None and data.labels.tolist() == [7, 8, 9]
        assert data.scored is not None and data.scored.sum(1).tolist() == [1, 1, 1]
        assert data.scored[0, 5] and data.scored[1, column] and data.scored[2, column]
    scored = batch(TEXTS, tokenizer=RIGHT, labels=[7, 8, 9], positions=1).scored
    assert scored is not None and scored.sum().item() == 3 and scored[:, 1].all()


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


# --- what a batch can do --------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(rows=token_rows(), seed=st.integers(0, 99))
def test_take_equals_indexing(rows: list[list[int]], seed: int) -> None:
    data = batch(rows, tokenizer=RIGHT)
    index = torch.randint(len(rows), (5,), generator=torch.Generator().manual_seed(seed))
    taken = data.take(index)
    assert list(taken.inputs) == list(data.inputs) and len(taken) == 5
    for name, tensor in data.inputs.items():
        assert torch.equal(taken.inputs[name], tensor[index])
    assert data.labels is not None and taken.labels is not None and torch.equal(taken.labels, data.labels[index])
    assert data.scored is not None and taken.scored is not None and torch.equal(taken.scored, data.scored[index])


def test_take_repeats_texts_and_refuses_what_is_not_there() -> None:
    data = batch(TEXTS, tokenizer=RIGHT)
    assert data.take([2, 0, 0]).texts == (TEXTS[2], TEXTS[0], TEXTS[0])
    assert batch(torch.rand(3, 2)).take([1]).inputs["input"].shape == (1, 2)
    for index in ([3], [-1]):
        with pytest.raises(InputError, match="0 to 2"):
            data.take(index)


def test_to_moves_everything() -> None:
    moved = batch(TEXTS, tokenizer=RIGHT).to("meta")
    tensors = [*moved.inputs.values(), moved.labels, moved.scored, moved.attended]
    assert [tensor.device.type for tensor in tensors if tensor is not None] == ["meta"] * 6
    assert batch(torch.rand(2, 3)).to("meta").inputs["input"].is_meta


@pytest.mark.parametrize("tokenizer", [RIGHT, LEFT])
def test_like_keeps_padding_labels_and_scored_positions(tokenizer: Any) -> None:
    data = batch(TEXTS, tokenizer=tokenizer)
    texts = ["a dog ran on the cat", "the cat ran", "a mat sat"]
    expected = batch(texts, tokenizer=tokenizer)
    for others in (
        texts,
        list(tokenizer(texts).input_ids),
        expected.inputs["input_ids"],
        dict(expected.inputs),
    ):
        other = data.like(others)
        assert list(other.inputs) == list(data.inputs)
        for name, tensor in expected.inputs.items():
            assert torch.equal(other.inputs[name], tensor)
        assert other.labels is data.labels and other.scored is data.scored
        assert other.texts == (tuple(texts) if others is texts else None)
    assert data.texts == tuple(TEXTS)


def test_like_for_images_and_for_one_text() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert torch.equal(batch(torch.zeros(2, 3, 4, 4)).like(image).inputs["input"], image)
    assert batch("the cat", tokenizer=RIGHT).like("a dog").inputs["input_ids"].tolist() == [[6, 8]]
    assert batch([2, 3]).like(torch.tensor([4, 5])).inputs["input_ids"].tolist() == [[4, 5]]


def test_like_refuses_other_shapes_and_names_the_example() -> None:
    data = batch(TEXTS, tokenizer=RIGHT)
    with pytest.raises(InputError, match=r"example 1 has 3 tokens in this batch and 2 .*len\(tokenizer\(text\)"):
        data.like(["the cat sat on a mat", "a dog", "the dog sat"])
    with pytest.raises(InputError, match="3 examples in this batch and 2 counterparts"):
        data.like(TEXTS[:2])
    with pytest.raises(InputError, match=r"\[6\] in this batch and \[5\]"):
        data.like(torch.ones(3, 5, dtype=torch.long))
    with pytest.raises(InputError, match="3 examples in this batch and 1"):
        data.like(torch.ones(1, 6, dtype=torch.long))
    other_padding = {**data.inputs, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])}
    with pytest.raises(InputError, match="example 1 has 3 tokens in this batch and 4"):
        data.like(other_padding)
    with pytest.raises(InputError, match="attention_mask has shape"):
        data.like({"attention_mask": torch.ones(3, 5)})
    with pytest.raises(InputError, match="no input 'pixel_values'"):
        data.like({"pixel_values": torch.rand(3, 2)})
    with pytest.raises(InputError, match="integers"):
        data.like(torch.rand(3, 6))
    with pytest.raises(InputError, match="need a tokenizer"):
        batch([[2, 3]]).like(["the cat"])
    with pytest.raises(InputError, match="not tokens"):
        batch(torch.rand(1, 3)).like([[1, 2, 3]])
    with pytest.raises(InputError, match="no positions"):
        batch(torch.rand(1, 3)).like({"attention_mask": torch.ones(1, 3)})


def test_tokens_are_text_where_a_tokenizer_is_known() -> None:
    assert batch(TEXTS[1:], tokenizer=LEFT).tokens() == [["a", "dog", "ran"], ["the", "dog", "sat"]]
    assert batch(TEXTS[:2], tokenizer=LEFT).tokens()[1] == ["", "", "", "a", "dog", "ran"]
    assert batch([[2, 13]]).tokens() == [["2", "13"]]
    with pytest.raises(InputError, match="not tokens"):
        batch(torch.rand(2, 3)).tokens()


def test_names_are_short_and_unique() -> None:
    long = "the " * 20
    texts = [long, long + "cat", "the\n  cat", "the cat", "the cat (2)", "the cat"]
    names = batch(texts, tokenizer=RIGHT).names()
    assert len(set(names)) == len(texts) and all(len(name) <= 34 for name in names)
    assert names[0] == ("the " * 7 + "the")[:30].strip() and names[2:5] == ("the cat", "the cat (2)", "the cat (2) (2)")
    assert batch(torch.rand(2, 3)).names() == ("example 0", "example 1")


def test_fingerprint_tells_batches_apart() -> None:
    ids = torch.tensor([[2, 3, 4], [5, 6, 7]])
    same = {batch(ids).fingerprint(), batch(ids.int()).fingerprint(), batch(ids.tolist()).fingerprint()}
    others = [
        batch(ids + 1),
        batch(ids, positions=0),
        batch(ids, labels=[1, 2]),
        batch(ids, labels=[1, 3]),
        batch({"input": ids}),
        batch(ids, attention_mask=[[1, 1, 1], [1, 1, 0]]),
        batch(torch.rand(2, 3)),
        batch(torch.rand(2, 3).bfloat16()),
    ]
    assert len(same) == 1 and len(same | {data.fingerprint() for data in others}) == 1 + len(others)
    assert all(len(fingerprint) == 64 for fingerprint in same)


def test_a_batch_prints_its_size_not_its_tensors() -> None:
    assert repr(batch([[2, 3, 4]])) == "Batch(1 examples x 3 positions, 2 scored; input_ids)"
    assert repr(batch(torch.rand(2, 3))) == "Batch(2 examples; input)"


# --- errors ---------------------------------------------------------------------------------------

IDS = torch.tensor([[2, 3, 4], [5, 6, 7]])
RAGGED = [[2, 3], [4]]
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": TEXTS}, r"al\.batch\(texts, tokenizer=tokenizer\)"),
        ({"inputs": TEXTS, "tokenizer": RIGHT.backend_tokenizer}, "PreTrainedTokenizerFast"),
        ({"inputs": TEXTS, "tokenizer": make_tokenizer(pad=False)}, "tokenizer.pad_token = tokenizer.eos_token"),
        ({"inputs": ["the", ""], "tokenizer": RIGHT}, "'' has no tokens"),
        ({"inputs": RAGGED}, "without a tokenizer"),
        ({"inputs": [[2], []], "tokenizer": RIGHT}, "example 1 has no tokens"),
        ({"inputs": []}, "no example"),
        ({"inputs": ["the", [2]], "tokenizer": RIGHT}, "example 0 is not a text"),
        ({"inputs": [[2.5]]}, "example 0 is not a text"),
        ({"inputs": [torch.rand(2)]}, "example 0 is not a text"),
        ({"inputs": torch.tensor([[True, False]])}, "integers, not torch.bool"),
        ({"inputs": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, r"inputs.float\(\) / 255"),
        ({"inputs": torch.zeros(0, 3, dtype=torch.long)}, "at least one token"),
        ({"inputs": torch.rand(3)}, r"\[batch, \.\.\.\]"),
        ({"inputs": torch.tensor([[2, 3], [4, -1]])}, "negative token id in example 1"),
        ({"inputs": {"input_ids": torch.rand(2, 3)}}, "integers, not torch.float32"),
        ({"inputs": {"input_ids": [[2, 3]]}}, 'return_tensors="pt"'),
        ({"inputs": {"input_ids": IDS, "labels": IDS}}, "Give them apart"),
        ({"inputs": {}}, "empty"),
        ({"inputs": {"input_ids": IDS, "extra": torch.zeros(3)}}, "disagree on the batch"),
        ({"inputs": {"input_ids": IDS, "extra": torch.tensor(1)}}, "needs a batch axis"),
        ({"inputs": {"inputs_embeds": torch.rand(2)}}, "is .batch, position"),
        ({"inputs": {"input_ids": IDS, "position_ids": torch.zeros(2, 2, dtype=torch.long)}}, "position_ids are"),
        ({"inputs": {"input_ids": IDS, "position_ids": torch.zeros(2, 3)}}, "position_ids are"),
        ({"inputs": IDS, "attention_mask": torch.ones(2, 2)}, r"attention_mask has shape \[2, 2\]"),
        ({"inputs": IDS, "attention_mask": torch.tensor([[1, 1, 1], [1, 2, 1]])}, "something else in example 1"),
        ({"inputs": IDS, "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, "0 everywhere in example 1"),
        ({"inputs": {"input_ids": IDS, "attention_mask": MASK}, "attention_mask": MASK}, "given twice"),
        ({"inputs": RAGGED, "tokenizer": RIGHT, "attention_mask": [[1, 1], [1, 0]]}, "given twice"),
        ({"inputs": torch.rand(2, 3), "attention_mask": torch.ones(2, 3)}, "leave out attention_mask"),
        ({"inputs": torch.rand(2, 3), "positions": 0}, "no positions"),
        ({"inputs": IDS, "positions": 3}, "position 3 is out of range: example 0 has 3 tokens, so positions -3 to 2"),
        ({"inputs": IDS, "attention_mask": MASK, "positions": -3}, "example 1 has 2 tokens"),
        ({"inputs": IDS, "positions": [0, -3]}, "twice"),
        ({"inputs": IDS, "positions": []}, "positions are an int"),
        ({"inputs": IDS, "positions": True}, "positions are an int"),
        ({"inputs": IDS, "positions": torch.tensor([0.5])}, "positions are an int"),
        ({"inputs": IDS, "positions": slice(2, None)}, "no next token"),
        ({"inputs": IDS, "positions": torch.zeros(3, dtype=torch.bool)}, "nothing to score in example 0"),
        ({"inputs": IDS, "positions": torch.zeros(2, dtype=torch.bool)}, "a Bool tensor of positions"),
        ({"inputs": IDS, "attention_mask": MASK, "positions": torch.tensor([0, 0, 1]).bool()}, "padding in example 1"),
        ({"inputs": IDS, "labels": [1]}, "there are 2 examples"),
        ({"inputs": IDS, "labels": torch.tensor(1)}, "there are 2 examples"),
        ({"inputs": IDS, "labels": [[1], [1, 2]]}, "labels are numbers"),
        ({"inputs": IDS, "labels": ["a", "b"]}, "labels are numbers"),
        ({"inputs": IDS, "labels": [True, False]}, "torch.bool"),
        ({"inputs": IDS, "labels": [1, -1]}, "labels of example 1 are negative"),
        ({"inputs": IDS, "labels": [[1, 2, 3], [-5, 2, 3]]}, "labels of example 1 are negative"),
        ({"inputs": IDS, "labels": [[1, 2], [3, 4]]}, "positions= selecting k positions"),
        ({"inputs": IDS, "labels": [[1, 2], [3, 4]], "positions": 0}, "selects 1 positions of example 0"),
        ({"inputs": IDS, "labels": [1, 2], "positions": [0, 1]}, r"give labels \[batch, 2\]"),
    ],
)
def test_input_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
