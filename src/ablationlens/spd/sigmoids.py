"""Sigmoids: from the real number that an importance function gives to a causal importance from 0 to 1.

The hard sigmoid has no gradient outside (0, 1), so an importance that reached an end would stay there. The leaky ones
have a small slope beyond one end. Two are used together ("leaky_hard"): the lower one, which leaks below 0 and so never
leaves [0, 1], makes the masks; the upper one, which leaks above 1, is what the importance loss sees, so that
importances above 1 are pulled down (arXiv 2506.20790, section 2.3; goodfire-ai/spd).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ablationlens.errors import UnknownNameError

LEAK = 0.01
"""Slope beyond the end at which a sigmoid leaks."""
SWISH_SHARPNESS = 10.0


class _LowerLeakyHard(torch.autograd.Function):
    """The hard sigmoid, with a gradient below 0 that only ever pulls up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (x,), (gradient,) = ctx.saved_tensors, grad_outputs
        # a loss that falls as the output rises has a negative gradient: only such a one may leave the flat part
        below = LEAK * gradient.clamp(max=0)
        return torch.where(x <= 0, below, gradient * (x <= 1))


def hard(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def lower_leaky_hard(x: Tensor) -> Tensor:
    """Values of the hard sigmoid; below 0 the gradient is LEAK times what pulls up, and nothing pulls down."""
    return _LowerLeakyHard.apply(x)  # type: ignore[return-value]


def upper_leaky_hard(x: Tensor) -> Tensor:
    """The hard sigmoid, rising with slope LEAK above 1."""
    return torch.where(x > 1, 1 + LEAK * (x - 1), x.clamp(0, 1))


def swish_hard(x: Tensor) -> Tensor:
    """A smooth hard sigmoid, the difference of two swish ramps: slightly outside [0, 1] near the ends."""

    def ramp(y: Tensor) -> Tensor:
        return y * torch.sigmoid(SWISH_SHARPNESS * y)

    return ramp(x) - ramp(x - 1)


class Sigmoid(NamedTuple):
    """What makes an importance function's output into importances.

    Attributes:
        lower: for masks.
        upper: for the importance loss.
    """

    lower: Callable[[Tensor], Tensor]
    upper: Callable[[Tensor], Tensor]


SIGMOIDS: dict[str, Sigmoid] = {
    "leaky_hard": Sigmoid(lower_leaky_hard, upper_leaky_hard),
    "hard": Sigmoid(hard, hard),
    "lower_leaky_hard": Sigmoid(lower_leaky_hard, lower_leaky_hard),
    "upper_leaky_hard": Sigmoid(upper_leaky_hard, upper_leaky_hard),
    "normal": Sigmoid(torch.sigmoid, torch.sigmoid),
    "swish_hard": Sigmoid(swish_hard, swish_hard),
}
"""By the name that a run of goodfire-ai/spd gives as its ``sigmoid_type``."""


def sigmoid(name: str) -> Sigmoid:
    """The sigmoid of a name.

    Raises:
        UnknownNameError: if there is none.
    """
    if not isinstance(name, str) or name not in SIGMOIDS:
        raise UnknownNameError(f"no sigmoid {name!r}: the sigmoids are {', '.join(SIGMOIDS)}")
    return SIGMOIDS[name]
