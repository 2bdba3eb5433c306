"""Components restricted to one head: the slice of a component that one head reads or writes, as a part of its own.

A component of ``attn.q``, ``attn.k`` or ``attn.v`` writes to every head. Restricted to a head it is ``outer(U[c, head],
V[:, c])``; of ``attn.o``, which reads every head, it is ``outer(U[c], V[head, c])``. Both slices of a component, the
head's and the rest, have the component's gate, and only the head's is ablated: so it is right at any gate. A component
of a fused ``attn.qkv`` writes the queries, the keys and the values of every head, so one of these is named as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError, UnknownNameError
from ablationlens.registry import Registry
from ablationlens.sites import Component, Tap
from ablationlens.spd.decomposition import Decomposition, Where, name_of
from ablationlens.spd.forward import Gates


@dataclass(frozen=True)
class Restricted:
    """A rank-one component as far as it concerns one head.

    Attributes:
        component: of ``attn.q``, ``attn.k``, ``attn.v``, ``attn.o`` or a fused ``attn.qkv``; or its name.
        head: a query head for q and o; a key/value head for k and v, which query heads may share.
        projection: for a component of ``attn.qkv``, which of its outputs are meant: "q", "k" or "v".
    """

    component: Component | str
    head: int
    projection: Literal["q", "k", "v"] | None = None

    def __str__(self) -> str:
        name = self.component.name if isinstance(self.component, Component) else self.component
        return _in_words(name, self.head, self.projection)


@dataclass(frozen=True)
class Slice:
    """Which component of a module, and which of its features are the head's: output features, or inputs of ``attn.o``.

    Attributes:
        where: the module.
        index: the component.
        features: those of the head.
        side: where they are.
        head: its number.
        projection: of a fused matrix.
    """

    where: Where
    index: int
    features: tuple[int, ...]
    side: Literal["in", "out"]
    head: int
    projection: str | None = None

    def __str__(self) -> str:
        return _in_words(f"{name_of(self.where)} rank_one {self.index}", self.head, self.projection)


def _in_words(name: str, head: int, projection: str | None) -> str:
    return f"{name} in head {head}" + ("" if projection is None else f", {projection}")


def slice_of(asked: Restricted, decomposition: Decomposition, registry: Registry, adapter: Adapter) -> Slice:
    """What a restricted component is.

    Args:
        asked: as the user gave it.
        decomposition: that it is of.
        registry: of the decomposition.
        adapter: the model.

    Raises:
        UnknownNameError: for a component that the decomposition has not, or a head that the model has not.
        InputError: for a remainder, a module that no attention reads or writes through, or a fused one of which no
            projection is named.
    """
    if not isinstance(asked.component, str | Component):
        raise InputError(
            f"a component goes by its name, al.spd.Restricted('L1.attn.q rank_one 5', head=2); got {asked.component!r}"
        )
    component, layout = registry[registry.column(asked.component)], adapter.layout
    where, name = (component.site.layer, component.site.module), component.site.module
    if component.index == decomposition[where].components:
        raise InputError(f"'{component.name}' is a remainder and no rank-one component: ablate it whole")
    attention, _, own = name.rpartition(".")
    heads = next((one for one in layout.heads if (one.layer, one.attention) == (where[0], attention)), None)
    if heads is None or own not in ("q", "k", "v", "o", "qkv"):
        raise InputError(
            f"'{component.name}' cannot be restricted to a head: only components of attn.q, attn.k, attn.v, attn.o and "
            "attn.qkv have a slice for each head"
        )
    projection = _projection(asked, component, own)
    count = layout.key_values(heads) if projection in ("k", "v") else heads.queries
    if not is_integer(asked.head) or not 0 <= asked.head < count:
        kind = "key/value heads" if projection in ("k", "v") else "heads"
        raise UnknownNameError(f"no head {asked.head!r} in {name_of(where)}: it has {count} {kind}, 0 to {count - 1}")
    head = int(asked.head)
    features = range(head * heads.size, (head + 1) * heads.size)
    if own == "qkv":  # in the order of the fused matrix, which may interleave the three
        place = adapter.place(Tap(where[0], f"{attention}.{projection}", "out"))
        return Slice(where, component.index, tuple(place.index[list(features)].tolist()), "out", head, projection)
    return Slice(where, component.index, tuple(features), "in" if projection == "o" else "out", head)


def _projection(asked: Restricted, component: Component, own: str) -> str:
    """Which projection is cut, of a module that is one or holds three."""
    if own == "qkv":
        if asked.projection not in ("q", "k", "v"):
            raise InputError(
                f"'{component.name}' writes queries, keys and values: say which, "
                f"al.spd.Restricted('{component.name}', head={asked.head!r}, projection='q'); got {asked.projection!r}"
            )
        return asked.projection
    if asked.projection not in (None, own):
        raise InputError(f"'{component.name}' is of {own} alone: leave projection={asked.projection!r} out")
    return own


class Split:
    """The components of a decomposition, of which some slices are parts of their own: columns of one registry.

    Attributes:
        registry: of all modules: the components, without the slices that are taken out; these; the remainder.

    Args:
        adapter: the model.
        decomposition: of its modules.
        slices: to be taken out.
    """

    def __init__(self, adapter: Adapter, decomposition: Decomposition, slices: Iterable[Slice] = ()) -> None:
        self._slices: dict[Where, list[Slice]] = {where: [] for where in decomposition.places}
        for one in dict.fromkeys(slices):
            self._slices[one.where].append(one)
        factors = {where: _factors(part.V, part.U, self._slices[where]) for where, part in decomposition.items()}
        self.registry: Registry = adapter.registry("rank_one", factors=factors)
        parts = {(part.site.layer, part.site.module): part for part in self.registry.parts}
        self._starts = {where: parts[where].start for where in decomposition.places}
        self._counts = {where: part.components for where, part in decomposition.items()}

    def columns(self, where: Where, index: int) -> list[int]:
        """Columns of a component with all of its slices, or of the remainder, which comes after the components."""
        start, count, own = self._starts[where], self._counts[where], self._slices[where]
        if index == count:
            return [start + count + len(own)]
        return [start + index, *(start + count + at for at, one in enumerate(own) if one.index == index)]

    def column(self, one: Slice) -> int:
        """Column of a slice."""
        return self._starts[one.where] + self._counts[one.where] + self._slices[one.where].index(one)

    def laid_out(self, gates: Mapping[Where, Gates]) -> Float[Tensor, "*rows component"]:
        """Gates of the components in the order of the columns; slices have those of their components."""
        rows = torch.broadcast_shapes(*(one.shape[:-1] for own in gates.values() for one in own))
        laid = torch.ones(*rows, len(self.registry))
        for where, start in self._starts.items():
            parts, remainder = gates[where]
            chosen = [*range(self._counts[where]), *(one.index for one in self._slices[where])]
            laid[..., start : start + len(chosen)] = parts[..., chosen]
            laid[..., start + len(chosen)] = remainder[..., 0]
        return laid

    def by_module(self, mask: Float[Tensor, "*rows component"]) -> dict[Where, Gates]:
        """The mask of each module's components and remainder, slices left out: the reverse of `laid_out`."""
        found: dict[Where, Gates] = {}
        for where, start in self._starts.items():
            last = start + self._counts[where] + len(self._slices[where])
            found[where] = Gates(mask[..., start : start + self._counts[where]], mask[..., last : last + 1])
        return found


def _factors(V: Tensor, U: Tensor, slices: Sequence[Slice]) -> tuple[Tensor, Tensor]:
    """V and U with slices as further columns and rows; the product of the two stays what it is."""
    if not slices:
        return V.detach(), U.detach()
    rest_of_v, rest_of_u = V.detach().clone(), U.detach().clone()
    columns: list[Tensor] = []
    rows: list[Tensor] = []
    for one in slices:
        v, u, own = V.detach()[:, one.index], U.detach()[one.index], list(one.features)
        cut = torch.zeros_like(v if one.side == "in" else u)
        if one.side == "in":
            cut[own], rest_of_v[own, one.index] = v[own], 0.0
        else:
            cut[own], rest_of_u[one.index, own] = u[own], 0.0
        columns.append(cut if one.side == "in" else v)
        rows.append(cut if one.side == "out" else u)
    return torch.cat([rest_of_v, torch.stack(columns, 1)], 1), torch.cat([rest_of_u, torch.stack(rows)])
