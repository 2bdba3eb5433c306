"""Token ids of texts and lists, padded on the tokenizer's side."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

from ablationlens.data import batch
from ablationlens.errors import InputError
from tests.data.examples import LEFT, RIGHT, TEXTS, make_tokenizer


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": TEXTS}, r"al\.batch\(texts, tokenizer=tokenizer\)"),
        ({"inputs": TEXTS, "tokenizer": RIGHT.backend_tokenizer}, "PreTrainedTokenizerFast"),
        ({"inputs": TEXTS, "tokenizer": make_tokenizer(pad=False)}, "tokenizer.pad_token = tokenizer.eos_token"),
        ({"inputs": ["the", ""], "tokenizer": RIGHT}, "'' has no tokens"),
        ({"inputs": [[2, 3], [4]]}, "without a tokenizer"),
        ({"inputs": [[2], []], "tokenizer": RIGHT}, "example 1 has no tokens"),
        ({"inputs": []}, "no example"),
        ({"inputs": ["the", [2]], "tokenizer": RIGHT}, "example 0 is not a text"),
        ({"inputs": [[2.5]]}, "example 0 is not a text"),
        ({"inputs": [torch.rand(2)]}, "example 0 is not a text"),
        ({"inputs": torch.tensor([[True, False]])}, "integers, not torch.bool"),
        ({"inputs": torch.zeros(0, 3, dtype=torch.long)}, "at least one token"),
        ({"inputs": torch.tensor([[2, 3], [4, -1]])}, "negative token id in example 1"),
        ({"inputs": {"input_ids": torch.rand(2, 3)}}, "integers, not torch.float32"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch(**arguments)
