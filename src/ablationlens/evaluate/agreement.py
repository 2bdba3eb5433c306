"""Agreement of predictions with outputs, example by example: correlations, R2 and slope."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import stats

MEASURES = ("pearson", "spearman", "r2", "slope")


def agreement(
    true: Float64[np.ndarray, "draw example"], predicted: Float64[np.ndarray, "draw example"]
) -> dict[str, Float64[np.ndarray, " example"]]:
    """Correlation, R2 and slope of each example; NaN where either side does not vary.

    R2 is that of the prediction itself, 1 - sum((true - predicted)^2) / sum((true - mean)^2), without refitting; the
    slope is that of the true outputs on the predictions, 1 if the scale is right. Outputs that are not finite are left
    out.
    """
    examples = true.shape[1]
    out = {name: np.full(examples, np.nan) for name in MEASURES}
    for example in range(examples):
        ok = np.isfinite(true[:, example]) & np.isfinite(predicted[:, example])
        y, p = true[ok, example], predicted[ok, example]
        if len(y) < 2 or constant(y) or constant(p):
            continue
        out["pearson"][example] = pearson(y[:, None], p[:, None])[0]
        out["spearman"][example] = pearson(stats.rankdata(y)[:, None], stats.rankdata(p)[:, None])[0]
        out["r2"][example] = 1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        out["slope"][example] = np.cov(y, p)[0, 1] / p.var(ddof=1)
    return out


def pearson(
    true: Float64[np.ndarray, "draw example"], predicted: Float64[np.ndarray, "draw example"]
) -> Float64[np.ndarray, " example"]:
    """Pearson correlation over draws, for each example."""
    a, b = true - true.mean(axis=0), predicted - predicted.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def constant(values: Float64[np.ndarray, " draw"]) -> bool:
    """Whether values differ by no more than rounding."""
    return float(np.ptp(values)) <= 1e-7 * float(np.abs(values).max())


def mean(values: Float64[np.ndarray, " example"]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
