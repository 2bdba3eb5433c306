"""The squared error of a regression."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from ablationlens.data import Batch, batch
from ablationlens.errors import InputError
from ablationlens.outputs import Output, SquaredError
from tests.outputs.examples import DENSE, IMAGES, made


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_squared_error_of_inputs_without_positions(shape: tuple[int, ...]) -> None:
    values, targets = made(shape), made(shape, 1)
    data = batch(torch.rand(2, 9), labels=targets)
    expected = [float(functional.mse_loss(values[i], targets[i])) for i in range(2)]
    assert SquaredError()(values, data).tolist() == pytest.approx(expected, abs=1e-6)
    assert SquaredError()(values.unsqueeze(-1), data).tolist() == pytest.approx(expected, abs=1e-6)
    assert SquaredError()(values.half(), data).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_squared_error_is_averaged_over_scored_positions(shape: tuple[int, ...]) -> None:
    values, targets = made(shape), made(shape, 1)
    values[1, 2:] = targets[1, 2:] = math.nan
    values.requires_grad_()
    data = batch([[1, 2, 3], [4, 5, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]], labels=targets)
    scores = SquaredError()(values, data)
    expected = [functional.mse_loss(values[i, :n], targets[i, :n]).item() for i, n in enumerate((3, 2))]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)
    scores.sum().backward()
    assert values.grad is not None and values.grad.isfinite().all()


@pytest.mark.parametrize(
    ("output", "shape", "data", "message"),
    [
        (SquaredError(), (2, 7), DENSE, "needs float targets"),
        (SquaredError(), (2, 7), batch(IMAGES), "needs float targets"),
        (
            SquaredError(),
            (2, 7),
            batch(IMAGES, labels=torch.rand(2, 6)),
            r"shape \[2, 6\], the model's output \[2, 7\]",
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused(output: Output, shape: tuple[int, ...], data: Batch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        output(made(shape), data)
