"""Cut texts into strings of an exact number of tokens.

A slice of token ids, decoded, does not always encode back to the same ids (it may begin inside a character, or end
inside a run of spaces). Only slices that survive the round trip are kept, so what a user tokenises is what was cut.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ablationlens.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TEXTS = 512
"""How many strings `exact_texts` returns at most; 200 are promised."""

MAX_CHARACTERS_PER_FILE = 60_000
"""Cutting a file into strings reads no more of it than this, which keeps it fast."""

MIN_TOKENS, MAX_TOKENS = 8, 128


def exact_texts(files: Iterable[tuple[str, str]], tokenizer: Tokenizer, tokens: int) -> list[str]:
    """Cut files into non-overlapping strings that encode to exactly `tokens` tokens each.

    The files take turns, and the slices of one file come in an order drawn from its name: the first few strings are
    neither all of one file nor all of licence headers. The same files give the same strings in the same order.

    Args:
        files: (name, text) pairs.
        tokenizer: A `tokenizers.Tokenizer`; no special tokens are added.
        tokens: The length of every string, 8 to 128.

    Raises:
        InputError: if `tokens` is out of range.
    """
    if not MIN_TOKENS <= tokens <= MAX_TOKENS:
        raise InputError(f"tokens must be from {MIN_TOKENS} to {MAX_TOKENS}, not {tokens}")
    found: list[str] = []
    distinct: set[str] = set()
    waiting = [_slices(name, text, tokenizer, tokens) for name, text in files]
    while waiting:
        for slices in list(waiting):
            text = next((text for text in slices if text not in distinct), None)
            if text is None:
                waiting.remove(slices)
                continue
            found.append(text)
            distinct.add(text)
            if len(found) == MAX_TEXTS:
                return found
    return found


def _slices(name: str, text: str, tokenizer: Tokenizer, tokens: int) -> Iterator[str]:
    ids: list[int] = tokenizer.encode(text[:MAX_CHARACTERS_PER_FILE], add_special_tokens=False).ids
    starts = list(range(0, len(ids) - tokens + 1, tokens))
    random.Random(name).shuffle(starts)
    for start in starts:
        piece = ids[start : start + tokens]
        if _is_degenerate(piece):
            continue
        candidate = tokenizer.decode(piece, skip_special_tokens=False)
        if tokenizer.encode(candidate, add_special_tokens=False).ids == piece:
            yield candidate


def _is_degenerate(ids: Sequence[int]) -> bool:
    """Whether a slice says too little: a ruler of dashes, a table of zeros."""
    counts = Counter(ids)
    return len(counts) * 6 < len(ids) or max(counts.values()) * 2 > len(ids)
