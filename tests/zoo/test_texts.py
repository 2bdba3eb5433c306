"""Cutting texts into strings of an exact number of tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import ablationlens.zoo
from ablationlens.errors import InputError
from ablationlens.zoo.texts import MAX_TEXTS, exact_texts

SENTENCES = " ".join(f"The number {i} is followed by {i + 1}, and café costs €{i * 7}." for i in range(400))
RULER = "-" * 20_000 + "\n" + "0, " * 5_000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    path: Path = ablationlens.zoo.load("domains").path
    return Tokenizer.from_file(str(path / "tokenizer.json"))


@pytest.mark.parametrize("tokens", [8, 13, 64, 128])
def test_every_string_encodes_to_exactly_so_many_tokens(tokenizer: Tokenizer, tokens: int) -> None:
    texts = exact_texts([("a", SENTENCES)], tokenizer, tokens)
    assert texts
    assert {len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts} == {tokens}


def test_strings_do_not_overlap_and_come_from_the_file(tokenizer: Tokenizer) -> None:
    texts = exact_texts([("a", SENTENCES)], tokenizer, 64)
    spans = sorted((SENTENCES.index(text), SENTENCES.index(text) + len(text)) for text in texts)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_files_take_turns(tokenizer: Tokenizer) -> None:
    files = [(name, SENTENCES.replace("number", name)) for name in ("alpha", "beta", "gamma", "delta")]
    texts = exact_texts(files, tokenizer, 64)
    assert [next(name for name, _ in files if name in text) for text in texts[:8]] == [name for name, _ in files] * 2


def test_degenerate_slices_are_dropped(tokenizer: Tokenizer) -> None:
    assert exact_texts([("ruler", RULER)], tokenizer, 64) == []


def test_equal_slices_count_once(tokenizer: Tokenizer) -> None:
    texts = exact_texts([("a", SENTENCES), ("b", SENTENCES)], tokenizer, 32)
    assert len(set(texts)) == len(texts) <= MAX_TEXTS


@pytest.mark.parametrize("tokens", [0, 7, 129])
def test_other_lengths_are_refused(tokenizer: Tokenizer, tokens: int) -> None:
    with pytest.raises(InputError, match="from 8 to 128"):
        exact_texts([("a", SENTENCES)], tokenizer, tokens)
