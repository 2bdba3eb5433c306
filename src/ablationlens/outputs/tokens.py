"""How an output names an entry of the logits."""

from __future__ import annotations

from typing import TypeAlias

from ablationlens.data import Batch
from ablationlens.errors import InputError

Token: TypeAlias = int | str
"""An entry of the logits: its index, a text that the batch's tokenizer maps to exactly one token, or "label"."""


def check_token(token: Token) -> None:
    """Refuse what can be no token."""
    if isinstance(token, bool) or not isinstance(token, int | str) or (isinstance(token, int) and token < 0):
        raise InputError(f'a token is an index from 0, a text or "label", not {token!r}')


def token_id(text: str, batch: Batch) -> int:
    """The one token that the batch's tokenizer maps this text to."""
    if batch.tokenizer is None:
        raise InputError(f"the token {text!r} needs a tokenizer, al.batch(..., tokenizer=tokenizer), or its index")
    ids: list[int] = batch.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [batch.tokenizer.decode([token]) for token in ids]
        raise InputError(f"{text!r} is {len(ids)} tokens, {pieces}, not one (a leading space often matters)")
    return int(ids[0])
