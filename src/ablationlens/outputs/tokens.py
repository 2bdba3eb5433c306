"""How an output names an entry of the logits."""

from __future__ import annotations

from typing import TypeAlias

from ablationlens.data import Batch
from ablationlens.data.tokens import one_token
from ablationlens.errors import InputError

Token: TypeAlias = int | str
"""An entry of the logits: its index, a text that the batch's tokenizer maps to exactly one token, or "label"."""


def check_token(token: Token) -> None:
    """Refuse what can be no token."""
    if isinstance(token, bool) or not isinstance(token, int | str) or (isinstance(token, int) and token < 0):
        raise InputError(f'a token is an index from 0, a text or "label", not {token!r}')


def token_id(token: Token, batch: Batch, classes: int) -> int:
    """The entry of the logits that a token names, other than "label".

    Raises:
        InputError: if the batch's tokenizer does not map a text to exactly one token, or there is no such entry.
    """
    index = one_token(token, batch.tokenizer) if isinstance(token, str) else token
    if index >= classes:
        raise InputError(f"there is no logit {index}: the logits have {classes} entries, 0 to {classes - 1}")
    return index
