"""Means over positions and examples, with standard errors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Shaped


def over_positions(
    values: Shaped[np.ndarray, "*many example position"], counts: Bool[np.ndarray, "example position"]
) -> Float64[np.ndarray, "*many example"]:
    """Mean of each example over the positions that count and have a value; NaN where none has."""
    known = counts & ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=-1, dtype=np.float64) / known.sum(axis=-1)


def over_examples(
    values: Shaped[np.ndarray, "*many example"],
) -> tuple[Float64[np.ndarray, "*many"], Float64[np.ndarray, "*many"]]:
    """Mean over the examples that have a value, and its standard error: s / sqrt(n), NaN for fewer than two."""
    known = ~np.isnan(values)
    number = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, values, 0.0).sum(axis=-1, dtype=np.float64) / number
        squares = np.where(known, (values - mean[..., None]) ** 2, 0.0).sum(axis=-1)
        return mean, np.sqrt(np.where(number > 1, squares / (number - 1) / number, np.nan))
