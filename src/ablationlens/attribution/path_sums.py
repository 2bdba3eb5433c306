"""What a path gradient keeps of its draws, and the estimate that is made of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ablationlens.registry import Registry

POOLED_BELOW = 32
"""Sites with fewer components share one shrinkage weight: that of a few numbers would be noise."""
PRIOR_DRAWS = 4
"""Draws on the path that the expected variance of a gate counts for, beside its own."""
LEAST_KEEPS = 0.5
"""Kept draws for each draw on the path, below which k is noisier than p and says nothing: so where alpha > 1/2."""
LEAST_VARIANCE = 0.1
"""Share of the mean variance below which none is expected."""


@dataclass
class PathSums:
    """Running sums over draws, for each example: memory does not grow with the draws.

    Attributes:
        path: sum of the gradients of gates on the path, [example, component].
        squared: sum of their squares.
        hits: draws in which a gate was on the path.
        kept: sum of the gradients of kept gates.
        keeps: draws in which a gate was kept.
        gates: sum of the masks.
        output: sum of the outputs, [example].
        draws: draws that count, [example].
        left_out: outputs or gradients that were not finite, and count nowhere.
    """

    path: Tensor
    squared: Tensor
    hits: Tensor
    kept: Tensor
    keeps: Tensor
    gates: Tensor
    output: Tensor
    draws: Tensor
    left_out: Tensor

    @classmethod
    def empty(cls, examples: int, components: int) -> PathSums:
        wide = [torch.zeros(examples, components, dtype=torch.float64) for _ in range(6)]
        return cls(*wide, *(torch.zeros(examples, dtype=torch.float64) for _ in range(3)))

    def add(
        self,
        masks: Float[Tensor, "draw component"],
        outputs: Float[Tensor, "draw example"],
        gradients: Float[Tensor, "draw example component"],
    ) -> None:
        """Count a block of draws."""
        finite = torch.isfinite(outputs) & torch.isfinite(gradients).all(-1)
        self.left_out += (~finite).sum(0)
        if not bool(finite.all()):
            outputs, gradients = outputs.where(finite, 0), gradients.where(finite[:, :, None], 0)
        counts = finite.T.float()
        on_path = ((masks > 0) & (masks < 1)).float()
        is_kept = (masks == 1).float()
        of_path = gradients * on_path[:, None]
        self.path += of_path.sum(0)
        self.squared += of_path.double().square_().sum(0)
        self.kept += (gradients * is_kept[:, None]).sum(0)
        self.hits += counts @ on_path
        self.keeps += counts @ is_kept
        self.gates += counts @ masks
        self.output += outputs.double().sum(0)
        self.draws += finite.sum(0)

    def __add__(self, other: PathSums) -> PathSums:
        return PathSums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def means(self) -> Float64[np.ndarray, "example component"]:
        """Mean gradient of every gate over the draws in which it was on the path; NaN if it never was."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.path.numpy() / self.hits.numpy()

    def shapes(self) -> Float64[np.ndarray, "example component"]:
        """Mean gradient of every gate over the draws in which it was kept; over its paths, or 0, if it never was."""
        keeps = self.keeps.numpy()
        return np.where(keeps > 0, self.kept.numpy() / np.maximum(keeps, 1), np.nan_to_num(self.means()))

    def variances(self) -> Float64[np.ndarray, "example component"]:
        """Sampling variance of `means`; NaN for gates that were on the path less than twice."""
        hits = self.hits.numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.maximum(self.squared.numpy() - self.path.numpy() ** 2 / hits, 0) / (hits * (hits - 1))

    def estimate(self, registry: Registry) -> Estimate:
        """Weights, biases and standard errors of all examples (docs/path_gradient.md).

        For each example and site let p be the path means, k the means at kept gates (biased, but of many more samples)
        and s2 the sampling variance of p. The estimate is c k + w (p - c k), with c = <k, p> / <k, k> and w =
        1 - mean(s2) / mean((p - c k)^2) clipped to [0, 1]: all of p when the draws are many, the shape of k when they
        are few. Gates that were on the path less than twice have no sampling variance and no error, and get c k; gates
        that were hardly ever kept, as where half or more is ablated, have no k of use, and get p.

        The error of a weight is the posterior standard deviation, sqrt((w + v) s2), with v for what the shape lacks of
        certainty. Strong gates have a larger s2 than weak ones, and few draws know it badly: each gate's own s2 is
        mixed with what the size of its k lets expect, which counts for `PRIOR_DRAWS` draws.
        """
        hits, keeps = self.hits.numpy(), self.keeps.numpy()
        p, k, variance = self.means(), self.shapes(), self.variances()
        weights, errors = np.empty_like(p), np.empty_like(p)
        shares: dict[str, Float64[np.ndarray, " example"]] = {}
        for name, columns in pools(registry):
            on = hits[:, columns]
            kept = (keeps[:, columns] > 0) & (keeps[:, columns] >= LEAST_KEEPS * on)
            known, once = on >= 2, kept & (on >= 1)
            own_p, own_k = np.nan_to_num(p[:, columns]), k[:, columns]
            size = (own_k**2 * once).sum(1)
            # without a gate on the path there is nothing to scale by: the shape is taken as it is
            scale = np.where(size > 0, (own_k * own_p * once).sum(1) / np.where(size > 0, size, 1), 1.0 * ~once.any(1))
            both = known & kept
            rest = np.where(both, own_p - scale[:, None] * own_k, 0.0)
            counted = np.maximum(both.sum(1), 1)
            noise = np.where(both, variance[:, columns], 0.0).sum(1) / counted
            spread = (rest**2).sum(1) / counted
            share = np.where(spread > noise, 1 - noise / np.where(spread > 0, spread, 1), 1.0 * ~kept.any(1))
            weights[:, columns] = np.where(kept, scale[:, None] * own_k + share[:, None] * rest, own_p)
            # of what is kept of the rest, and of the shape, which has the samples of kept gates
            fewer = on / np.maximum(keeps[:, columns], 1) * ((1 - share) * scale)[:, None] ** 2
            factor = np.where(kept, share[:, None] + fewer, 1.0)
            expected = _expected_variance(variance[:, columns], own_k, known)
            own = (PRIOR_DRAWS * expected + (on - 1) * np.nan_to_num(variance[:, columns])) / (PRIOR_DRAWS + on - 1)
            errors[:, columns] = np.sqrt(np.where(known, factor * own, np.nan))
            shares[name] = share
        lost = self.draws.numpy() == 0
        weights[lost], errors[lost] = np.nan, np.nan
        draws = np.maximum(self.draws.numpy(), 1)
        bias = self.output.numpy() / draws - (weights * self.gates.numpy()).sum(1) / draws
        return Estimate(weights, bias, errors, shares)


