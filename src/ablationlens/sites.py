"""Taps, bases, sites and components: what can be ablated, in names that every host shares.

A *site* is one place where the model is cut: it reads the activation at one tap, cuts it by a basis into components
and writes what is left at another tap. A *component* is one part of a site, and one column of every mask.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.absent import described, found
from ablationlens.basis import Basis
from ablationlens.errors import InputError
from ablationlens.types import Side

Axis: TypeAlias = Literal["row", "column", "whole"]
"""How a site cuts its weight matrix: by output features, by input features, or as a whole."""


@dataclass(frozen=True, order=True)
class Location:
    """Where a tap of the user's own is found: what each host calls it, and which axis of it holds the features.

    Attributes:
        addresses: (host, hook name or module path), sorted by host.
        axis: axis of the features, the batch being axis 0.
    """

    addresses: tuple[tuple[str, str], ...]
    axis: int = -1

    def to_json(self) -> dict[str, Any]:
        return {"addresses": dict(self.addresses), "axis": self.axis}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Location:
        addresses: dict[str, str] = {str(host): str(address) for host, address in data["addresses"].items()}
        return cls(tuple(sorted(addresses.items())), int(data["axis"]))


@dataclass(frozen=True, order=True)
class Tap:
    """An activation of the model, by logical name: what a module of a layer reads (`in`) or writes (`out`).

    A tap of the user's own has a name of the user's own, and says itself where it is found.
    """

    layer: int
    module: str
    side: Side
    location: Location | None = None

    def __str__(self) -> str:
        return f"L{self.layer}.{self.module}.{self.side}"

    def to_json(self) -> list[Any]:
        logical = [self.layer, self.module, self.side]
        return logical if self.location is None else [*logical, self.location.to_json()]

    @classmethod
    def from_json(cls, data: list[Any]) -> Tap:
        return cls(*data[:3], *(Location.from_json(location) for location in data[3:]))


@dataclass(frozen=True, order=True)
class Pattern:
    """The attention pattern of a layer, [batch, head, query, key]: what a forward pass shows beside its activations.

    Attributes:
        layer: index of the layer.
        attention: which attention of a layer, in a model that has several: ``encoder.attn``, ``decoder.attn`` or
            ``decoder.cross`` in T5.
    """

    layer: int
    attention: str | None = None

    def __str__(self) -> str:
        return f"L{self.layer}.{self.attention or 'attn'}.pattern"


@dataclass(frozen=True)
class Coordinates:
    """Features of an activation in consecutive groups: component j holds features [j * block, (j + 1) * block).

    The last group is shorter where `block` does not divide `features`.
    """

    features: int
    block: int = 1

    @property
    def components(self) -> int:
        return -(-self.features // self.block)

    def members(self, index: int) -> range:
        """Features of one component."""
        return range(index * self.block, min((index + 1) * self.block, self.features))

    def to_json(self) -> dict[str, Any]:
        return {"basis": "coordinates", "features": self.features, "block": self.block}


@dataclass(frozen=True)
class Grouped:
    """Features of an activation in groups of any kind; features in no group are always kept."""

    features: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def components(self) -> int:
        return len(self.groups)

    def members(self, index: int) -> tuple[int, ...]:
        """Features of one component."""
        return self.groups[index]

    def to_json(self) -> dict[str, Any]:
        return {"basis": "grouped", "features": self.features, "groups": [list(group) for group in self.groups]}


@dataclass(frozen=True)
class Codes:
    """Components of a basis of the user's own: each holds one code, or a group of them.

    Attributes:
        basis: how the activation is written as codes.
        groups: how the codes are grouped into components.
    """

    basis: Basis
    groups: Coordinates | Grouped

    @property
    def components(self) -> int:
        return self.groups.components

    def members(self, index: int) -> Sequence[int]:
        """Codes of one component."""
        return self.groups.members(index)

    def to_json(self) -> dict[str, Any]:
        return {"basis": "codes", "of": described(self.basis), "groups": self.groups.to_json()}


@dataclass(frozen=True)
class Projected:
    """Columns of one projection of a fused matrix, for example of ``attn.q`` in the fused ``attn.qkv`` of GPT-2.

    The activation that is read feeds the other projections too, so the part that a column contributes is taken away
    where the projection writes: encode is the identity, decode the projection's own weight.
    """

    features: int

    @property
    def components(self) -> int:
        return self.features

    def members(self, index: int) -> range:
        """Features of one component."""
        return range(index, index + 1)

    def to_json(self) -> dict[str, Any]:
        return {"basis": "projected", "features": self.features}


@dataclass(frozen=True, eq=False)
class RankOne:
    """Rank-one parts of a weight matrix W [out, in], and what they leave over.

    Component c < C is the matrix ``outer(U[c], V[:, c])``; component C is the remainder ``W - (V @ U).T``, so that
    the components always sum to W. The factors are those of SPD (stochastic parameter decomposition) or of an SVD.
    """

    V: Float[Tensor, "in C"]
    U: Float[Tensor, "C out"]

    def __post_init__(self) -> None:
        if not all(isinstance(factor, Tensor) and factor.is_floating_point() for factor in (self.V, self.U)):
            raise InputError(
                f"factors of rank-one components are float tensors; got {_came(self.V)} and {_came(self.U)}: "
                "torch.as_tensor(V).float()"
            )
        if self.V.ndim != 2 or self.U.ndim != 2 or self.V.shape[1] != self.U.shape[0] or not len(self.U):
            raise InputError(
                "factors of rank-one components have shapes V [in, C] and U [C, out], with C from 1; "
                f"got V {list(self.V.shape)} and U {list(self.U.shape)}"
            )
        for name, factor in (("V", self.V), ("U", self.U)):
            if not bool(torch.isfinite(factor.detach()).all()):
                raise InputError(
                    f"{name} of rank-one components holds NaN or infinity; torch.isfinite({name}) says where"
                )

    @property
    def components(self) -> int:
        return self.V.shape[1] + 1

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for factor in (self.V, self.U):
            digest.update(str((tuple(factor.shape), factor.dtype)).encode())
            digest.update(factor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RankOne) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def to_json(self) -> dict[str, Any]:
        factors = {"V": self.V.detach().cpu().contiguous(), "U": self.U.detach().cpu().contiguous()}
        return {"basis": "rank_one", "factors": base64.b64encode(safetensors.torch.save(factors)).decode()}


Cutting: TypeAlias = Coordinates | Grouped | Codes | Projected | RankOne
"""How the activation at a site is cut into components."""


def cutting_from_json(data: dict[str, Any], owner: str = "", bases: Mapping[str, Basis] | None = None) -> Cutting:
    """What `to_json` wrote.

    Args:
        data: the form of one site.
        owner: name of the site, for a basis of the user's own.
        bases: bases of the user's own by the names of their sites; None leaves them absent.

    Raises:
        InputError: for a form that this version does not know, or a basis that is not given.
    """
    match data:
        case {"basis": "coordinates", "features": int(features), "block": int(block)}:
            return Coordinates(features, block)
        case {"basis": "grouped", "features": int(features), "groups": list(groups)}:
            return Grouped(features, tuple(tuple(int(feature) for feature in group) for group in groups))
        case {"basis": "codes", "of": dict(description), "groups": dict(groups)}:
            cut = cutting_from_json(cast("dict[str, Any]", groups))
            if isinstance(cut, Coordinates | Grouped):
                return Codes(found(cast("dict[str, Any]", description), owner, bases), cut)
        case {"basis": "projected", "features": int(features)}:
            return Projected(features)
        case {"basis": "rank_one", "factors": str(factors)}:
            tensors = safetensors.torch.load(base64.b64decode(factors))
            return RankOne(tensors["V"], tensors["U"])
        case _:
            pass
    raise InputError(f"unknown basis in registry JSON: {str(data)[:120]}")


@dataclass(frozen=True)
class Cut:
    """Which weight a site cuts, and how: the ground on which overlaps are found.

    Attributes:
        weights: logical modules whose weight is cut; `attn.qkv` is named by its parts. A site of the user's own
            cuts none.
        axis: by rows, by columns or whole.
    """

    weights: tuple[str, ...]
    axis: Axis


@dataclass(frozen=True)
class Site:
    """One place where a model is cut into components."""

    kind: str
    layer: int
    module: str
    """Logical module of the components' names; heads and neurons have ``attn`` and ``mlp``."""
    read: Tap
    write: Tap
    basis: Cutting
    cut: Cut

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.kind, self.layer, self.module)

    def name(self, index: int) -> str:
        """Name of one component, such as ``L3.attn.q row 17``, ``L5.head 2``, or ``L5.encoder.attn head 2`` in T5."""
        if self.kind in ("head", "neuron"):
            where = f"{self.module} " if "." in self.module else ""  # which of several stacks, where there are such
            return f"L{self.layer}.{where}{self.kind} {index}"
        if self.kind in ("head_query", "head_value"):
            return f"L{self.layer}.{self.module} head {index}"
        if self.kind == "custom":
            return f"L{self.layer}.{self.module} {index}"
        match self.basis:
            case RankOne() if index == self.basis.components - 1:
                return f"L{self.layer}.{self.module} remainder"
            case Coordinates(features, block) if self.kind == "row_block":
                return f"L{self.layer}.{self.module} rows {index * block}-{min((index + 1) * block, features) - 1}"
            case Coordinates() if self.kind == "matrix":
                return f"L{self.layer}.{self.module}"
            case _:
                return f"L{self.layer}.{self.module} {self.kind} {index}"

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "layer": self.layer,
            "module": self.module,
            "read": self.read.to_json(),
            "write": self.write.to_json(),
            "basis": self.basis.to_json(),
            "cut": {"weights": list(self.cut.weights), "axis": self.cut.axis},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], bases: Mapping[str, Basis] | None = None) -> Site:
        owner = f"L{data['layer']}.{data['module']}"
        return cls(
            kind=data["kind"],
            layer=data["layer"],
            module=data["module"],
            read=Tap.from_json(data["read"]),
            write=Tap.from_json(data["write"]),
            basis=cutting_from_json(data["basis"], owner, bases),
            cut=Cut(tuple(data["cut"]["weights"]), data["cut"]["axis"]),
        )


@dataclass(frozen=True)
class Component:
    """One part of a model: a column of every mask and a row of every table."""

    site: Site
    index: int
    """Which part of the site: the row, column, head, block, neuron, filter, rank-one part, feature, group or code."""

    @property
    def name(self) -> str:
        return self.site.name(self.index)

    def __str__(self) -> str:
        return self.name


def _came(factor: object) -> str:
    """A factor that does not fit, in words."""
    return f"{factor.dtype} on {factor.device}" if isinstance(factor, Tensor) else type(factor).__name__
