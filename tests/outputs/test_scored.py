"""Which rows are scored, and what must make no difference to them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablationlens.data import NO_LABEL, Batch, batch
from ablationlens.errors import InputError
from ablationlens.outputs import KL, CrossEntropy, Logit, LogitDifference, Margin, Output
from tests.outputs.examples import BATCHES, CLASSES, DENSE, IMAGES, INF, cases, made, padded
from tests.outputs.naive import EVERY, NAIVE


def laid_out(values: list[Tensor], data: Batch, filler: float) -> Tensor:
    """Logits of each example at its real tokens, and something else at the padding."""
    assert data.attended is not None
    logits = torch.full((*data.attended.shape, CLASSES), filler)
    for example, value in enumerate(values):
        logits[example, data.attended[example]] = value
    return logits


@settings(deadline=None, max_examples=25)
@given(case=cases(), filler=st.sampled_from([0.0, 50.0, INF, math.nan]), graph=st.booleans())
def test_padding_side_and_the_other_rows_change_nothing(
    case: tuple[list[list[int]], int], filler: float, graph: bool
) -> None:
    rows, seed = case
    values = [made((len(row), CLASSES), seed + i) for i, row in enumerate(rows)]
    clean = [made((len(row), CLASSES), seed + 100 + i) for i, row in enumerate(rows)]
    alone = [padded([row]) for row in rows]
    with torch.set_grad_enabled(graph):
        for output, _ in NAIVE:
            expected = [output(v[None], data, c[None]).item() for v, data, c in zip(values, alone, clean, strict=True)]
            for side in ("right", "left"):
                data = padded(rows, side)
                logits = laid_out(values, data, filler).requires_grad_(graph)
                scores = output(logits, data, laid_out(clean, data, filler))
                assert scores.tolist() == pytest.approx(expected, abs=2e-6)
                if graph:
                    scores.sum().backward()
                    assert data.attended is not None and logits.grad is not None
                    assert logits.grad.isfinite().all() and not logits.grad[~data.attended].any()


@pytest.mark.parametrize("data", [pytest.param(BATCHES[name], id=name) for name in ("dense", "right", "sparse")])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(("output", "naive"), EVERY)
def test_logits_are_unchanged_whatever_their_layout(output: Output, naive: Any, mode: Any, data: Batch) -> None:
    shape = (len(data), data.length or 0, CLASSES)
    with mode():
        plain = made(shape)
        plain[0, 0] = torch.tensor([INF, -INF, 0.0, -0.0, math.nan, 1.0, 2.0])  # must come back bit for bit
        narrow = made((*shape[:2], 9))[..., :CLASSES].copy_(plain)
        expanded = plain[:1].expand(shape)
        for logits in (plain, plain.transpose(1, 2).contiguous().transpose(1, 2), narrow, expanded):
            before, version = logits.clone().view(torch.int32), None if logits.is_inference() else logits._version
            scores = output(logits, data, made(shape))
            assert torch.equal(logits.view(torch.int32), before)
            assert logits.is_inference() or logits._version == version
            assert torch.equal(scores.isnan(), output(before.view(torch.float32), data, made(shape)).isnan())
            finite = ~scores.isnan()
            assert torch.equal(scores[finite], output(logits.contiguous(), data, made(shape))[finite])


def test_nan_at_a_scored_position_is_not_hidden() -> None:
    data, logits = BATCHES["right"], made((3, 5, CLASSES))
    logits[1, 0] = math.nan
    for output, _ in NAIVE:
        assert output(logits, data, made((3, 5, CLASSES), 1)).isnan().tolist() == [False, True, False]


def test_logits_by_position_of_inputs_without_positions_are_all_scored_or_as_labelled() -> None:
    features, logits = torch.rand(2, 3, 5), made((2, 3, CLASSES))
    assert torch.allclose(Logit(1)(logits, batch(features)), logits[..., 1].mean(1))
    data = batch(features, labels=[[1, -100, 2], [-100, -100, 3]])
    picked = [logits[0, [0, 2], [1, 2]].mean().item(), logits[1, 2, 3].item()]
    assert Logit("label")(logits, data).tolist() == pytest.approx(picked)


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"the reference has shape \[2, 6\], the logits \[2, 7\]"):
        KL()(made((2, 7)), DENSE, made((2, 6)))


@pytest.mark.parametrize(
    ("output", "shape", "data", "message"),
    [
        (
            Margin(),
            (2, 4, 3),
            DENSE,
            "example 0, position 1 has label 3, but the logits have 3 entries: labels are 0 to 2",
        ),
        (CrossEntropy(), (2, 3), batch(IMAGES, labels=[0, 3]), "example 1 has label 3, .* 0 to 2"),
        (Margin(), (2, 3), batch(IMAGES), r"Margin needs integer labels and the batch has none: al.batch\(.*labels="),
        (Logit("label"), (2, 3), batch(IMAGES), "Logit needs integer labels"),
        (LogitDifference(0, "label"), (2, 3), batch(IMAGES), "LogitDifference needs integer labels"),
        (CrossEntropy(), (2, 3), batch(IMAGES, labels=[0.5, 1.5]), "has float targets"),
        (Margin(), (2, 4, 7), padded([[1, 2, 3, 4]] * 2, positions=[0, -1]), "example 0, position 3 has none"),
        (Margin(), (2, 7), batch(IMAGES, labels=[NO_LABEL, 1]), "example 0 has none"),
        (Logit(0), (2, 1, 7), batch([[1], [2]]), "example 0 has no scored position"),
        (
            Margin(),
            (2, 2, 7),
            batch([[1, 2], [3, 4]], labels=[[1, 2], [-100, -100]]),
            "example 1 has no scored position",
        ),
        (Logit(0), (2,), DENSE, r"logits are \[batch, position, class\] or \[batch, class\]"),
        (Logit(0), (2, 4, 7, 1), DENSE, r"logits are \[batch, position, class\] or \[batch, class\]"),
        (Logit(0), (3, 4, 7), DENSE, "3 rows of logits for 2 examples"),
        (Logit(0), (2, 5, 7), DENSE, "the logits have 5 positions, the inputs 4"),
        (Margin(), (2, 7), DENSE, r"Margin: the logits are \[2, 7\], so labels are \[2\], not \[2, 4\]"),
        (Margin(), (2, 4, 7), batch(IMAGES, labels=[0, 1]), r"so labels are \[2, 4\], not \[2\]"),
    ],
)
def test_logits_labels_and_positions_that_do_not_fit_are_refused(
    output: Output, shape: tuple[int, ...], data: Batch, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        output(made(shape), data)
