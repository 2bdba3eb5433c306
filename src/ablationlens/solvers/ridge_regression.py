"""Ridge: on the Gram of the components, or on that of the draws where there are fewer of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from ablationlens.errors import InputError
from ablationlens.solvers.design import Design
from ablationlens.solvers.factors import factorise
from ablationlens.solvers.fit import Fit, by_target
from ablationlens.solvers.inputs import checked_inputs
from ablationlens.solvers.normal_equations import EXACT_FLOAT32, Sums, lift, mean_diagonal, without_constant
from ablationlens.solvers.symmetric import (
    both_triangles,
    cholesky,
    condition_number,
    one_norm,
    pivoted_cholesky,
    plus_products,
    rounding_share,
    solve_factored,
)
from ablationlens.solvers.validation import checked_grid, held_out, unit_of_errors, validation_errors

NOISE_RATIOS = (1e-8, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge's default grid, in units of components / draws; see :func:`ridge`."""


def ridge(
    masks: np.ndarray, outputs: np.ndarray, *, penalties: Sequence[float] | None = None, validation: float = 0.1
) -> Fit:
    """Least squares with a penalty on the squared weights, chosen by validation; the bias is free.

    Each penalty is fitted to the first draws and judged on the last ``validation`` share of them: draws are
    independent and identically distributed, so the last are as good as random ones, and the choice is the same in
    every run. One penalty serves all targets, that with the smallest mean over targets of squared error / variance:
    so one factorisation per penalty serves them all. The chosen one, in relative units, is refitted to all draws.
    Masks that are not such draws (all kept plus single ablations, say) are a case for
    :func:`~ablationlens.solvers.least_squares`.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.
        penalties: positive numbers to choose from, relative to the mean diagonal of the Gram (draws * variance of a
            gate). For independent gates the best is components / draws * (variance of the outputs that is not linear
            in the gates / variance that is), so the default is components / draws times ratios from 0.01 to 10, and
            1e-8, which is least squares for all purposes where the draws suffice. A single one is used as it is.
        validation: share of the draws held out to choose.

    Raises:
        InputError: shapes that do not fit, values that are not finite, fewer than 10 draws, or a penalty or
            validation share out of range.
    """
    design, outputs = checked_inputs("ridge", masks, outputs)
    default = [ratio * design.components / design.draws for ratio in NOISE_RATIOS]
    grid = checked_grid("ridge", default if penalties is None else penalties)
    held = held_out(design.draws, validation)
    solve = _by_components if design.draws > design.components else _by_draws
    return solve(design, outputs, grid, held)


def _by_components(
    design: Design, outputs: Float64[np.ndarray, "draw target"], grid: Float64[np.ndarray, " grid"], held: int
) -> Fit:
    first = design.draws - held
    sums = Sums(design, outputs)
    sums.add(0, first)
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        gram, cross = sums.centred_gram(), sums.centred_cross()
        size = mean_diagonal(gram, design)
        gram = lift(gram, design, size)
        for i, penalty in enumerate(grid):
            factor = _penalised(gram.copy(order="F"), penalty * size)
            weights = solve_factored(factor, cross)
            del factor  # one at a time
            errors[i] = validation_errors(design, outputs, weights, sums.mean_output - sums.mean_mask @ weights, first)
        del gram
    sums.add(first, design.draws)
    unpenalised = factorise(sums, design)
    rank, aliased = unpenalised.rank, unpenalised.aliased
    del unpenalised
    gram = sums.centred_gram()
    size = mean_diagonal(gram, design)
    penalty = float(grid[_choice(errors)]) * size
    gram = lift(gram, design, size)
    norm = one_norm(gram) + penalty
    factor = _penalised(gram, penalty)
    condition = condition_number(factor, norm)
    weights = without_constant(solve_factored(factor, sums.centred_cross()), design)
    return _fit_of(design, weights, sums.bias(weights), penalty, rank, condition, aliased, grid, errors)


