"""A tokenizer of letters, seeded logits, and batches padded and scored in every way."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from ablationlens.data import Batch, batch

CLASSES = 7
INF = math.inf


class Tokens:
    """The least that a tokenizer must do: one token for each letter; pads on a side that can be set."""

    pad_token_id = 0

    def __init__(self, side: str = "right") -> None:
        self.padding_side = side

    def __call__(self, texts: str | list[str], add_special_tokens: bool = True) -> dict[str, Any]:
        ids = [[ord(letter) - ord("a") for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def made(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def padded(rows: list[list[int]], side: str = "right", **options: Any) -> Batch:
    return batch(rows, tokenizer=Tokens(side), **options)


ROWS = [[1, 2, 3, 4, 5], [6, 5, 4], [3, 2]]
BATCHES = {
    "dense": padded([[1, 2, 3, 4], [6, 5, 4, 3]]),
    "right": padded(ROWS),
    "left": padded(ROWS, "left"),
    "few": padded(ROWS, positions=0),
    "sparse": padded([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], positions=torch.tensor([1, 0, 0, 0, 1, 0]).bool()),
    "last": padded(ROWS, labels=[1, 2, 3]),
    "full": padded(ROWS, labels=[[1, -100, 3, 2, 1], [1, 2, 3, -100, 0], [-100, 6, -100, 1, 1]]),
}
DENSE = BATCHES["dense"]
IMAGES = torch.rand(2, 3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], int]:
    rows = st.lists(st.integers(1, CLASSES - 1), min_size=2, max_size=6)
    return draw(st.lists(rows, min_size=1, max_size=4)), draw(st.integers(0, 999))
