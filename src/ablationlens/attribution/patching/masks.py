"""The masks of activation patching: one part at a time, everywhere or at one position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class OneAtATime:
    """Draw 0 patches nothing; the others patch one component each, or one component at one position.

    Masks are made as they are needed, so that memory does not grow with their number.

    Attributes:
        components: width of a mask.
        positions: of the inputs, where each is patched by itself: draw 1 + p * components + j then patches component j
            at position p. None patches all positions at once.
    """

    by_example: ClassVar[bool] = False

    components: int
    positions: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one mask: [component] or [position, component]."""
        return (self.components,) if self.positions is None else (self.positions, self.components)

    @property
    def draws(self) -> int:
        return self.components * (self.positions or 1) + 1

    def masks(self, start: int, stop: int) -> np.ndarray:
        """Masks of the draws from `start` to `stop`: [draw, component] or [draw, position, component], True = as is."""
        masks = np.ones((stop - start, *self.shape), dtype=bool)
        draws = np.arange(max(start, 1), stop)
        masks.reshape(stop - start, -1)[draws - start, draws - 1] = False
        return masks
