"""Bases of the user's own in JSON: their size and fingerprint, by which those that are given are known again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ablationlens.basis import Basis
from ablationlens.errors import InputError


class Absent(Basis):
    """A basis that is known by its fingerprint alone: a registry with it has names and tables, and cannot run.

    Args:
        description: what `described` says of it.
        owner: name of the site that it belongs to.
    """

    def __init__(self, description: Mapping[str, Any], owner: str) -> None:
        self.width, self.components = int(description["width"]), int(description["components"])
        self.written_width = int(description["written"])
        self.name = str(description["name"])
        self.owner = owner
        self.known_fingerprint = str(description["fingerprint"])

    def __repr__(self) -> str:
        return f"{self.name} of {self.components} components, not stored with its registry"

    @property
    def written(self) -> int:
        return self.written_width

    @property
    def fingerprint(self) -> str:
        return self.known_fingerprint

    def encode(self, x: Tensor) -> Tensor:
        raise self._missing()

    def decode(self, codes: Tensor) -> Tensor:
        raise self._missing()

    def _missing(self) -> InputError:
        return InputError(
            f"the basis of {self.owner}, a {self.name} of {self.components} components, was not stored with the "
            f"registry: give it, al.Registry.from_json(text, bases={{'{self.owner}': basis}})"
        )


def name_of(basis: Basis) -> str:
    """Name of the class of a basis, also of one that is absent."""
    return basis.name if isinstance(basis, Absent) else type(basis).__name__


def described(basis: Basis) -> dict[str, Any]:
    """What JSON keeps of a basis: enough to know it again."""
    return {
        "name": name_of(basis),
        "width": basis.width,
        "written": basis.written,
        "components": basis.components,
        "fingerprint": basis.fingerprint,
    }


def found(description: Mapping[str, Any], owner: str, bases: Mapping[str, Basis] | None) -> Basis:
    """The basis that JSON describes, among those given by the user.

    Args:
        description: what `described` wrote.
        owner: name of the site, ``L3.sae``; `bases` may name it so, or without the layer.
        bases: None leaves it absent.

    Raises:
        InputError: if it is not among them, or is another one.
    """
    absent = Absent(description, owner)
    if bases is None:
        return absent
    basis = bases.get(owner, bases.get(owner.partition(".")[2]))
    if basis is None:
        raise absent._missing()
    if not isinstance(basis, Basis):
        raise InputError(f"the basis of {owner} is an al.Basis, such as al.Dictionary; got {type(basis).__name__}")
    ours, theirs = ((one.width, one.written, one.components) for one in (basis, absent))
    if ours != theirs:
        raise InputError(
            f"the basis of {owner} has width {theirs[0]} and {theirs[2]} components; the one given has width {ours[0]} "
            f"and {ours[2]} components"
        )
    if basis.fingerprint != absent.fingerprint:
        raise InputError(
            f"the basis of {owner} is another one than the registry was made with (fingerprint "
            f"{absent.fingerprint[:12]}, given {basis.fingerprint[:12]}): its values, or its class, have changed"
        )
    return basis
