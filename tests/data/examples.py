"""Tokenizers that pad on either side, texts, and the rows that tests of batches share."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ablationlens.data import Batch

WORDS = ["[PAD]", "[UNK]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


def make_tokenizer(side: str = "right", pad: bool = True) -> PreTrainedTokenizerFast:
    plain = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    kinds: dict[str, Any] = {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", padding_side=side, **kinds)


RIGHT, LEFT = make_tokenizer("right"), make_tokenizer("left")
TEXTS = ["the cat sat on a mat", "a dog ran", "the dog sat"]
IDS = torch.tensor([[2, 3, 4], [5, 6, 7]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


def by_position(tensor: Tensor, data: Batch) -> list[list[Any]]:
    """The values at the real tokens of each example: what padding may not change."""
    assert data.attended is not None
    return [row[kept].tolist() for row, kept in zip(tensor, data.attended, strict=True)]


@st.composite
def token_rows(draw: st.DrawFn) -> list[list[int]]:
    return draw(st.lists(st.lists(st.integers(2, 9), min_size=2, max_size=7), min_size=1, max_size=4))
