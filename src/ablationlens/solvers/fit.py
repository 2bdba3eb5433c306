"""What every solver returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True)
class Fit:
    """Coefficients of one linear model per target, and how far the draws determine them.

    Attributes:
        weights: effect of keeping each component, in units of the outputs. Unidentified components: see below.
        bias: predicted output with every component ablated, in units of the outputs.
        penalty: the penalty used on all draws: 0 for least squares, ``alpha`` of scikit-learn's ``Ridge`` (added to
            the Gram's diagonal) or of its ``Lasso`` (which divides the squared error by 2 * draws) for those two.
        rank: rank of the centred masks, from the factor of their unpenalised Gram. Full rank is the number of
            components, or one less where ``level_open``.
        condition: estimated condition number (1-norm) of the factorised Gram: with ridge's penalty, without lasso's;
            of its identified part where it is singular. It is the square of that of the masks.
        unidentified: components whose own weight the draws leave open. One that is never or always ablated has weight
            0 (its effect is in the bias). One that the other components reproduce exactly (always ablated together
            with another, say) shares their common effect: evenly in least squares and ridge. With fewer draws than
            components the draws identify nothing without a penalty (``rank`` tells), and only the first sort is marked.
        level_open: every draw has the same number of kept components (sum of gates), so that weights are identified
            only up to one common constant. Least squares and ridge return weights that sum to 0; lasso returns the
            level with the smallest 1-norm. Only differences of weights mean something.
        grid: the relative penalties tried, in the units of the solver's ``penalties``. Empty for least squares.
        validation_error: mean squared error on the held-out draws divided by the target's variance, per penalty
            tried. NaN where a single penalty was given and none had to be chosen.
        converged: False if lasso ran out of iterations for any target; True for the other two, which do not iterate.
    """

    weights: Float64[np.ndarray, "target component"]
    bias: Float64[np.ndarray, " target"]
    penalty: Float64[np.ndarray, " target"]
    rank: int
    condition: float
    unidentified: Bool[np.ndarray, " component"]
    level_open: bool
    grid: Float64[np.ndarray, " grid"]
    validation_error: Float64[np.ndarray, "grid target"]
    converged: bool


def by_target(weights: Float64[np.ndarray, "component target"]) -> Float64[np.ndarray, "target component"]:
    return np.ascontiguousarray(weights.T)
