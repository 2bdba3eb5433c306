"""Ordinary least squares: one factorisation, corrected with residuals."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from ablationlens.solvers.design import Design
from ablationlens.solvers.factors import System, factorise
from ablationlens.solvers.fit import Fit, by_target
from ablationlens.solvers.inputs import checked_inputs
from ablationlens.solvers.normal_equations import Sums, without_constant

_REFINE_ABOVE = 1e3
"""Condition number above which the weights are corrected with residuals; below it 1e-11 is kept anyway."""


def least_squares(masks: np.ndarray, outputs: np.ndarray) -> Fit:
    """Ordinary least squares with a bias; of several solutions the one with the smallest weights.

    Exact (to about 1e-10 of the outputs' size) where outputs are additive in the gates and the masks have full rank,
    also for the fewest possible draws: on all-kept plus every single ablation, weights are leave-one-out effects.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.

    Returns:
        The fit. Masks of deficient rank (fixed-size subsets, constant or aliased components) give the minimum-norm
        weights, with ``level_open`` and ``unidentified`` saying what they leave open.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or fewer draws than components + 1.
    """
    design, outputs = checked_inputs("least_squares", masks, outputs)
    sums = Sums(design, outputs)
    sums.add(0, design.draws)
    system = factorise(sums, design)
    weights = without_constant(system.solve(sums.centred_cross()), design)
    if system.condition > _REFINE_ABOVE:
        weights = _refined(weights, system, design, outputs, sums)
    targets = outputs.shape[1]
    return Fit(
        weights=by_target(weights),
        bias=sums.bias(weights),
        penalty=np.zeros(targets),
        rank=system.rank,
        condition=system.condition,
        unidentified=~design.varying | system.aliased,
        level_open=design.level_open,
        grid=np.zeros(0),
        validation_error=np.zeros((0, targets)),
        converged=True,
    )


def _refined(
    weights: Float64[np.ndarray, "component target"],
    system: System,
    design: Design,
    outputs: Float64[np.ndarray, "draw target"],
    sums: Sums,
) -> Float64[np.ndarray, "component target"]:
    """Correct the weights with the residuals of the masks themselves until the correction is rounding.

    The normal equations square the condition number; residuals taken in the masks, not in the Gram, take that back.
    """
    previous = math.inf
    for _ in range(5):
        bias = sums.mean_output - sums.mean_mask @ weights  # of masks less their origin
        gradient, total = np.zeros_like(weights), np.zeros(len(bias))
        for rows, block in design.rows(0, design.draws):
            residual = outputs[rows] - bias - block @ weights
            gradient += block.T @ residual
            total += residual.sum(axis=0)
        correction = without_constant(system.solve(gradient - np.outer(sums.mean_mask, total)), design)
        size = float(np.abs(correction).max()) / max(float(np.abs(weights).max()), np.finfo(np.float64).tiny)
        if size >= previous:
            break
        weights, previous = weights + correction, size
        if size < 1e-13:
            break
    return weights
