"""The design: masks, what one look at them tells, and reading them in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from ablationlens.errors import InputError
from ablationlens.solvers.blocks import slices


@dataclass(frozen=True)
class Design:
    """Masks and what one look at them tells.

    Attributes:
        hard: only zeros and ones.
        origin: subtracted from the gates before anything is multiplied: 0 for hard masks, which stay counts; the
            mean for partial gates, whose centred Gram would otherwise be a small difference of large numbers.
        varying: components that are neither always kept nor always ablated (nor held at any other one gate).
        level_open: all draws have the same sum of gates.
    """

    masks: np.ndarray
    hard: bool
    origin: Float64[np.ndarray, " component"]
    varying: Bool[np.ndarray, " component"]
    level_open: bool

    @property
    def draws(self) -> int:
        return self.masks.shape[0]

    @property
    def components(self) -> int:
        return self.masks.shape[1]

    def rows(self, start: int, stop: int, dtype: type = np.float64) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks [draw, component] of gates less their origin, some draws at a time."""
        for rows in slices(start, stop, self.components):
            block = np.ascontiguousarray(self.masks[rows], dtype=dtype)
            yield rows, block if self.hard else block - self.origin

    def columns(self, dtype: type) -> Iterator[tuple[slice, np.ndarray]]:
        """The same, all draws and some components at a time."""
        for columns in slices(0, self.components, self.draws):
            block = np.ascontiguousarray(self.masks[:, columns], dtype=dtype)
            yield columns, block if self.hard else block - self.origin[columns]


def survey(masks: np.ndarray) -> Design:
    """One look at the masks (two at partial gates), which refuses values that are not finite."""
    low, high = np.full(masks.shape[1], np.inf), np.full(masks.shape[1], -np.inf)
    levels, hard = [], True
    for rows in slices(0, *masks.shape):
        block = masks[rows]
        if block.dtype == bool:
            block = block.view(np.uint8)  # min and max of bytes are many times faster than of booleans
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN passes through min and max
            raise InputError(
                f"expected finite masks, got NaN or infinity among draws {rows.start} to {rows.stop - 1}; "
                "leave those draws out: keep = np.isfinite(masks).all(axis=1)"
            )
        hard = hard and bool(((block == 0) | (block == 1)).all())
        levels.append(block.sum(axis=1, dtype=np.float64 if block.dtype.kind == "f" else np.int64))
    varying = low != high
    origin = np.zeros(masks.shape[1])
    if not hard:
        for rows in slices(0, *masks.shape):
            origin += masks[rows].sum(axis=0, dtype=np.float64) / len(masks)
    level = np.concatenate(levels)
    # Sums of floats that are equal by construction differ in their last digits.
    same = float(np.ptp(level)) <= 1e-9 * max(1.0, float(np.abs(level).max()))
    return Design(masks, hard, origin, varying, level_open=same and bool(varying.any()))
