"""The normal equations of the centred masks, from sums over draws."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from ablationlens.solvers.design import Design
from ablationlens.solvers.symmetric import plus_outer, plus_products

EXACT_FLOAT32 = 2**24
"""Integers up to here are exact in float32."""


class Sums:
    """Sums over draws, from which the centred normal equations of those draws follow."""

    def __init__(self, design: Design, outputs: Float64[np.ndarray, "draw target"]) -> None:
        components, targets = design.components, outputs.shape[1]
        counts = design.hard and design.draws < EXACT_FLOAT32
        self.draws = 0
        self._design = design
        self._outputs = outputs
        self._origin = outputs.mean(axis=0)
        self._gram = np.zeros((components, components), np.float32 if counts else np.float64, order="F")
        self._cross = np.zeros((components, targets + 1))
        self._totals = np.zeros(targets + 1)
        self._squares = np.zeros(targets + 1)

    def add(self, start: int, stop: int) -> None:
        """Count draws start to stop."""
        self.draws += stop - start
        self._gram = plus_products(self._gram, self._design.rows(start, stop, self._gram.dtype.type), transpose=False)
        for rows, block in self._design.rows(start, stop):
            # A last target of ones makes the sums of the masks come out of the same product.
            outputs = np.column_stack([self._outputs[rows] - self._origin, np.ones(len(block))])
            self._cross += block.T @ outputs
            self._totals += outputs.sum(axis=0)
            self._squares += (outputs**2).sum(axis=0)

    @property
    def mean_mask(self) -> Float64[np.ndarray, " component"]:
        """Less the design's origin."""
        return self._cross[:, -1] / self.draws

    @property
    def mean_output(self) -> Float64[np.ndarray, " target"]:
        return self._totals[:-1] / self.draws + self._origin

    def centred_gram(self) -> Float64[np.ndarray, "component component"]:
        """The lower triangle; zeros above it.

        (draws * sum x x' - (sum x)(sum x)') / draws: for hard masks both terms are integers below 2^53, so that only
        the division rounds. The other way round, sum x x' - draws * mean mean', loses digits at every step.
        """
        gram = self._gram.astype(np.float64, order="F")
        gram *= self.draws
        gram = plus_outer(gram, -1.0, self._cross[:, -1])
        gram /= self.draws
        return gram

    def centred_cross(self) -> Float64[np.ndarray, "component target"]:
        return self._cross[:, :-1] - np.outer(self._cross[:, -1], self._totals[:-1] / self.draws)

    def centred_square(self, target: int) -> float:
        return float(self._squares[target] - self._totals[target] ** 2 / self.draws)

    def bias(self, weights: Float64[np.ndarray, "component target"]) -> Float64[np.ndarray, " target"]:
        return self.mean_output - (self.mean_mask + self._design.origin) @ weights


def mean_diagonal(gram: Float64[np.ndarray, "n n"], design: Design) -> float:
    """Over the components that vary: the unit of ridge's penalties. 1 if these draws have none."""
    return float(gram.trace()) / max(1, int(design.varying.sum())) or 1.0


def lift(gram: Float64[np.ndarray, "n n"], design: Design, size: float) -> Float64[np.ndarray, "n n"]:
    """Give the directions that are known to be empty the eigenvalue ``size``, in place.

    The right-hand sides have nothing in these directions, so neither have the solutions: constant components get
    weight 0 and an open level gives weights that sum to 0, at no more than the price of a regular design.
    """
    if design.level_open:
        ones = design.varying.astype(np.float64)
        gram = plus_outer(gram, size / ones.sum(), ones)
    constant = np.flatnonzero(~design.varying)
    gram[constant, constant] = size
    return gram


def without_constant(
    weights: Float64[np.ndarray, "component target"], design: Design
) -> Float64[np.ndarray, "component target"]:
    """Zero what is zero but for rounding, in place."""
    weights[~design.varying] = 0
    return weights
