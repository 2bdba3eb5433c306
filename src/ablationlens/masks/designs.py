"""Designs: which masks a regression, an evaluation or a baseline draws.

Draw i of a design is a function of (seed, i) alone: the same masks on any machine, in any order, for any batch size.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Shaped

from ablationlens.errors import InputError
from ablationlens.randomness import permutation, raw

DesignName: TypeAlias = Literal["bernoulli", "subset", "balanced"]
"""The random designs, by the name that `al.coar(design=...)` takes."""


class Design(ABC):
    """A sequence of masks over a registry's components.

    Attributes:
        components: width of a mask.
        draws: number of masks.
        by_example: whether every example has masks of its own. The mask of a draw is then [example, component] or
            [example, position, component], and the design belongs to one model and its data.
    """

    components: int
    draws: int
    by_example: ClassVar[bool] = False

    @abstractmethod
    def mask(self, draw: int) -> Shaped[np.ndarray, "*example_and_position component"]:
        """Mask of one draw: booleans (True = kept), or float32 gates from 0 to 1."""

    def masks(self, start: int, stop: int) -> Shaped[np.ndarray, "draw *example_and_position component"]:
        """Masks of the draws from `start` to `stop`."""
        return np.stack([self.mask(draw) for draw in range(start, stop)])

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that decides the masks, JSON-able."""

    def __len__(self) -> int:
        return self.draws


@dataclass(frozen=True)
class Random(Design):
    """What the random designs share.

    Attributes:
        components: width of a mask.
        alpha: share of components that a draw ablates.
        draws: number of masks.
        seed: first part of every draw's address.
        stream: second part; evaluation has a stream of its own, so it never sees the masks of a fit.
    """

    components: int
    alpha: float
    draws: int
    seed: int = 0
    stream: str = "fit"

    def __post_init__(self) -> None:
        for name in ("components", "draws", "seed"):  # as Python's own integers, which JSON knows
            object.__setattr__(self, name, integer(name, getattr(self, name)))
        try:
            object.__setattr__(self, "alpha", float(self.alpha))
        except (TypeError, ValueError) as error:
            raise InputError(f"alpha is a number between 0 and 1; got {self.alpha!r}") from error
        if self.components < 2:
            raise InputError(
                f"random masks need at least 2 components, so that some are kept; the registry has {self.components}. "
                "For one component: al.leave_one_out(model, data)"
            )
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is the share of components to ablate, between 0 and 1; got {self.alpha}")
        if self.ablated < 1 or self.ablated >= self.components:
            low, high = 0.5 / self.components, 1 - 0.5 / self.components
            raise InputError(
                f"alpha={self.alpha} ablates {self.alpha * self.components:.2f} of {self.components} components: "
                f"too few or all of them. The smallest alpha that gives one is {_up(low)}, the largest {_down(high)}"
            )
        if self.draws < 1:
            raise InputError(f"draws is a positive number of masks; got {self.draws}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is an integer from 0 to 2**63 - 1; got {self.seed}")

    @property
    def ablated(self) -> int:
        """Components that a draw ablates, exactly or on average."""
        return int(self.alpha * self.components + 0.5)

    def describe(self) -> dict[str, Any]:
        return {
            "design": type(self).__name__.lower(),
            "alpha": self.alpha,
            "draws": self.draws,
            "seed": self.seed,
            "stream": self.stream,
            "components": self.components,
        }


@dataclass(frozen=True)
class Bernoulli(Random):
    """Each component is ablated with probability alpha, independently: the design of the COAR reference code."""

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        keep = raw(self.seed, f"bernoulli:{self.stream}", draw, self.components)
        return keep >= np.uint32(round(self.alpha * 2**32))


@dataclass(frozen=True)
class Subset(Random):
    """A uniform subset of exactly round(alpha * components) components is ablated: the design of the COAR paper.

    The number ablated never varies, so a regression leaves the common level of the weights open.
    """

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        order = permutation(self.seed, f"subset:{self.stream}", draw, self.components)
        mask = np.ones(self.components, dtype=bool)
        mask[order[: self.ablated]] = False
        return mask


