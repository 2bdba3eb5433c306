"""Steps: what a plan does at one activation, worked out once and used by every forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ablationlens.adapters.base import Place
from ablationlens.basis import Basis
from ablationlens.sites import Tap


@dataclass(frozen=True, eq=False)
class Cut:
    """All coordinate sites of one activation.

    Attributes:
        place: the whole activation.
        taps: the taps in it, each with its place, and which of its features are cut (None: all).
        columns: mask columns of the groups, if they are consecutive and complete; otherwise the column of each
            feature, where the width of the mask stands for "kept".
        block: features of one group, where `columns` is a slice.
    """

    place: Place
    taps: tuple[tuple[Tap, Place, Tensor | None], ...]
    columns: slice | Tensor
    block: int

    @cached_property
    def plain(self) -> bool:
        """Whether gates [batch, feature] need no more than an axis for positions."""
        return self.block == 1 and self.place.axes == 3 and self.place.axis_from_last == -1


@dataclass(frozen=True, eq=False)
class Factored:
    """One site that is read in one place and written in another.

    Attributes:
        columns: mask column of each code; the width of the mask stands for "kept".
        remainder: mask column of the remainder, or None.
        table: weight of an embedding, [token, feature]; None for what reads features.
    """

    read: Place
    write: Place
    read_tap: Tap
    write_tap: Tap
    V: Tensor | None
    U: Tensor
    columns: Tensor
    remainder: int | None
    table: Tensor | None = None

    @property
    def codes(self) -> Place:
        """What is held of the tokens that an embedding reads: what its parts read, and what it writes."""
        size = self.U.shape[0] + (0 if self.remainder is None else self.U.shape[1])
        return replace(self.write, features=slice(0, size), size=size)

    def looked_up(self, tokens: Tensor) -> Tensor:
        """The same, for tokens: [batch, position, part] beside [batch, position, feature]."""
        assert self.table is not None
        assert self.V is not None
        parts = functional.embedding(tokens, self.V.to(self.table))
        return parts if self.remainder is None else torch.cat([parts, functional.embedding(tokens, self.table)], dim=-1)


@dataclass(frozen=True, eq=False)
class Recoded:
    """One site that is cut by a basis of the user's own.

    Attributes:
        tap: where the site reads.
        codes: what its codes are like: they are in the last axis, whatever the axis of the features.
        basis: the codes that take part, alone.
        columns: mask columns of these codes.
    """

    read: Place
    write: Place
    tap: Tap
    codes: Place
    basis: Basis
    columns: slice | Tensor

    def encode(self, activation: Tensor) -> Tensor:
        """Codes of the activation as the host holds it."""
        return self.encode_shown(self.read.shown(activation))

    def encode_shown(self, activation: Tensor) -> Tensor:
        """Codes of the activation as the host shows it."""
        return self.basis.encode(activation.movedim(self.read.feature_axis, -1))

    def decode(self, codes: Tensor) -> Tensor:
        """What codes contribute to the activation as the host holds it."""
        written = self.basis.decode(codes).movedim(-1, self.write.feature_axis)
        return written if self.write.view is None else self.write.view.revert(written)


Step: TypeAlias = Cut | Factored | Recoded


def rank(step: Step) -> tuple[int, int, int]:
    """Sorts steps into execution order; within one activation, lerps come last."""
    place = step.place if isinstance(step, Cut) else step.write
    return (place.order, int(place.hook == "out"), int(isinstance(step, Cut)))
