"""The margin, a logit, a difference of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablationlens.data import Batch, batch
from ablationlens.errors import InputError
from ablationlens.outputs import Logit, Margin, Output
from tests.outputs.examples import CLASSES, DENSE, IMAGES, cases, made, padded
from tests.outputs.naive import naive_margin


@settings(deadline=None, max_examples=50)
@given(case=cases(), constant=st.floats(-20, 20))
def test_coar_requirement_11_a_margin_ignores_a_constant_and_its_sign_is_accuracy(
    case: tuple[list[list[int]], int], constant: float
) -> None:
    rows, seed = case
    data = padded([row[:2] for row in rows])  # one scored position each
    logits = made((len(rows), 2, CLASSES), seed)
    margins = Margin()(logits, data)
    assert torch.allclose(margins, Margin()(logits + constant, data), atol=1e-4)
    right = logits[:, 0].argmax(-1) == torch.tensor([row[1] for row in rows])
    assert torch.equal(margins > 0, right)


def test_a_tie_for_the_label_is_a_margin_of_zero() -> None:
    assert Margin()(torch.tensor([[1.0, 3.0, 3.0]]), batch(torch.rand(1, 2), labels=[2])).tolist() == [0]


def test_logits_from_inference_mode_can_be_scored_outside_it() -> None:
    with torch.inference_mode():
        logits = made((1, CLASSES))
    data = batch(torch.rand(1, 2), labels=[1])
    with torch.no_grad():
        assert Margin()(logits, data).item() == pytest.approx(naive_margin(logits[0], 1, logits[0]), abs=1e-6)


def test_a_margin_of_a_graphs_logits_leaves_the_graph_usable() -> None:
    logits = made((3, CLASSES)).requires_grad_().exp()  # exp keeps its output for the backward pass
    with torch.no_grad():
        Margin()(logits, batch(torch.rand(3, 2), labels=[0, 1, 2]))
    logits.sum().backward()  # would raise if a write had been noticed


def test_an_error_during_the_margin_leaves_the_logits_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    logits, data = made((2, CLASSES)), batch(torch.rand(2, 2), labels=[0, 1])
    before = logits.clone()
    monkeypatch.setattr(Tensor, "amax", stop)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        Margin()(logits, data)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("output", "shape", "data", "message"),
    [
        (Margin(), (2, 1), batch(IMAGES, labels=[0, 0]), "at least two classes"),
        (Logit(7), (2, 7), DENSE, "there is no logit 7: the logits have 7 entries, 0 to 6"),
    ],
)
def test_logits_with_too_few_entries_are_refused(
    output: Output, shape: tuple[int, ...], data: Batch, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        output(made(shape), data)
