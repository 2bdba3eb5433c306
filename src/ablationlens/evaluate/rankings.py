"""Rankings of components, and the masks that keep or ablate the top of each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Integer

from ablationlens.masks.designs import Design
from ablationlens.randomness import permutation
from ablationlens.results import Attribution

Order: TypeAlias = Literal["signed", "absolute"]
"""Most positive weights first (most negative, where the output falls), or largest first whatever their sign."""
Ranking: TypeAlias = Literal["mean", "example"]
"""One ranking for all examples, of the mean weights; or one for each example, of its own weights."""

INSERTION, DELETION = 0, 1
DIRECTIONS = ("insertion", "deletion")
"""The top is kept and the rest ablated; the top is ablated and the rest kept."""


def ranked(
    attribution: Attribution, order: Order, ranking: Ranking, seed: int, toward: Float[np.ndarray, " ranking"]
) -> Integer[np.ndarray, "ranking component"]:
    """Columns of the components, the most important first: one row, or one for each example.

    Args:
        attribution: whose weights.
        order: "signed" or "absolute".
        ranking: "mean" or "example".
        seed: of the order of equal weights.
        toward: sign of f(all) - f(none), one for each ranking. What moves the output that way comes first in the
            signed order: an output that falls, such as a loss or a divergence, is made by negative weights.

    A weight that is not finite counts as 0, as in `Attribution.predict`. Equal weights are put in a random order (of
    the seed): in the registry's order the early layers would come first.
    """
    weights = attribution.weights.values.astype(np.float64)
    if ranking == "mean":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a component without a finite weight has no mean
            weights = np.nanmean(np.where(np.isfinite(weights), weights, np.nan), axis=0, keepdims=True)
    values = np.nan_to_num(weights, nan=0.0, posinf=0.0, neginf=0.0)
    values = np.abs(values) if order == "absolute" else values * np.where(toward < 0, -1.0, 1.0)[:, None]
    ties = permutation(seed, "faithfulness:ties", 0, values.shape[1])
    return np.stack([ties[np.argsort(-row[ties], kind="stable")] for row in values])


def random_rankings(components: int, count: int, seed: int) -> Integer[np.ndarray, "ranking component"]:
    """Random orders of the components; order i depends on (seed, i) alone."""
    return np.stack([permutation(seed, "faithfulness:random", i, components) for i in range(count)])


def random_rankings_by_example(
    components: int, count: int, examples: int, seed: int
) -> Integer[np.ndarray, "ranking example component"]:
    """The same with an order for each example: rankings that differ between examples have less chance to be lucky."""
    each = [
        permutation(seed, f"faithfulness:random:{one}", i, components) for i in range(count) for one in range(examples)
    ]
    return np.stack(each).reshape(count, examples, components)


def kept_top(order: Integer[np.ndarray, " component"], count: int, direction: int) -> Bool[np.ndarray, " component"]:
    """The mask that keeps, or ablates, the first `count` components of an order."""
    mask = np.full(len(order), direction == DELETION)
    mask[order[:count]] = direction == INSERTION
    return mask


@dataclass(frozen=True, eq=False)
class Ranked(Design):
    """Masks of rankings: for each ranking, for each direction, for each count. They are made on the fly.

    Attributes:
        rankings: columns of the components, the most important first.
        counts: how many of them are kept (insertion) or ablated (deletion).
    """

    rankings: Integer[np.ndarray, "ranking component"]
    counts: tuple[int, ...]
    components: int = field(init=False)
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", self.rankings.shape[-1])
        object.__setattr__(self, "draws", len(self.rankings) * len(DIRECTIONS) * len(self.counts))

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        rest, count = divmod(draw, len(self.counts))
        ranking, direction = divmod(rest, len(DIRECTIONS))
        return kept_top(self.rankings[ranking], self.counts[count], direction)

    def describe(self) -> dict[str, Any]:
        return {
            "design": "ranked",
            "rankings": len(self.rankings),
            "counts": list(self.counts),
            "components": self.components,
            "draws": self.draws,
        }


@dataclass(frozen=True, eq=False)
class RankedByExample:
    """The same with a ranking for each example: masks [draw, example, component].

    Attributes:
        rankings: [ranking, example, component].
        counts: as in `Ranked`.
    """

    rankings: Integer[np.ndarray, "ranking example component"]
    counts: tuple[int, ...]
    by_example: ClassVar[bool] = True

    @property
    def components(self) -> int:
        return self.rankings.shape[-1]

    @property
    def draws(self) -> int:
        return len(self.rankings) * len(DIRECTIONS) * len(self.counts)

    def describe(self) -> dict[str, Any]:
        rankings, examples, components = self.rankings.shape
        return {
            "design": "ranked by example",
            "rankings": rankings,
            "examples": examples,
            "counts": list(self.counts),
            "components": components,
            "draws": self.draws,
        }

    def masks(self, start: int, stop: int) -> Bool[np.ndarray, "draw example component"]:
        each = [Ranked(self.rankings[:, example], self.counts) for example in range(self.rankings.shape[1])]
        return np.stack([one.masks(start, stop) for one in each], axis=1)
