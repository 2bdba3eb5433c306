"""What is ablated or freed: names as the user gives them, checked, as masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel
from ablationlens.registry import Registry
from ablationlens.sites import Component
from ablationlens.spd.decomposition import Decomposition
from ablationlens.spd_experiment.slices import Restricted, Slice, Split, slice_of

What: TypeAlias = Component | str | Restricted
Ablate: TypeAlias = What | Iterable[What] | None
"""A head, a rank-one component, a component restricted to a head, several of one kind, or None for nothing."""

BASELINE = "baseline"
"""What patterns call the model before anything is ablated."""


@dataclass(frozen=True)
class Arm:
    """One thing that is done to the model.

    Attributes:
        name: as the user has it.
        operation: "ablate", the gate is 0 in every mode; "free", the importance is 0, and the mode decides the gate.
        heads: names of heads.
        columns: of `Split.registry`.
        whole: whether all of these are whole components, and not slices of them.
        what: what it is, in words.
    """

    name: str
    operation: str
    heads: tuple[str, ...]
    columns: tuple[int, ...]
    whole: bool
    what: tuple[str, ...]

    def mask(
        self, model: MaskedModel, data: Batch, positions: tuple[int, ...] | None
    ) -> Float[Tensor, "batch component"] | Float[Tensor, "batch position component"]:
        """The mask of the heads' or of the components' model."""
        off = list(self.heads) or list(self.columns)
        return model.mask(off) if positions is None or not off else model.mask(off, positions=positions, data=data)


class Asked:
    """All arms of an experiment, and the columns that they need.

    Args:
        adapter: the model.
        decomposition: of its modules.
        ablate: by name what is ablated.
        free: by name which components are freed.

    Raises:
        InputError: if nothing is asked for, or names and things do not fit.
        UnknownNameError: for a component or a head that there is not.
    """

    def __init__(
        self,
        adapter: Adapter,
        decomposition: Decomposition,
        ablate: Mapping[str, Ablate],
        free: Mapping[str, Ablate] | None,
    ) -> None:
        self._decomposition, self._adapter = decomposition, adapter
        self._known = decomposition.registry(adapter)
        self.heads: Registry | None = adapter.registry("head") if adapter.layout.heads else None
        given = [
            (str(name), operation, _listed(name, value))
            for operation, asked in (("ablate", ablate), ("free", free))
            for name, value in _mapping(operation, asked).items()
        ]
        _check_names([name for name, _, _ in given])
        found = [(name, operation, *self._found(name, operation, things)) for name, operation, things in given]
        self.split = Split(
            adapter, decomposition, [one for *_, parts in found for one in parts if isinstance(one, Slice)]
        )
        self.arms = tuple(self._arm(name, operation, heads, parts) for name, operation, heads, parts in found)

    def _found(self, name: str, operation: str, things: list[What]) -> tuple[list[str], list[Component | Slice]]:
        """Heads, and components or slices of them."""
        heads: list[str] = []
        parts: list[Component | Slice] = []
        for one in things:
            if isinstance(one, Restricted):
                if operation == "free":
                    raise InputError(f"'{name}' frees {one}: a component is freed whole, free={{{name!r}: ...}}")
                parts.append(slice_of(one, self._decomposition, self._known, self._adapter))
            elif self.heads is not None and _is_head(one, self.heads):
                heads.append(self.heads[self.heads.column(one)].name)
            else:
                parts.append(self._known[self._known.column(one)])
        if heads and parts:
            raise InputError(
                f"'{name}' names a head and a component: ablate them under two names, because the components of "
                "attn.o read what the heads write"
            )
        if operation == "free":
            self._check_free(name, heads, parts)
        return heads, parts

    def _check_free(self, name: str, heads: list[str], parts: list[Component | Slice]) -> None:
        if heads:
            raise InputError(f"'{name}' frees {heads[0]}: only components have an importance; ablate={{...}} for heads")
        for one in parts:
            if isinstance(one, Component) and self._is_remainder(one):
                raise InputError(f"'{name}' frees {one.name}: a remainder has no importance that could be 0")

    def _is_remainder(self, one: Component) -> bool:
        return one.index == self._decomposition[one.site.layer, one.site.module].components

    def _arm(self, name: str, operation: str, heads: list[str], parts: list[Component | Slice]) -> Arm:
        columns: list[int] = []
        words = list(heads)
        for one in parts:
            if isinstance(one, Slice):
                columns.append(self.split.column(one))
                words.append(str(one))
            else:
                columns += self.split.columns((one.site.layer, one.site.module), one.index)
                words.append(one.name)
        whole = not any(isinstance(one, Slice) for one in parts)
        return Arm(name, operation, tuple(heads), tuple(dict.fromkeys(columns)), whole, tuple(words))


def _is_head(one: Component | str, heads: Registry) -> bool:
    """Whether it is a head, or looks like the name of one."""
    if isinstance(one, Component):
        return one.site.kind == "head"
    return one in heads or one.rpartition(" ")[0].rpartition(".")[2].split(" ")[-1] == "head"


def _mapping(operation: str, asked: Any) -> Mapping[str, Any]:
    if asked is None and operation == "free":
        return {}
    if not isinstance(asked, Mapping) or (operation == "ablate" and not asked):
        raise InputError(
            f"{operation} names what is to be {operation}d, {{'prev head': 'L0.head 3', 'a component': "
            f"'L1.attn.q rank_one 5'}}; got {asked!r}"
        )
    return asked


def _listed(name: Any, value: Any) -> list[Any]:
    """Several things as they are, one as a list of itself, None as nothing."""
    if value is None:
        return []
    things = [value] if isinstance(value, str | Component | Restricted) else value
    if isinstance(things, torch.Tensor) or not isinstance(things, Iterable):
        raise InputError(f"'{name}' is a head, a component or several: 'L0.head 3'; got {type(value).__name__}")
    listed = list(things)
    for one in listed:
        if not isinstance(one, str | Component | Restricted):
            raise InputError(
                f"'{name}' holds {one!r}: heads and components go by their names, 'L0.head 3', "
                "'L1.attn.q rank_one 5', or al.spd.Restricted('L1.attn.q rank_one 5', head=2)"
            )
    return listed


def _check_names(names: list[str]) -> None:
    if BASELINE in names:
        raise InputError(f"'{BASELINE}' is what nothing was done to: choose another name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"'{twice}' is named twice, in ablate and in free: choose two names")
