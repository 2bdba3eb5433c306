"""Sigmoids of importance functions: values and gradients by their definitions, written out number by number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ablationlens as al
from ablationlens.spd import sigmoids
from ablationlens.spd.sigmoids import SIGMOIDS, sigmoid

POINTS = torch.tensor([-2.0, -0.1, 0.0, 0.3, 1.0, 1.2, 3.0], dtype=torch.float64)
VALUES: dict[str, list[float]] = {
    "hard": [0, 0, 0, 0.3, 1, 1, 1],
    "lower_leaky_hard": [0, 0, 0, 0.3, 1, 1, 1],
    "upper_leaky_hard": [0, 0, 0, 0.3, 1, 1.002, 1.02],
}
real = st.floats(-3, 3, allow_nan=False).filter(lambda x: min(abs(x), abs(x - 1)) > 1e-6)


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    expected = torch.tensor(VALUES[name], dtype=torch.float64)
    for function in sigmoid(name):
        assert torch.allclose(function(POINTS), expected, atol=1e-12)


def test_leaky_hard_makes_masks_with_the_lower_and_the_importance_loss_with_the_upper() -> None:
    both = sigmoid("leaky_hard")
    assert both.lower is sigmoids.lower_leaky_hard
    assert both.upper is sigmoids.upper_leaky_hard


def test_normal_is_the_logistic_function() -> None:
    assert torch.allclose(sigmoid("normal").lower(POINTS), 1 / (1 + torch.exp(-POINTS)))


def test_swish_hard_by_its_definition() -> None:
    """Half and four swishes, two of them upside down, as the method's authors write it."""
    x = POINTS - 0.5

    def swish(y: Tensor) -> Tensor:
        return y / (1 + torch.exp(-10 * y))

    def upside_down(y: Tensor) -> Tensor:
        return y / (1 + torch.exp(10 * y))

    expected = 0.5 + (upside_down(x - 0.5) - swish(x)) + (swish(x + 0.5) - upside_down(x))
    assert torch.allclose(sigmoid("swish_hard").upper(POINTS), expected, atol=1e-12)


def slope(function: Callable[[Tensor], Tensor], x: float, pull: float) -> float:
    """Gradient at x of pull * function."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(pull * function(at), at)
    return float(found)


@given(real, st.floats(-5, 5).filter(lambda pull: abs(pull) > 1e-3))
def test_the_lower_leak_lets_a_gradient_pass_below_0_only_if_it_pulls_up(x: float, pull: float) -> None:
    below = 0.01 * min(pull, 0.0)  # descending a loss that falls as x rises
    expected = below if x < 0 else pull * (x < 1)
    assert slope(sigmoids.lower_leaky_hard, x, pull) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "pull", "expected"), [(0.0, -2.0, -0.02), (0.0, 2.0, 0.0), (1.0, 2.0, 2.0), (1.0, -2.0, -2.0)]
)
def test_the_lower_leak_at_the_ends(x: float, pull: float, expected: float) -> None:
    assert slope(sigmoids.lower_leaky_hard, x, pull) == pytest.approx(expected, abs=1e-12)


@given(real)
def test_the_upper_leak_pulls_down_what_is_above_1(x: float) -> None:
    expected = 0.0 if x < 0 else (1.0 if x < 1 else 0.01)
    assert slope(sigmoids.upper_leaky_hard, x, 1.0) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-50, 50), st.sampled_from(["leaky_hard", "hard", "lower_leaky_hard", "normal"]))
def test_what_makes_masks_stays_from_0_to_1(x: float, name: str) -> None:
    assert 0 <= float(sigmoid(name).lower(torch.tensor(x))) <= 1


def test_an_unknown_name() -> None:
    with pytest.raises(al.UnknownNameError, match="no sigmoid 'soft': the sigmoids are leaky_hard, hard"):
        sigmoid("soft")
    assert set(SIGMOIDS) == {"leaky_hard", "normal", "hard", "swish_hard", "upper_leaky_hard", "lower_leaky_hard"}
