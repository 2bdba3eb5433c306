"""Adversarial sources: on losses whose maxima are known."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ablationlens as al
from ablationlens.spd import Ascent
from ablationlens.spd.adversary import ascend, starting

Q, V = (0, "attn.q"), (0, "attn.v")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(slopes: dict[Any, Tensor]) -> Any:
    """A loss of each example that is a sum of its sources times slopes: the worst is at a corner."""
    return lambda sources: torch.stack([(one * slopes[at]).flatten(1).sum(1) for at, one in sources.items()]).sum(0)


def test_a_linear_loss_is_driven_into_its_worst_corner() -> None:
    slopes = {Q: randn(3, 2, 4), V: randn(3, 2, 2, seed=1)}
    start = {where: torch.full_like(slope, 0.35) for where, slope in slopes.items()}
    found = ascend(linear(slopes), start, Ascent(7, 0.1))
    for where, slope in slopes.items():
        assert torch.equal(found.sources[where], (slope > 0).double())
    expected = torch.stack([slope.clamp(min=0).flatten(1).sum(1) for slope in slopes.values()]).sum(0)
    assert torch.allclose(found.loss, expected)
    assert found.trace.shape == (8, 3)
    assert torch.allclose(found.trace[0], linear(slopes)(start))


def test_a_step_is_the_sign_of_the_slope_times_its_size() -> None:
    slopes = {Q: torch.tensor([[3.0, -0.01, 0.0, 5.0]])}
    found = ascend(linear(slopes), {Q: torch.tensor([[0.5, 0.5, 0.5, 0.95]])}, Ascent(1, 0.2))
    assert torch.allclose(found.sources[Q], torch.tensor([[0.7, 0.3, 0.5, 1.0]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0.05, 1.0), st.booleans())
def test_spd_requirement_12_the_best_iterate_is_kept_and_sources_stay_from_0_to_1(
    seed: int, steps: int, size: float, shared: bool
) -> None:
    """A loss with a maximum inside, which steps of the sign go past."""
    top = randn(4, 3, seed=seed).sigmoid()
    met: list[Tensor] = []

    def loss_of(sources: dict[Any, Tensor]) -> Tensor:
        met.append(sources[Q].detach().clone())
        return -(sources[Q] - top).square().sum(1)

    start = {Q: torch.rand(1 if shared else 4, 3, generator=torch.Generator().manual_seed(seed)).double()}
    found = ascend(loss_of, start, Ascent(steps, size, "shared" if shared else "example"))
    assert len(met) == steps + 1
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in met)
    losses = torch.stack([-(one - top).square().sum(1) for one in met])
    assert torch.allclose(found.trace, losses)
    if shared:
        best = losses.sum(1).argmax()
        assert torch.equal(found.sources[Q], met[best])
        assert torch.allclose(found.loss, losses[best])
    else:
        assert torch.allclose(found.loss, losses.max(0).values)
        assert torch.allclose(-(found.sources[Q] - top).square().sum(1), found.loss)


def test_spd_requirement_28_no_gradient_is_left_on_parameters() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    start = {Q: torch.full((2, 3), 0.5)}
    for context in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
        with context:
            found = ascend(lambda sources: (sources[Q] * weight).sum(1), start, Ascent(2, 0.1))
        assert weight.grad is None
        assert torch.allclose(found.sources[Q], torch.full((2, 3), 0.7))
        assert not found.sources[Q].requires_grad
        assert not found.loss.requires_grad
    assert torch.equal(start[Q], torch.full((2, 3), 0.5))


def test_a_module_that_the_loss_does_not_reach_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="to not have been used"):
        ascend(lambda sources: sources[Q].sum(1), {Q: torch.ones(2, 3), V: torch.ones(2, 3)}, Ascent(1))


@pytest.mark.parametrize(("start", "scope"), list(product(["random", "ones", "zeros"], ["example", "shared"])))
def test_starts_and_scopes(start: str, scope: str) -> None:
    importances = {Q: torch.zeros(4, 5, 6), V: torch.zeros(4, 5, 2)}
    found = starting(importances, start, scope, torch.Generator().manual_seed(0))
    rows = (4, 5) if scope == "example" else (1, 1)
    assert {where: tuple(one.shape) for where, one in found.items()} == {Q: (*rows, 7), V: (*rows, 3)}
    values = torch.cat([one.flatten() for one in found.values()])
    if start == "random":
        assert len(values.unique()) == len(values)
    else:
        assert set(values.tolist()) == {1.0 if start == "ones" else 0.0}


def test_a_loss_that_is_no_number_is_refused() -> None:
    def loss_of(sources: dict[Any, Tensor]) -> Tensor:
        return sources[Q].sum(1) * torch.tensor([1.0, torch.nan])

    with pytest.raises(al.InputError, match=r"the loss of examples \[1\] is not a number"):
        ascend(loss_of, {Q: torch.full((2, 3), 0.5)}, Ascent(2, 0.1))


def test_sources_without_a_slope_stay_where_they_are() -> None:
    """A square root has no slope at 0 times 0: one source of no number would spoil every step after it."""
    found = ascend(lambda sources: (0 * sources[Q][:, :1]).sqrt().sum(1) + sources[Q][:, 1], {Q: torch.zeros(1, 2)},
                   Ascent(3, 0.25))  # fmt: skip
    assert torch.equal(found.sources[Q], torch.tensor([[0.0, 0.75]]))
    assert torch.equal(found.trace[:, 0], torch.tensor([0.0, 0.25, 0.5, 0.75]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"steps is a whole number from 1; got 0: without steps use Stochastic\(\)"),
        ((True,), "steps is a whole number from 1"),
        ((1, 0.0), "step_size is from 0 to 1"),
        ((1, 1.5), "step_size is from 0 to 1"),
        ((1, float("nan")), "step_size is from 0 to 1"),
        ((1, 0.1, "batch"), "scope is 'example' or 'shared'; got 'batch'"),
    ],
)
def test_bad_input(arguments: Any, message: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        Ascent(*arguments)
