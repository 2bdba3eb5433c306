"""Diagonal masks: all gates open together, as far as the draw says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from ablationlens.errors import InputError
from ablationlens.masks.designs import Design


@dataclass(frozen=True)
class Diagonal(Design):
    """Masks whose gates are all equal: points on the line from everything ablated (0) to everything kept (1).

    Attributes:
        components: width of a mask.
        levels: the value of all gates, one for each draw.
    """

    components: int
    levels: tuple[float, ...]
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", len(self.levels))
        if not self.levels or not all(0 <= level <= 1 for level in self.levels):
            raise InputError(f"levels are gates from 0 (ablated) to 1 (kept), at least one; got {self.levels}")

    def mask(self, draw: int) -> Float32[np.ndarray, " component"]:
        return np.full(self.components, self.levels[draw], dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        return {
            "design": "diagonal",
            "levels": list(self.levels),
            "components": self.components,
            "draws": self.draws,
        }


def gauss_legendre(steps: int) -> tuple[Float64[np.ndarray, " step"], Float64[np.ndarray, " step"]]:
    """Nodes inside (0, 1) and their weights, which sum to 1: exact for polynomials of degree 2 * steps - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1) / 2, weights / 2
