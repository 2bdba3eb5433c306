"""Level: the bias term of a path gradient, from a few hard masks.

Partial masks ablate no component outright, and what they do to the level of an output is not what hard masks do. The
coefficients hardly see that; the bias term would. So a small part of a run is hard masks, and the bias is the mean of
what they gave less what the coefficients predict for them: where the coefficients are those of least squares, that is
the intercept of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64

from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.paths import Paths
from ablationlens.randomness import raw
from ablationlens.sweep import Sweep

SHARE = 8
"""Soft draws for each hard one: 1/24 of what a run costs."""
FEWEST = 4
"""Hard draws below which their noise is larger than the error they are to mend."""
MOST = 32
"""Hard draws after which the variance of the level is a thirtieth of what no linear prediction explains."""


def level_draws(draws: int) -> int:
    """Hard draws beside so many partial ones; none beside fewer than 32."""
    hard = min(MOST, draws // SHARE)
    return hard if hard >= FEWEST else 0


@dataclass(frozen=True)
class Level:
    """What a few hard masks gave.

    Attributes:
        masks: True = kept.
        outputs: of each example under each.
    """

    masks: Bool[np.ndarray, "draw component"]
    outputs: Float64[np.ndarray, "draw example"]

    @classmethod
    def measured(cls, model: MaskedModel, data: Batch, design: Paths, rows: int | None = None) -> Level:
        """Run the hard masks that stand beside a design: each gate is ablated with probability alpha."""
        threshold = round(design.alpha * 2**32)  # 2**32 itself where alpha is nearly 1
        words = [raw(design.seed, "level", draw, design.components) for draw in range(level_draws(design.draws))]
        masks = np.array([one.astype(np.uint64) >= threshold for one in words], dtype=bool).reshape(
            len(words), design.components
        )
        if not len(masks):
            return cls(masks, np.empty((0, len(data))))
        sweep = Sweep(model, data, model.source(torch.from_numpy(masks), data), rows=rows)
        blocks = [sweep.outputs(*span).double().numpy() for span in sweep.blocks(0, len(masks))]
        return cls(masks, np.concatenate(blocks))

    @property
    def left_out(self) -> int:
        """Outputs that were not finite, and count nowhere."""
        return int((~np.isfinite(self.outputs)).sum())

    def bias(
        self, weights: Float64[np.ndarray, "example component"], otherwise: Float64[np.ndarray, " example"]
    ) -> Float64[np.ndarray, " example"]:
        """Mean output less mean prediction without a bias; `otherwise` for examples with too few finite outputs."""
        finite = np.isfinite(self.outputs)
        left = np.where(finite, self.outputs - self.masks @ weights.T, 0.0)
        counted = finite.sum(0)
        return np.where(counted >= FEWEST, left.sum(0) / np.maximum(counted, 1), otherwise)
