"""Taps, bases, sites and components: what can be ablated, in names that every host shares.

A *site* is one place where the model is cut: it reads the activation at one tap, cuts it by a basis into components
and writes what is left at another tap. A *component* is one part of a site, and one column of every mask.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

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
                f"factors of rank-one components are float tensors; got {type(self.V).__name__} and "
                f"{type(self.U).__name__}: torch.as_tensor(V).float()"
            )
        if self.V.ndim != 2 or self.U.ndim != 2 or self.V.shape[1] != self.U.shape[0]:
            raise InputError(
                "factors of rank-one components have shapes V [in, C] and U [C, out]; "
                f"got V {list(self.V.shape)} and U {list(self.U.shape)}"
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


Basis: TypeAlias = Coordinates | Projected | RankOne
"""How the activation at a site is cut into components."""


def basis_from_json(data: dict[str, Any]) -> Basis:
    """The basis that `to_json` wrote.

    Raises:
        InputError: for a form that this version does not know.
    """
    match data:
        case {"basis": "coordinates", "features": int(features), "block": int(block)}:
            return Coordinates(features, block)
        case {"basis": "projected", "features": int(features)}:
            return Projected(features)
        case {"basis": "rank_one", "factors": str(factors)}:
            tensors = safetensors.torch.load(base64.b64decode(factors))
            return RankOne(tensors["V"], tensors["U"])
        case _:
            raise InputError(f"unknown basis in registry JSON: {str(data)[:120]}")


@dataclass(frozen=True)
class Cut:
    """Which weight a site cuts, and how: the ground on which overlaps are found.

    Attributes:
        weights: logical modules whose weight is cut; `attn.qkv` is named by its parts.
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
    basis: Basis
    cut: Cut

    @property
    def key(self) -> tuple[str, int, str]:
        return (self.kind, self.layer, self.module)

    def name(self, index: int) -> str:
        """Name of one component, for example ``L3.attn.q row 17`` or ``L5.head 2``."""
        if self.kind in ("head", "neuron"):
            return f"L{self.layer}.{self.kind} {index}"
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
            "read": [self.read.layer, self.read.module, self.read.side],
            "write": [self.write.layer, self.write.module, self.write.side],
            "basis": self.basis.to_json(),
            "cut": {"weights": list(self.cut.weights), "axis": self.cut.axis},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Site:
        return cls(
            kind=data["kind"],
            layer=data["layer"],
            module=data["module"],
            read=Tap(*data["read"]),
            write=Tap(*data["write"]),
            basis=basis_from_json(data["basis"]),
            cut=Cut(tuple(data["cut"]["weights"]), data["cut"]["axis"]),
        )


@dataclass(frozen=True)
class Component:
    """One part of a model: a column of every mask and a row of every table."""

    site: Site
    index: int
    """Which part of the site: the row, column, head, block, neuron, filter or rank-one part."""

    @property
    def name(self) -> str:
        return self.site.name(self.index)

    def __str__(self) -> str:
        return self.name
