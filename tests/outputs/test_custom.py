"""Callables as outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs import Margin, as_output
from tests.outputs.callables import Callable2, by_both, by_logits, optional_batch, with_option
from tests.outputs.examples import BATCHES, CLASSES, made


def test_callables_get_the_logits_and_the_batch_if_they_take_it() -> None:
    data, logits = BATCHES["dense"], made((2, 4, CLASSES))
    last = logits[:, -1, 0]
    for function, expected in [
        (by_logits, last),
        (by_both, last + 2),
        (with_option, last * 2),
        (optional_batch, last + 2),
        (functools.partial(with_option, scale=3), last * 3),
        (Callable2(0), last),
    ]:
        assert torch.equal(as_output(function)(logits, data), expected)
    assert as_output(by_logits)(logits.half(), data).dtype == torch.float32
    margin = Margin()
    assert as_output(margin) is margin


RETURNS: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda logits: logits, r"\[2\], but returned torch.float32 \[2, 4, 7\]"),
    (lambda logits: logits.mean(), r"but returned torch.float32 \[\]"),
    (lambda logits: logits[:, 0].argmax(-1), "returned torch.int64"),
    (lambda logits: 1.0, "returned float"),
]


@pytest.mark.parametrize(("function", "message"), RETURNS)
def test_callables_must_return_one_float_for_each_row(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_output(function)(made((2, 4, CLASSES)), BATCHES["dense"])


def of_three(logits: Tensor, batch: Batch, reference: Tensor) -> Tensor:
    return logits - reference


def of_a_keyword(logits: Tensor, *, reference: Tensor) -> Tensor:
    return logits - reference


def test_what_is_not_an_output_is_refused() -> None:
    for wrong, message in [
        (Margin, r"Margin\(\)"),
        ("margin", "not a str"),
        (lambda: 0, "takes no argument"),
        (of_three, "needs more"),
        (of_a_keyword, "needs more"),
    ]:
        with pytest.raises(InputError, match=message):
            as_output(wrong)
