"""What holds of every output: its value, its precision, its gradient, its description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens.outputs
from ablationlens.data import Batch, batch
from ablationlens.outputs import KL, Custom, Logit, Margin, Output, PatternMass, SquaredError, TapOutput
from tests.outputs.callables import by_logits
from tests.outputs.examples import BATCHES, CLASSES, ROWS, Tokens, made, padded
from tests.outputs.naive import EVERY, NAIVE, scored_rows


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BATCHES.items()])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_outputs_equal_naive_loops(output: Output, naive: Callable[..., float], data: Batch) -> None:
    logits, clean = made((len(data), data.length or 0, CLASSES)), made((len(data), data.length or 0, CLASSES), 1)
    expected: list[float] = []
    for example in range(len(data)):
        pairs = zip(scored_rows(logits, data, example), scored_rows(clean, data, example), strict=True)
        values = [naive(row, label, other) for (row, label), (other, _) in pairs]
        expected.append(sum(values) / len(values))
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            scores = output(logits.clone().requires_grad_(graph), data, clean)
        assert scores.shape == (len(data),) and scores.requires_grad == graph
        assert scores.tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_class_models_have_no_positions(output: Output, naive: Callable[..., float]) -> None:
    logits, clean = made((3, CLASSES)), made((3, CLASSES), 1)
    images = batch(torch.rand(3, 2), tokenizer=Tokens(), labels=[0, 6, 2])
    tokens = padded(ROWS, labels=[0, 6, 2])  # a sequence classifier: what is scored is the example
    for data in (images, tokens):
        expected = [naive(logits[i].double(), [0, 6, 2][i], clean[i].double()) for i in range(3)]
        assert output(logits, data, clean).tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_results_are_float32_or_better(output: Output, naive: Callable[..., float], dtype: torch.dtype) -> None:
    data = BATCHES["right"]
    logits, clean = made((3, 5, CLASSES), dtype=dtype), made((3, 5, CLASSES), 1, dtype)
    for graph in (False, True):
        with torch.set_grad_enabled(graph):
            scores = output(logits, data, clean)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        wide = output(logits.double(), data, clean.double())
        assert torch.allclose(scores.double(), wide, atol=1e-12 if dtype == torch.float64 else 1e-6)


FEW = {  # the ways to select rows, in few logits: a gradient check runs the output twice for each of them
    "dense": padded([[1, 2], [3, 4]]),
    "left": padded([[3, 4, 1], [2, 1]], "left"),
    "packed": padded([[1, 2, 3, 4, 1]], positions=torch.tensor([1, 0, 0, 1, 0]).bool()),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in FEW.items()])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_gradients(output: Output, naive: Any, data: Batch) -> None:
    shape = (len(data), data.length or 0, 5)
    logits, clean = made(shape, 3, torch.float64).requires_grad_(), made(shape, 4, torch.float64)

    def scores(tensor: Tensor) -> Tensor:
        return output(tensor, data, clean)

    assert torch.autograd.gradcheck(scores, (logits,))


def test_only_kl_needs_the_unmodified_model() -> None:
    assert [type(output).__name__ for output, _ in NAIVE if output.needs_reference] == ["KL", "KL"]
    assert not SquaredError().needs_reference and not Custom(by_logits).needs_reference


class Doubled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 2 * logits[:, 0]


def test_only_outputs_from_outside_the_library_are_described_by_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = [value for value in vars(ablationlens.outputs).values() if isinstance(value, type)]
    made_here = [*(output for output, _ in NAIVE), SquaredError(), Custom(by_logits), PatternMass(0, 1)]
    assert {*map(type, made_here)} == {kind for kind in exported if issubclass(kind, Output)} - {Output, TapOutput}
    for output in made_here:
        assert "code" not in output.describe()
    assert Margin().describe() == {"output": "Margin"}
    assert Logit(" a").describe() == {"output": "Logit", "token": " a"}
    assert KL().describe() == {"output": "KL", "direction": "clean||ablated"}
    assert set(Doubled().describe()) == {"output", "code"}
    for module in ("ablationlens.outputs_of_mine", "mine.ablationlens.outputs.logits", "__main__"):
        monkeypatch.setattr(Doubled, "__module__", module)
        assert set(Doubled().describe()) == {"output", "code"}
