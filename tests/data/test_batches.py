"""What a batch can do: rows, devices, counterfactual pairs, tokens, names, fingerprints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablationlens.data import batch
from ablationlens.errors import InputError
from tests.data.examples import LEFT, RIGHT, TEXTS, token_rows


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


def test_fingerprint_reads_slices_of_one_row() -> None:
    """A slice of a single row calls itself contiguous, whatever its stride is."""
    tokens = torch.arange(24).reshape(1, 24)
    sliced = batch(tokens[:, :8], labels=tokens[:, 16])
    assert sliced.fingerprint() == batch(tokens[:, :8].clone(), labels=tokens[:, 16].clone()).fingerprint()


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
