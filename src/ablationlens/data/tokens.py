"""Token ids: of texts, of lists that may differ in length, and what any tensor of them must be."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ablationlens.data.checks import is_integer, is_integral, where_rows
from ablationlens.errors import InputError

Tokenizer: TypeAlias = Any  # a Hugging Face tokenizer; duck-typed, so that nothing here imports transformers


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of each text. Padding is left to us: the tokenizer's own settings may not be touched."""
    if tokenizer is None:
        raise InputError("texts need a tokenizer: al.batch(texts, tokenizer=tokenizer)")
    if not callable(tokenizer):
        raise InputError(
            f"the tokenizer, a {type(tokenizer).__name__}, cannot be called. A tokenizers.Tokenizer becomes a Hugging "
            "Face one with transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)"
        )
    encoded = cast("Mapping[str, Any]", tokenizer(list(texts)))
    rows = [[int(token) for token in row] for row in encoded["input_ids"]]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise InputError(f"the text {text!r} has no tokens")
    return rows


def one_token(text: str, tokenizer: Tokenizer) -> int:
    """The one token that a tokenizer maps this text to, special tokens left out.

    Raises:
        InputError: if it is several, or the tokenizer does not know it.
    """
    if tokenizer is None:
        raise InputError(f"the token {text!r} needs a tokenizer, al.batch(..., tokenizer=tokenizer), or its index")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [tokenizer.decode([token]) for token in ids]
        raise InputError(f"{text!r} is {len(ids)} tokens, {pieces}, not one (a leading space often matters)")
    if ids[0] == getattr(tokenizer, "unk_token_id", None) and text != tokenizer.unk_token:
        raise InputError(f"{text!r} is no token of this tokenizer, which reads it as {tokenizer.unk_token!r}")
    return int(ids[0])


def rows_of(inputs: Any) -> list[list[int]]:
    """Lists of token ids, one for each example; a flat list is one example."""
    items = list(inputs)
    if not items:
        raise InputError("there is no example: inputs is empty")
    if all(is_integer(item) for item in items):
        items = [items]
    rows: list[list[int]] = []
    for example, item in enumerate(items):
        row: Any = item.tolist() if isinstance(item, Tensor | np.ndarray) else item
        if not isinstance(row, list | tuple) or not all(is_integer(token) for token in cast("list[Any]", row)):
            raise InputError(
                f"example {example} is not a text or a list of token ids but a {type(item).__name__}. Give all texts, "
                "all lists of ids, or one tensor (torch.stack joins several)"
            )
        if not row:
            raise InputError(f"example {example} has no tokens")
        rows.append([operator.index(token) for token in cast("list[int]", row)])
    return rows


def padded(rows: list[list[int]], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """One tensor, padded on the tokenizer's side with its pad token where the lengths differ."""
    width = max(map(len, rows))
    if all(len(row) == width for row in rows):
        return {"input_ids": checked_tokens(torch.tensor(rows), "input_ids")}
    if tokenizer is None:
        raise InputError(
            "the examples have different lengths, and without a tokenizer no pad token is known: give tokenizer=, or a "
            "padded tensor with attention_mask="
        )
    pad: int | None = tokenizer.pad_token_id
    if pad is None:
        raise InputError(
            "the examples have different lengths and the tokenizer has no pad token. Any token will do, because "
            "padding is neither attended nor scored: tokenizer.pad_token = tokenizer.eos_token"
        )
    left = getattr(tokenizer, "padding_side", "right") == "left"
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for example, row in enumerate(rows):
        real = slice(width - len(row), width) if left else slice(0, len(row))
        ids[example, real] = torch.tensor(row)
        mask[example, real] = 1
    return {"input_ids": checked_tokens(ids, "input_ids"), "attention_mask": mask}


def checked_tokens(tokens: Tensor, name: str) -> Int[Tensor, "batch position"]:
    """These tokens as int64, if that is what they are; `name` is what an error calls them."""
    if not is_integral(tokens):
        raise InputError(f"'{name}' holds token ids, so integers, not {tokens.dtype}")
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise InputError(f"'{name}' is [batch, position] with at least one token, not {list(tokens.shape)}")
    for example in where_rows((tokens < 0).any(1)):
        raise InputError(f"'{name}' holds a negative token id in example {example}")
    return tokens.long()
