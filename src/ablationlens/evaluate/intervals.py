"""Bootstrap intervals over examples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from ablationlens.randomness import raw

BOOTSTRAPS = 2000
"""Resamples behind an interval."""
LEVELS = (2.5, 97.5)
"""Percentiles that bound a 95% interval."""


def resamples(name: str, count: int) -> Int64[np.ndarray, "resample item"]:
    """Items that each bootstrap resample draws, `BOOTSTRAPS` of them; they depend on the name alone."""
    return (raw(0, name, 0, BOOTSTRAPS * count) % count).astype(np.int64).reshape(BOOTSTRAPS, count)


def shares(name: str, examples: int) -> Float64[np.ndarray, "resample example"]:
    """How much each example counts in each bootstrap resample: rows sum to 1. They depend on the name alone."""
    counts = np.zeros((BOOTSTRAPS, examples))
    np.add.at(counts, (np.arange(BOOTSTRAPS)[:, None], resamples(name, examples)), 1.0)
    return counts / examples


def interval_of_mean(name: str, values: Float[np.ndarray, " example"]) -> tuple[float, float]:
    """95% bootstrap interval of the mean of what is finite; NaN for fewer than two examples, which say nothing of it.

    Args:
        name: what the resamples depend on.
        values: one number for each example.
    """
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    return percentiles(shares(name, len(finite)) @ finite)


def percentiles(values: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    """The 95% interval of resampled values; those that are undefined are left out, NaN if all are."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, LEVELS)
    return float(low), float(high)
