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
from tests.outputs.examples import CLASSES, DENSE, IMAGES, INF, ROWS, cases, made, padded
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


def naive_two_class(row: Tensor, label: int, classes: list[int]) -> float:
    return float(row[label]) - max(float(row[other]) for other in classes if other != label)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("classes", [("b", "e"), (4, 1), (1, "e", 6), ("g", "e", "c", "b")])
def test_a_margin_among_candidates_looks_at_no_other_logit(classes: tuple[Any, ...], side: str, graph: bool) -> None:
    indices = [ord(token) - ord("a") if isinstance(token, str) else token for token in classes]
    labels = [indices[0], indices[1], indices[-1]]
    data = padded(ROWS, side, labels=labels)
    logits = made((3, 5, CLASSES), 2)
    last = data.scored.nonzero()[:, 1]  # type: ignore[union-attr]
    expected = [naive_two_class(logits[i, last[i]], labels[i], indices) for i in range(3)]
    others = [index for index in range(CLASSES) if index not in indices]
    logits[..., others] = torch.tensor([INF, -INF, 1e30, 0, 0, 0, 0])[: len(others)]
    logits.requires_grad_(graph)
    before = logits.detach().clone()
    with torch.set_grad_enabled(graph):
        margins = Margin(classes=classes)(logits, data)
    assert margins.tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(logits.detach(), before)
    if graph:
        margins.sum().backward()
        assert logits.grad is not None and logits.grad.abs().sum() == 6 and not logits.grad[..., others].any()


def test_a_margin_among_candidates_averages_over_positions_and_skips_what_is_not_scored() -> None:
    logits = made((2, 4, CLASSES), 5)
    for positions in ([0, 2], [0, 1, 2]):  # few rows are packed, many are not
        labels = [[1, 4, 1], [4, 4, 1]]
        aligned = [[row[position] if position in positions else 6 for position in range(3)] + [-100] for row in labels]
        data = padded([[1, 2, 3, 4], [6, 5, 4, 3]], labels=aligned, positions=positions)
        expected = [
            sum(naive_two_class(logits[i, t], labels[i][t], [1, 4]) for t in positions) / len(positions)
            for i in range(2)
        ]
        assert Margin(["b", "e"])(logits, data).tolist() == pytest.approx(expected, abs=1e-6)


def test_classes_of_a_classifier_are_indices() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 9.0], [4.0, 1.0, 2.0, 9.0]])
    data = batch(torch.rand(2, 2), labels=[0, 2])
    assert Margin(classes=[0, 2])(logits, data).tolist() == [-2, -2]


def test_all_entries_as_candidates_is_the_plain_margin() -> None:
    logits, data = made((3, 5, CLASSES)), padded(ROWS)
    assert torch.equal(Margin(classes=list(range(CLASSES)))(logits, data), Margin()(logits, data))


def test_a_margin_among_candidates_says_which() -> None:
    assert Margin(classes=[" yes", 7]).describe() == {"output": "Margin", "classes": [" yes", 7]}
    assert Margin(classes=[" yes", 7]) == Margin((" yes", 7)) != Margin()
    assert len({Margin([1, 2]), Margin((1, 2))}) == 1


@pytest.mark.parametrize("classes", ["ab", [1], [], [1, -2], [1, True], ["label", 1]])
def test_classes_that_are_none_are_refused(classes: Any) -> None:
    with pytest.raises(InputError, match="two or more tokens|a token is an index|is no class of its own"):
        Margin(classes=classes)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (["b", "bc"], [1, 1, 1], r"'bc' is 2 tokens"),
        (["b", 9], [1, 1, 1], "there is no logit 9"),
        (["b", 2, 1], [1, 1, 1], r"two of the classes \['b', 2, 1\] are the same token: their indices are \[1, 2, 1\]"),
        (["b", "c"], [1, 2, 3], r"example 2 has the label 3 \('d'\), which is none of the classes \['b', 'c'\]"),
    ],
)
def test_classes_that_do_not_fit_the_batch_are_refused(classes: list[Any], labels: list[int], message: str) -> None:
    for graph in (False, True):
        with torch.set_grad_enabled(graph), pytest.raises(InputError, match=message):
            Margin(classes)(made((3, 5, CLASSES)).requires_grad_(graph), padded(ROWS, labels=labels))


def test_the_example_of_a_label_that_is_no_candidate_is_named_whatever_the_layout() -> None:
    rows, few = [[1, 2, 3, 4, 1, 1], [6, 5, 4, 1, 1, 3]], torch.tensor([0, 0, 0, 0, 1, 0]).bool()
    for data in (padded(rows), padded(rows, positions=few)):
        with pytest.raises(InputError, match=r"example (0 has the label 2|1 has the label 3) "):
            Margin(classes=[1, 0])(made((2, 6, CLASSES)), data)
    images = batch(torch.rand(3, 2), labels=[0, 1, 2])
    with pytest.raises(InputError, match=r"example 2 has the label 2, which"):
        Margin(classes=[0, 1])(made((3, CLASSES)), images)


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
