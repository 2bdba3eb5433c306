"""How an output names an entry of the logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ablationlens.data import Batch, batch
from ablationlens.errors import InputError
from ablationlens.outputs import Logit, LogitDifference, Output
from tests.outputs.examples import DENSE, IMAGES, made


@pytest.mark.parametrize("make", [lambda: Logit(-1), lambda: Logit(True), lambda: LogitDifference(0, -2)])
def test_tokens_are_checked_when_an_output_is_made(make: Callable[[], Output]) -> None:
    with pytest.raises(InputError, match="a token is an index from 0"):
        make()


@pytest.mark.parametrize(
    ("output", "shape", "data", "message"),
    [
        (Logit("ab"), (2, 7), DENSE, r"'ab' is 2 tokens, \['a', 'b'\]"),
        (Logit("a"), (2, 7), batch(IMAGES), "needs a tokenizer"),
    ],
)
def test_texts_that_are_not_one_token_are_refused(
    output: Output, shape: tuple[int, ...], data: Batch, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        output(made(shape), data)
