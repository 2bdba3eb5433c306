"""Registry: the ordered components of a model, which are the columns of every mask and the rows of every table."""

from __future__ import annotations

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
from safetensors import SafetensorError

from ablationlens.basis import Basis
from ablationlens.errors import AblationLensError, InputError, OverlapError, UnknownNameError
from ablationlens.sites import Component, RankOne, Site

JSON_VERSION = 1
WIDTHS = (10, 16, 10, 10)
"""Least widths of the columns that a registry prints: kind, module, layers and components."""


@dataclass(frozen=True)
class Part:
    """The components of one site that a registry holds.

    Attributes:
        site: where the model is cut.
        indices: parts of the site, ascending.
        start: column of the first of them in a mask; the others follow.
    """

    site: Site
    indices: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.indices)

    @property
    def whole(self) -> bool:
        """Whether every component of the site is in the registry."""
        return len(self.indices) == self.site.basis.components


class Registry:
    """An ordered set of components that do not overlap.

    Column j of every mask is component j. Components of one site are in the order of their features, so cutting a
    mask by sites is slicing. Registries hold logical names and, for sites of the user's own, an address for each
    host: the same registry serves every host of a model.

    Args:
        sites: places to cut, each with the indices of its components (None: all of them).
        allow_overlap: permit a weight to be cut by rows in one site and by columns in another.

    Raises:
        OverlapError: if two sites cut the same weight in different ways, or share an index.
        InputError: if a site does not have a component of some index, or one is given twice.
    """

    def __init__(self, sites: Iterable[tuple[Site, Sequence[int] | None]], *, allow_overlap: bool = False) -> None:
        merged: dict[tuple[str, int, str], tuple[Site, tuple[int, ...]]] = {}
        for site, chosen in sites:
            indices = tuple(range(site.basis.components)) if chosen is None else _checked(site, chosen)
            if site.key in merged and merged[site.key][0] == site:
                indices = _join(site, merged[site.key][1], indices)
            elif site.key in merged:
                raise OverlapError(
                    f"L{site.layer}.{site.module} is cut twice as kind '{site.kind}' with different bases; keep one"
                )
            if indices:
                merged[site.key] = (site, indices)
        parts: list[Part] = []
        for site, indices in merged.values():
            parts.append(Part(site, indices, parts[-1].stop if parts else 0))
        self.parts: tuple[Part, ...] = tuple(parts)
        self.allow_overlap = allow_overlap
        _refuse_overlap(self.parts, allow_overlap=allow_overlap)

    # -- as a sequence of components ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.parts[-1].stop if self.parts else 0

    def __iter__(self) -> Iterator[Component]:
        for part in self.parts:
            for index in part.indices:
                yield Component(part.site, index)

    def __getitem__(self, column: SupportsIndex) -> Component:
        try:
            at = operator.index(column)
        except TypeError as error:
            raise InputError(
                f"a registry gives one component by its column, registry[0]; got {column!r}. For several, "
                "[registry[j] for j in columns] or registry.select(where=lambda component: ...)"
            ) from error
        if not -len(self) <= at < len(self):
            raise UnknownNameError(f"component {at} of a registry of {len(self)}: use 0 to {len(self) - 1}")
        at %= len(self)
        part = next(part for part in self.parts if part.start <= at < part.stop)
        return Component(part.site, part.indices[at - part.start])

    def __contains__(self, component: object) -> bool:
        name = component.name if isinstance(component, Component) else component
        return name in self._columns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Registry) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each component, in the order of the columns."""
        return tuple(component.name for component in self)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.names)}

    def column(self, component: Component | str | SupportsIndex) -> int:
        """Column of a component, given as a component, its name, or the column itself.

        Raises:
            UnknownNameError: if it is not in the registry; the message names the nearest.
            InputError: if it is none of these.
        """
        if isinstance(component, bool | np.bool_):
            raise InputError(
                f"a component is given by its name or column; got {component}. A mask is a tensor, torch.tensor([...])"
            )
        if not isinstance(component, Component | str):
            self[component]  # refuses what is no column
            return operator.index(component) % len(self)
        name = component if isinstance(component, str) else component.name
        if name not in self._columns:
            raise UnknownNameError(f"no component '{name}' in this registry of {len(self)}: {self._hint(name)}")
        return self._columns[name]

    def _hint(self, name: str) -> str:
        """What there is, for a name that is not in the registry."""
        stem, _, number = name.rpartition(" ")
        part = next((part for part in self.parts if part.site.name(0).rpartition(" ")[0] == stem), None)
        beyond = ""
        if part is not None and number.isdigit() and int(number) >= part.site.basis.components:
            shared = part.site.kind == "row" and part.site.module.endswith((".k", ".v"))
            count = " (rows of keys and values count key/value heads, which may be fewer than query heads)"
            last = part.site.basis.components - 1
            beyond = f"{stem} goes from 0 to {last}{count if shared else ''}; "
            if isinstance(part.site.basis, RankOne):
                beyond = f"{stem} goes from 0 to {last - 1}, and there is {part.site.name(last)}; "
        near = get_close_matches(name, self.names, n=3, cutoff=0.5)
        return beyond + (f"did you mean {', '.join(near)}?" if near else f"names look like {', '.join(self.names[:3])}")

    # -- choosing and joining -------------------------------------------------------------------------------------

    def select(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        layer: SupportsIndex | Iterable[SupportsIndex] | None = None,
        module: str | Sequence[str] | None = None,
        name: str | Sequence[str] | None = None,
        where: Callable[[Component], bool] | None = None,
    ) -> Registry:
        """The components that fit every condition given, in the same order.

        Args:
            kind: one or several kinds.
            layer: one or several layers.
            module: one or several logical modules, as in `component.site.module`; ``"q"`` is ``"attn.q"``.
            name: names, or patterns such as ``"L3.attn.* row 1?"``.
            where: a predicate on components.

        Raises:
            UnknownNameError: if nothing fits a condition on kind, layer, module or name.
        """
        kinds, layers = _listed("kind", kind, self._known("kind")), _listed("layer", layer, self._known("layer"))
        modules = _listed("module", module, self._known("module"), short=True)
        patterns = None if name is None else [name] if isinstance(name, str) else list(name)
        chosen: list[tuple[Site, list[int]]] = []
        for part in self.parts:
            site = part.site
            if not all(
                allowed is None or value in allowed
                for value, allowed in ((site.kind, kinds), (site.layer, layers), (site.module, modules))
            ):
                continue
            indices = [
                index
                for index in part.indices
                if (patterns is None or any(fnmatchcase(site.name(index), pattern) for pattern in patterns))
                and (where is None or where(Component(site, index)))
            ]
            chosen.append((site, indices))
        if patterns is not None and not any(indices for _, indices in chosen):
            raise UnknownNameError(f"no component is named {' or '.join(patterns)}; names look like {self.names[0]}")
        return Registry(chosen, allow_overlap=self.allow_overlap)

    def _known(self, field: str) -> list[Any]:
        return list(dict.fromkeys(getattr(part.site, field) for part in self.parts))

    def __add__(self, other: Registry) -> Registry:
        """Components of both, ours first; sites that both hold are merged."""
        if not isinstance(other, Registry):
            return NotImplemented
        both = [(part.site, part.indices) for part in (*self.parts, *other.parts)]
        return Registry(both, allow_overlap=self.allow_overlap or other.allow_overlap)

    # -- tables and text ------------------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """One row per component: component (its name), layer, module, kind, index."""
        rows = [
            (part.site.layer, part.site.module, part.site.kind, index) for part in self.parts for index in part.indices
        ]
        frame = pd.DataFrame(rows, columns=["layer", "module", "kind", "index"])
        frame.insert(0, "component", list(self.names))
        return frame

    def __repr__(self) -> str:
        if not self.parts:
            return "Registry of 0 components"
        counts = Counter[tuple[str, str]]()
        layers: dict[tuple[str, str], set[int]] = {}
        for part in self.parts:
            key = (part.site.kind, part.site.module)
            counts[key] += len(part.indices)
            layers.setdefault(key, set()).add(part.site.layer)
        rows = [("kind", "module", "layers", "components")]
        rows += [(*key, _ranges(layers[key]), f"{count:,}") for key, count in counts.items()]
        kind, module, span, count = (
            max(least, *map(len, column)) for least, column in zip(WIDTHS, zip(*rows, strict=True), strict=True)
        )
        lines = [f"{a:<{kind}} {b:<{module}} {c:<{span}} {d:>{count}}" for a, b, c, d in rows]
        return "\n".join([f"Registry of {len(self):,} components", *lines])

    def to_json(self) -> str:
        """The registry as JSON text: logical names, addresses of sites of the user's own, factors of rank-one parts.

        Of a basis of the user's own it keeps the size and the fingerprint, not the numbers.
        """
        return json.dumps({"version": JSON_VERSION, "allow_overlap": self.allow_overlap, "sites": self._sites_json()})

    def _sites_json(self) -> list[dict[str, Any]]:
        return [{**part.site.to_json(), "indices": "all" if part.whole else list(part.indices)} for part in self.parts]

    @classmethod
    def from_json(cls, text: str, bases: Mapping[str, Basis] | None = None, *, allow_absent: bool = False) -> Registry:
        """The registry that `to_json` wrote.

        Args:
            text: what `to_json` wrote.
            bases: bases of the user's own, by the names of their sites: ``{"L3.sae": basis}``, or ``{"sae": basis}``
                in every layer. JSON keeps their fingerprints alone.
            allow_absent: leave out bases that are not given; such a registry has names and tables, and cannot run.

        Raises:
            InputError: if the text is not such JSON, or of a later version; if a basis is missing, or another one.
        """
        try:
            data = json.loads(text)
            if data["version"] != JSON_VERSION:
                raise InputError(f"registry JSON of version {data['version']}; this version reads {JSON_VERSION}")
            known = bases if bases is not None or allow_absent else {}
            sites = [
                (Site.from_json(site, known), None if site["indices"] == "all" else site["indices"])
                for site in data["sites"]
            ]
            return cls(sites, allow_overlap=data["allow_overlap"])
        except AblationLensError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError, SafetensorError) as error:
            raise InputError(f"not the JSON of a registry ({type(error).__name__}: {error})") from error

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the components: equal for equal ones in the same order, whatever the host."""
        return hashlib.sha256(json.dumps(self._sites_json()).encode()).hexdigest()