@dataclass(frozen=True)
class Balanced(Random):
    """Every component is ablated equally often: random orders, each cut into blocks that are ablated in turn.

    Blocks are of equal size, so a draw ablates 1 / blocks of the components, the nearest such share to alpha.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 2:
            raise InputError(
                f"alpha={self.alpha}: a balanced design ablates half of the components at most, because it cuts each "
                "order into at least two blocks; take design='bernoulli' or 'subset' for more"
            )

    @property
    def blocks(self) -> int:
        """Draws that one random order gives."""
        return max(1, round(self.components / self.ablated))

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        return self.masks(draw, draw + 1)[0]

    def masks(self, start: int, stop: int) -> Bool[np.ndarray, "draw component"]:
        out = np.ones((stop - start, self.components), dtype=bool)
        edges = np.linspace(0, self.components, self.blocks + 1).round().astype(int)
        for cycle in range(start // self.blocks, (stop - 1) // self.blocks + 1):
            order = permutation(self.seed, f"balanced:{self.stream}", cycle, self.components)
            for block in range(self.blocks):
                draw = cycle * self.blocks + block
                if start <= draw < stop:
                    out[draw - start, order[edges[block] : edges[block + 1]]] = False
        return out


@dataclass(frozen=True)
class LeaveOneOut(Design):
    """Draw 0 keeps everything; draw j + 1 ablates component j alone."""

    components: int
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", self.components + 1)

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        mask = np.ones(self.components, dtype=bool)
        if draw:
            mask[draw - 1] = False
        return mask

    def describe(self) -> dict[str, Any]:
        return {"design": "leave_one_out", "components": self.components, "draws": self.draws}


MAX_ALL_MASKS = 20
"""Components up to which all masks can be listed: about a million."""


@dataclass(frozen=True)
class AllMasks(Design):
    """Every mask of a few components: draw i ablates the components whose bits are set in i."""

    components: int
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", 2**self.components)
        if not 1 <= self.components <= MAX_ALL_MASKS:
            raise InputError(
                f"{self.components} components have 2**{self.components} masks; all of them can be drawn for up to "
                f"{MAX_ALL_MASKS}. For more, draw at random: design='bernoulli'"
            )

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        return (draw >> np.arange(self.components)) & 1 == 0

    def describe(self) -> dict[str, Any]:
        return {"design": "all_masks", "components": self.components, "draws": self.draws}


RANDOM_DESIGNS: dict[str, type[Random]] = {"bernoulli": Bernoulli, "subset": Subset, "balanced": Balanced}


def check_design_name(name: Any) -> None:
    """Refuse what is no name of a random design.

    Raises:
        InputError: with the name to type instead.
    """
    if isinstance(name, str) and name in RANDOM_DESIGNS:
        return
    kind: Any = name if isinstance(name, type) else type(name)
    meant = next((known for known, own in RANDOM_DESIGNS.items() if kind is own), "bernoulli")
    raise InputError(f"expected a design among {', '.join(RANDOM_DESIGNS)}, got {name!r}; type design='{meant}'")


def random_design(name: str, components: int, alpha: float, draws: int, seed: int = 0, stream: str = "fit") -> Random:
    """The random design of that name.

    Raises:
        InputError: for an unknown name, an alpha outside (0, 1) or that rounds to no component, or no draws.
    """
    check_design_name(name)
    return RANDOM_DESIGNS[name](components, alpha, draws, seed, stream)


def integer(name: str, value: Any) -> int:
    """The value as Python's own integer.

    Raises:
        InputError: if it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise InputError(f"{name} is an integer; got {value!r}") from error


def _up(value: float) -> float:
    """A short decimal not below `value`."""
    return float(np.ceil(value * 1e6) / 1e6)


def _down(value: float) -> float:
    return float(np.floor((value - 1e-12) * 1e6) / 1e6)
