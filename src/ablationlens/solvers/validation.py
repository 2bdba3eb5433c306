"""Choosing a penalty: the grid, the draws held out, and the errors on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from ablationlens.errors import InputError
from ablationlens.solvers.design import Design


def checked_grid(solver: str, penalties: Sequence[float]) -> Float64[np.ndarray, " grid"]:
    """The penalties to choose from, which must be positive."""
    grid = np.asarray(list(penalties), dtype=np.float64)
    if grid.size == 0 or not np.all(np.isfinite(grid) & (grid > 0)):
        raise InputError(
            f"{solver} needs positive penalties, relative numbers such as penalties=[0.1, 1.0], got {list(penalties)}; "
            "for no penalty type solver='least_squares'"
        )
    return grid


def held_out(draws: int, validation: float) -> int:
    """How many draws to judge the penalties on."""
    held = max(1, round(draws * validation)) if 0 < validation < 1 else draws
    if draws - held < 2:
        raise InputError(
            f"validation is the share of the {draws} draws held out to choose the penalty, in (0, 1) and leaving at "
            f"least two to fit; got {validation}, type validation=0.1"
        )
    return held


def unit_of_errors(outputs: Float64[np.ndarray, "draw target"]) -> Float64[np.ndarray, " target"]:
    """The unit of validation errors; 1 for a target that never changes, which every penalty fits."""
    variance = outputs.var(axis=0)
    return np.where(variance > 0, variance, 1.0)


def validation_errors(
    design: Design,
    outputs: Float64[np.ndarray, "draw target"],
    weights: Float64[np.ndarray, "component target"],
    bias: Float64[np.ndarray, " target"],
    first: int,
) -> Float64[np.ndarray, " target"]:
    """Squared error over variance on the draws from ``first`` on; ``bias`` belongs to masks less their origin."""
    total = np.zeros(outputs.shape[1])
    for rows, block in design.rows(first, design.draws):
        total += ((outputs[rows] - bias - block @ weights) ** 2).sum(axis=0)
    return total / (design.draws - first) / unit_of_errors(outputs)