def _expected_variance(
    variance: Float64[np.ndarray, "example component"],
    shape: Float64[np.ndarray, "example component"],
    known: Bool[np.ndarray, "example component"],
) -> Float64[np.ndarray, "example component"]:
    """Sampling variance that a gate of this size is expected to have: a + b k^2 by least squares, for each example."""
    counted = np.maximum(known.sum(1, keepdims=True), 1)
    squared = shape**2
    mean, middle = (np.where(known, x, 0.0).sum(1, keepdims=True) / counted for x in (variance, squared))
    away = np.where(known, squared - middle, 0.0)
    size = (away**2).sum(1, keepdims=True)
    slope = (away * np.where(known, variance - mean, 0.0)).sum(1, keepdims=True) / np.where(size > 0, size, 1.0)
    return np.maximum(mean + slope * (squared - middle), LEAST_VARIANCE * mean)


class PathHalves:
    """Sums over two independent halves of the draws: cycles of even and of odd number.

    Args:
        examples: of the data.
        components: of the registry.
        cycle: draws in which every gate is on the path once.
    """

    def __init__(self, examples: int, components: int, cycle: int) -> None:
        self.even, self.odd = (PathSums.empty(examples, components) for _ in range(2))
        self.cycle = cycle
        self.draws = 0

    def add(
        self,
        masks: Float[Tensor, "draw component"],
        outputs: Float[Tensor, "draw example"],
        gradients: Float[Tensor, "draw example component"],
    ) -> None:
        """Count the block of draws that follows those counted so far."""
        number = torch.arange(self.draws, self.draws + len(masks))
        is_odd = number // self.cycle % 2 == 1
        for half, own in ((self.even, ~is_odd), (self.odd, is_odd)):
            if bool(own.any()):
                half.add(masks[own], outputs[own], gradients[own])
        self.draws += len(masks)


@dataclass(frozen=True)
class Estimate:
    """What the sums say.

    Attributes:
        weights: [example, component].
        bias: [example].
        errors: standard errors of the weights.
        shares: pool of sites -> w of each example: 1 where the path means are taken as they are.
    """

    weights: Float64[np.ndarray, "example component"]
    bias: Float64[np.ndarray, " example"]
    errors: Float64[np.ndarray, "example component"]
    shares: dict[str, Float64[np.ndarray, " example"]]

    def provenance(self) -> dict[str, Any]:
        return {"shrinkage": {name: round(float(np.nanmean(share)), 4) for name, share in self.shares.items()}}


def pools(registry: Registry) -> list[tuple[str, Any]]:
    """Columns that share a shrinkage weight: those of one site, or of all small sites of one kind."""
    large: list[tuple[str, Any]] = []
    small: dict[str, list[int]] = {}
    for part in registry.parts:
        columns = range(part.start, part.stop)
        if len(columns) >= POOLED_BELOW:
            large.append((part.site.name(0).rpartition(" ")[0] or part.site.name(0), slice(part.start, part.stop)))
        else:
            small.setdefault(part.site.kind, []).extend(columns)
    return large + [(f"{kind} of small sites", np.array(columns)) for kind, columns in small.items()]