def _join(site: Site, ours: tuple[int, ...], theirs: tuple[int, ...]) -> tuple[int, ...]:
    common = set(ours) & set(theirs)
    if common:
        raise OverlapError(f"component {site.name(min(common))} is in both registries; take it out of one")
    return tuple(sorted((*ours, *theirs)))


def _checked(site: Site, chosen: Sequence[int]) -> tuple[int, ...]:
    """Indices of a site's components, ascending."""
    indices = tuple(sorted(operator.index(index) for index in chosen))
    count = site.basis.components
    if len(set(indices)) < len(indices) or (indices and not 0 <= indices[0] <= indices[-1] < count):
        raise InputError(
            f"L{site.layer}.{site.module} has {count} components of kind '{site.kind}', 0 to {count - 1}, each once; "
            f"got {str(list(indices))[:80]}"
        )
    return indices


def _listed(field: str, value: Any, known: list[Any], *, short: bool = False) -> list[Any] | None:
    """The values asked for, checked against those that occur; `short`: the last part of a dotted name will do."""
    if value is None:
        return None
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    found: list[Any] = []
    for item in values:
        full = [name for name in known if name == item]
        if short and not full:
            full = [name for name in known if name.rpartition(".")[2] == item]
        if len(full) != 1:
            raise UnknownNameError(f"no {field} {item!r} in this registry: it has {', '.join(map(str, known))}")
        found += full
    return found


