"""Paths: soft masks under which the mean gradient of a gate is the coefficient that a regression would find.

In every draw some gates are *on the path*: they take a value strictly between 0 and 1, uniform there. Of the others a
few are ablated and the rest is kept. A path gradient averages the gradient of each gate over the draws in which it was
on the path: see `ablationlens.attribution.path_gradient`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from ablationlens.errors import InputError
from ablationlens.masks.designs import Random
from ablationlens.randomness import permutation, raw

STRATA = 4
"""Parts of (0, 1) that a gate's values take in turn: the mean over a path needs about a quarter fewer draws."""


@dataclass(frozen=True)
class Paths(Random):
    """Balanced paths: random orders of the gates, each cut into groups that are on the path in turn.

    Seen from one gate, every other gate has the mean 1 - alpha, whatever `rho` is. (A draw as a whole ablates a little
    more or less than alpha where components are few.) A gate's values are stratified: in four cycles of even number it
    takes one from each quarter of (0, 1), in an order of its own, and so in four of odd number, so that these two
    halves of the draws are independent.

    Attributes:
        components: width of a mask.
        alpha: mean share of components that a draw ablates, gates on the path counted by how far they are ablated.
        draws: number of masks.
        seed: first part of every draw's address.
        stream: second part.
        rho: share of the gates that are on the path of a draw, at most 2 * alpha, which is the default. With more than
            half ablated it is at most 2 * (1 - alpha). It is 1 / groups: of what is asked for, the nearest such share
            from below. What rho / 2 lacks to alpha is ablated outright: see `h`.
    """

    rho: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        highest = 2 * min(self.alpha, 1 - self.alpha)
        limit = "2 * alpha" if self.alpha <= 0.5 else "2 * (1 - alpha)"
        rho = highest if self.rho is None else self.rho
        if not 0 < rho <= max(highest, 1 / self.components) + 1e-9:
            raise InputError(
                f"rho is the share of gates on the path of a draw, above 0 and at most {limit} = {highest:.4g}, "
                f"because a gate on the path is half ablated on average; got {rho}"
            )
        object.__setattr__(self, "rho", 1 / min(math.ceil(1 / rho - 1e-9), self.components))

    @property
    def ablated(self) -> int:
        """Components that a draw ablates on average: a path is partial, so less than one is a design too."""
        return min(max(super().ablated, 1), self.components - 1)

    @property
    def groups(self) -> int:
        """Draws of one cycle, in which every gate is on the path once."""
        assert self.rho is not None
        return round(1 / self.rho)

    @property
    def off(self) -> float:
        """Probability that a gate which is not on the path is ablated."""
        sizes = np.diff(self._edges).astype(float)
        company = float((sizes * (sizes - 1)).sum()) / (self.components * (self.components - 1))
        return max(0.0, (self.alpha - company / 2) / (1 - company)) if company < 1 else 0.0

    @property
    def h(self) -> float:
        """Share of the gates that a draw ablates outright, on average: alpha - rho / 2, if groups are of one size."""
        assert self.rho is not None
        return self.off * (1 - self.rho)

    @property
    def _edges(self) -> np.ndarray:
        return np.linspace(0, self.components, self.groups + 1).round().astype(int)

    def mask(self, draw: int) -> Float32[np.ndarray, " component"]:
        return self.masks(draw, draw + 1)[0]

    def masks(self, start: int, stop: int) -> Float32[np.ndarray, "draw component"]:
        out = np.empty((stop - start, self.components), dtype=np.float32)
        threshold, edges, groups = round(self.off * 2**32), self._edges, self.groups
        for cycle in range(start // groups, (stop - 1) // groups + 1):
            order = permutation(self.seed, f"path:order:{self.stream}", cycle, self.components)
            strata = self._strata(cycle)
            for group in range(groups):
                draw = cycle * groups + group
                if start <= draw < stop:
                    words = raw(self.seed, f"path:gates:{self.stream}", draw, self.components)
                    mask = (words.astype(np.uint64) >= threshold).astype(np.float32)
                    chosen = order[edges[group] : edges[group + 1]]
                    mask[chosen] = (strata[chosen] + between_0_and_1(words[chosen])) / np.float32(STRATA)
                    out[draw - start] = mask
        return out

    def _strata(self, cycle: int) -> np.ndarray:
        """The quarter of (0, 1) that each gate is in during a cycle."""
        number, half = divmod(cycle, 2)
        block, turn = divmod(number, STRATA)
        words = raw(self.seed, f"path:strata:{self.stream}", 2 * block + half, self.components * STRATA)
        return np.argsort(words.reshape(self.components, STRATA), axis=1, kind="stable")[:, turn].astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "rho": self.rho, "groups": self.groups, "h": self.h, "off": self.off}


def between_0_and_1(words: np.ndarray) -> Float32[np.ndarray, " gate"]:
    """Uniform float32 strictly inside (0, 1), by 20 bits of raw integers: no rounding reaches an end of a stratum."""
    return ((words >> np.uint32(12)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-20)


def on_path(masks: np.ndarray) -> np.ndarray:
    """Which gates are on the path: those strictly between 0 and 1."""
    return (masks > 0) & (masks < 1)