def _by_draws(
    design: Design, outputs: Float64[np.ndarray, "draw target"], grid: Float64[np.ndarray, " grid"], held: int
) -> Fit:
    """With kernel = centred masks @ centred masks.T: weights = masks.T @ dual, (kernel + penalty) dual = outputs."""
    first = design.draws - held
    counts = design.hard and design.components < EXACT_FLOAT32
    kernel = np.zeros((design.draws, design.draws), np.float32 if counts else np.float64, order="F")
    kernel = plus_products(kernel, design.columns(kernel.dtype.type), transpose=True)
    kernel = both_triangles(kernel.astype(np.float64, order="F"))
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        centred, mean = _centre(kernel[:first, :first].copy(order="F")), outputs[:first].mean(axis=0)
        size = mean_diagonal(centred, design)
        for i, penalty in enumerate(grid):
            dual = solve_factored(_dual_factor(centred.copy(order="F"), penalty * size), outputs[:first] - mean)
            shift = (kernel[:first, :first] @ dual).mean(axis=0)
            residual = outputs[first:] - mean - (kernel[first:, :first] @ dual - shift)
            errors[i] = (residual**2).mean(axis=0) / unit_of_errors(outputs)
        del centred
    mean = outputs.mean(axis=0)
    kernel = _centre(kernel)
    penalty = float(grid[_choice(errors)]) * mean_diagonal(kernel, design)  # same trace as the Gram
    largest = float(kernel.diagonal().max())
    tolerance = rounding_share(design.draws) * largest
    rank = pivoted_cholesky(kernel, tolerance, in_place=False)[2] if design.varying.any() else 0
    norm = one_norm(kernel) + penalty
    factor = _dual_factor(kernel, penalty)
    dual, condition = solve_factored(factor, outputs - mean), condition_number(factor, norm)
    weights, mean_mask = np.zeros((design.components, outputs.shape[1])), np.zeros(design.components)
    for rows, block in design.rows(0, design.draws):
        weights += block.T @ dual[rows]
        mean_mask += block.sum(axis=0) / design.draws
    weights = without_constant(weights, design)  # no mean to take off: a dual solution sums to 0
    bias = mean - (mean_mask + design.origin) @ weights
    aliased = np.zeros(design.components, dtype=bool)
    return _fit_of(design, weights, bias, penalty, rank, condition, aliased, grid, errors)


def _choice(errors: Float64[np.ndarray, "grid target"]) -> int:
    return int(np.argmin(errors.mean(axis=1))) if len(errors) > 1 else 0


def _penalised(gram: Float64[np.ndarray, "n n"], penalty: float) -> Float64[np.ndarray, "n n"]:
    """Factor of gram + penalty, in place of the lower triangle."""
    np.einsum("ii->i", gram)[:] += penalty
    factor = cholesky(gram)
    if factor is None:
        raise InputError(
            "expected a penalty that makes these masks regular, got one too small for that: leave penalties to the "
            "default, or type penalties=[1e-6]"
        )
    return factor


def _centre(kernel: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Products of centred masks from products of masks, in place."""
    mean = kernel.mean(axis=0)
    kernel -= mean
    kernel -= (mean - mean.mean())[:, None]
    return kernel


def _dual_factor(centred: Float64[np.ndarray, "n n"], penalty: float) -> Float64[np.ndarray, "n n"]:
    """In place. The one direction known to be empty, all ones, is lifted as in :func:`lift`."""
    centred += (float(centred.trace()) or 1.0) / len(centred) ** 2
    return _penalised(centred, penalty)


def _fit_of(
    design: Design,
    weights: Float64[np.ndarray, "component target"],
    bias: Float64[np.ndarray, " target"],
    penalty: float,
    rank: int,
    condition: float,
    aliased: Bool[np.ndarray, " component"],
    grid: Float64[np.ndarray, " grid"],
    errors: Float64[np.ndarray, "grid target"],
) -> Fit:
    return Fit(
        weights=by_target(weights),
        bias=bias,
        penalty=np.full(len(bias), penalty),
        rank=rank,
        condition=condition,
        unidentified=~design.varying | aliased,
        level_open=design.level_open,
        grid=grid,
        validation_error=errors,
        converged=True,
    )
