"""Lasso: scikit-learn's coordinate descent on the Gram, one path of penalties per target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ablationlens.errors import InputError
from ablationlens.solvers.design import Design
from ablationlens.solvers.factors import factorise
from ablationlens.solvers.fit import Fit, by_target
from ablationlens.solvers.inputs import checked_inputs
from ablationlens.solvers.normal_equations import Sums
from ablationlens.solvers.symmetric import both_triangles
from ablationlens.solvers.validation import checked_grid, held_out, validation_errors

LASSO_PENALTIES = tuple(float(p) for p in np.logspace(0, -3, 10))
"""Lasso's default grid, in units of each target's smallest penalty that makes all weights zero."""


def lasso(
    masks: np.ndarray,
    outputs: np.ndarray,
    *,
    penalties: Sequence[float] | None = None,
    validation: float = 0.1,
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
) -> Fit:
    """Least squares with a penalty on the absolute weights, chosen by validation per target; the bias is free.

    Minimises ``sum((y - masks @ w - b)^2) / (2 * draws) + penalty * sum(|w|)`` as scikit-learn's ``Lasso`` does, on
    gates that are centred but not standardised, by its coordinate descent on the Gram. Held-out draws as in
    :func:`~ablationlens.solvers.ridge`; here each target chooses its own penalty.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.
        penalties: positive numbers to choose from, relative to each target's smallest penalty that makes every weight
            zero on the draws used (``max |centred masks.T @ centred outputs| / draws``): at 1 and above all weights
            are zero and the bias is the mean. Default: ten from 1 to 0.001, logarithmic. A single one is used as it is.
        validation: share of the draws held out to choose.
        tolerance: stop when the duality gap is below this share of the target's sum of squares.
        max_iterations: sweeps over the components allowed per target and penalty; ``converged`` says if they sufficed.

    Raises:
        InputError: shapes that do not fit, values that are not finite, fewer than 10 draws, or a penalty, validation
            share, tolerance or number of iterations out of range.
    """
    design, outputs = checked_inputs("lasso", masks, outputs)
    grid = checked_grid("lasso", LASSO_PENALTIES if penalties is None else penalties)
    held = held_out(design.draws, validation)
    if tolerance <= 0 or max_iterations < 1:
        raise InputError(
            f"lasso needs tolerance > 0 and max_iterations >= 1, got {tolerance} and {max_iterations}; "
            "the defaults are tolerance=1e-8, max_iterations=10_000"
        )
    descent = _Descent(tolerance, max_iterations)
    first = design.draws - held
    sums = Sums(design, outputs)
    sums.add(0, first)
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        # Which penalty predicts best is known long before the weights are: scikit-learn's tolerance is enough.
        errors = _errors(_Descent(max(tolerance, 1e-4), max_iterations), grid, design, outputs, sums)
    best = np.zeros(outputs.shape[1], dtype=int) if len(grid) == 1 else np.argmin(errors, axis=0)
    sums.add(first, design.draws)
    system = factorise(sums, design)
    gram, cross = both_triangles(sums.centred_gram()), sums.centred_cross()
    largest = _largest_penalties(cross, sums.draws)
    weights, converged = np.zeros_like(cross), True
    for target, choice in enumerate(best):
        # Down from the largest, each start the last solution: faster than starting at the chosen one.
        penalties_down = np.sort(grid[grid >= grid[choice]])[::-1] * largest[target]
        path, done = descent(gram, cross[:, target], sums.centred_square(target), penalties_down, sums.draws)
        weights[:, target] = path[:, -1]
        converged = converged and done
    return Fit(
        weights=by_target(weights),
        bias=sums.bias(weights),
        penalty=grid[best] * largest,
        rank=system.rank,
        condition=system.condition,
        unidentified=~design.varying | system.aliased,
        level_open=design.level_open,
        grid=grid,
        validation_error=errors,
        converged=converged,
    )


def _largest_penalties(cross: Float64[np.ndarray, "component target"], draws: int) -> Float64[np.ndarray, " target"]:
    # A little above, so that rounding leaves no weight of 1e-17 at penalty 1.
    return np.abs(cross).max(axis=0) / draws * (1 + 1e-12)


@dataclass(frozen=True)
class _Descent:
    """scikit-learn's coordinate descent on a Gram, down a path of penalties."""

    tolerance: float
    max_iterations: int

    def __call__(
        self,
        gram: Float64[np.ndarray, "n n"],
        cross: Float64[np.ndarray, " n"],
        square: float,
        penalties: Float64[np.ndarray, " path"],
        draws: int,
    ) -> tuple[Float64[np.ndarray, "n path"], bool]:
        """Weights at each penalty (descending), and whether all converged."""
        if square <= 0 or penalties[0] <= 0:  # an output that never changes
            return np.zeros((len(cross), len(penalties))), True
        from sklearn.linear_model import lasso_path  # a second to import, and only lasso needs it

        # Given a Gram, it reads no more of the masks than their shape, and of the outputs only the sum of squares.
        shape_only = np.broadcast_to(np.zeros(()), (draws, len(cross)))
        options: dict[str, Any] = {  # Any: scikit-learn's defaults are strings, and so are its types to a checker
            "alphas": penalties,
            "precompute": np.ascontiguousarray(gram.T),  # symmetric: no copy
            "Xy": np.ascontiguousarray(cross),
            "tol": self.tolerance,
            "max_iter": self.max_iterations,
            "check_input": False,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: reported below
            _, path, gaps = lasso_path(shape_only, np.array([math.sqrt(square)]), **options)
        return path, bool((gaps * draws <= self.tolerance * square * (1 + 1e-6)).all())


def _errors(
    descent: _Descent,
    grid: Float64[np.ndarray, " grid"],
    design: Design,
    outputs: Float64[np.ndarray, "draw target"],
    sums: Sums,
) -> Float64[np.ndarray, "grid target"]:
    """Errors on the draws that ``sums`` does not hold."""
    gram, cross = both_triangles(sums.centred_gram()), sums.centred_cross()
    largest = _largest_penalties(cross, sums.draws)
    down = np.argsort(-grid, kind="stable")
    errors = np.empty((len(grid), outputs.shape[1]))
    for target in range(outputs.shape[1]):
        square = sums.centred_square(target)
        path, _ = descent(gram, cross[:, target], square, grid[down] * largest[target], sums.draws)
        bias = sums.mean_output[target] - sums.mean_mask @ path
        repeated = np.repeat(outputs[:, [target]], len(grid), axis=1)
        errors[down, target] = validation_errors(design, repeated, path, bias, sums.draws)
    return errors
