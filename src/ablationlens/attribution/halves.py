"""How far two independent halves of the draws agree, and what that says about all of them.

Under independent gates the correlation between the predictions of two weight vectors is the cosine of the angle between
them. So the question of how well weights from n draws predict, beside those from infinitely many draws of the same
method, is answered by inner products of independent estimates, in which the noise of one half averages out against that
of the other.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64

Weights = Float64[np.ndarray, "example component"]


def loss_of_regression(first: Weights, second: Weights) -> float:
    """Correlation that the fit of all draws lacks to that of infinitely many, from fits of two halves.

    With r the cosine between the halves, the fit of both has the correlation sqrt(2 r / (1 + r)) with the limit
    (Spearman and Brown). Mean over examples; 1 where the halves do not agree at all. Examples without a weight, of an
    output that never varies or is never finite, have nothing to lose and are left out.
    """
    size = np.sqrt(_inner(first, first) * _inner(second, second))
    r = np.clip(_ratio(_inner(first, second), size), 0.0, 1.0)
    return _mean_loss(np.sqrt(2 * r / (1 + r)), _varies(first, second))


def loss_of_paths(estimates: tuple[Weights, Weights], means: tuple[Weights, Weights]) -> float:
    """Correlation that the path gradient of all draws lacks to that of infinitely many, from two halves.

    The shrunken estimates of two halves share a bias, so their agreement would flatter. The path means p do not: of
    each half the estimate is held against the other half's p, and <p1, p2> is the squared length of the limit:

        <estimate 1, p2> / (|estimate 1| sqrt(<p1, p2>))

    is the correlation of a half with the limit. Twice the draws have half the noise, as in `loss_of_regression`.

    Args:
        estimates: of both halves.
        means: path means of both halves; gates without one (NaN) in either are left out.
    """
    known = np.isfinite(means[0]) & np.isfinite(means[1])
    one, two = (np.where(known, half, 0.0) for half in means)
    length = np.sqrt(np.maximum(_inner(one, two), 0.0))
    halves: list[np.ndarray] = []
    for estimate, other in zip(estimates, (two, one), strict=True):
        own = np.where(known, estimate, 0.0)
        halves.append(_ratio(_inner(own, other), np.sqrt(_inner(own, own)) * length))
    squared = np.clip((halves[0] + halves[1]) / 2, 0.0, 1.0) ** 2
    return _mean_loss(np.sqrt(2 * squared / (1 + squared)), _varies(*estimates))


def _inner(a: Weights, b: Weights) -> Float64[np.ndarray, " example"]:
    return (a * b).sum(axis=1)


def _ratio(above: Float64[np.ndarray, " example"], below: Float64[np.ndarray, " example"]) -> np.ndarray:
    """Quotient; 0 where there is nothing to divide by."""
    defined = np.isfinite(below) & (below > 0)
    return np.where(defined, above / np.where(defined, below, 1.0), 0.0)


def _varies(first: Weights, second: Weights) -> Bool[np.ndarray, " example"]:
    """Examples of which either half has a weight that is not 0."""
    return ((np.nan_to_num(first) != 0) | (np.nan_to_num(second) != 0)).any(axis=1)


def _mean_loss(correlation: Float64[np.ndarray, " example"], counts: Bool[np.ndarray, " example"]) -> float:
    return float(np.mean(1 - np.nan_to_num(correlation[counts]))) if counts.any() else 1.0