def _ranges(layers: set[int]) -> str:
    ordered = sorted(layers)
    return f"{ordered[0]}-{ordered[-1]}" if len(ordered) > 1 else str(ordered[0])


def _cut_indices(part: Part) -> set[int]:
    """Rows or columns of the weight that the part's components hold."""
    basis = part.site.basis
    if isinstance(basis, RankOne):
        return set(part.indices)
    return {feature for index in part.indices for feature in basis.members(index)}


def _refuse_overlap(parts: Sequence[Part], *, allow_overlap: bool) -> None:
    """A weight may be cut one way only, and each of its rows or columns once."""
    by_weight: dict[tuple[int, str], list[Part]] = {}
    for part in parts:
        for weight in part.site.cut.weights:
            by_weight.setdefault((part.site.layer, weight), []).append(part)
    for (layer, weight), cutting in by_weight.items():
        for position, first in enumerate(cutting):
            for second in cutting[position + 1 :]:
                axes = (first.site.cut.axis, second.site.cut.axis)
                if axes[0] == axes[1] and axes[0] != "whole":
                    common = _cut_indices(first) & _cut_indices(second)
                    if not common:
                        continue
                    shared = f"{axes[0]} {min(common)} of L{layer}.{weight}"
                elif allow_overlap and set(axes) == {"row", "column"}:
                    continue
                else:
                    shared = f"L{layer}.{weight} ({axes[0]} and {axes[1]})"
                raise OverlapError(
                    f"{_first_name(first)} ({first.site.kind}) and {_first_name(second)} ({second.site.kind}) "
                    f"overlap in {shared}: keep one of them"
                    + ("" if set(axes) != {"row", "column"} else ", or allow rows with columns by allow_overlap=True")
                )


def _first_name(part: Part) -> str:
    return part.site.name(part.indices[0])
