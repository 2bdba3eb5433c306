"""Parts of a model: components of a registry that are ablated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ablationlens.errors import InputError
from ablationlens.registry import Registry

By: TypeAlias = str | Sequence[str]
"""What the components of a part have in common: see `parts_of`."""


@dataclass(frozen=True)
class Parts:
    """One mask for each part, in which its components alone are ablated; a source of masks for a sweep.

    Attributes:
        frame: one row per part: part (its name), the columns that it is made by, components (how many).
        columns: of the registry, of each part.
        layers: the first layer of each part.
        components: width of a mask.
    """

    by_example: ClassVar[bool] = False

    frame: pd.DataFrame
    columns: tuple[np.ndarray, ...]
    layers: np.ndarray
    components: int

    @property
    def draws(self) -> int:
        return len(self.columns)

    def masks(self, start: int, stop: int) -> Tensor:
        masks = torch.ones(stop - start, self.components)
        for mask, columns in zip(masks, self.columns[start:stop], strict=True):
            mask[torch.from_numpy(columns)] = 0.0
        return masks


def parts_of(registry: Registry, by: By) -> Parts:
    """The parts of a registry, in its order.

    Args:
        registry: the components.
        by: "component", each a part of its own; "head", the same for a registry of heads; or one or several of "layer",
            "module", "kind" and "index", whose values the components of a part share.

    Raises:
        InputError: for anything else.
    """
    table = registry.frame()
    known = [str(name) for name in table.columns if name != "component"]
    if by == "head":
        if set(table["kind"]) != {"head"}:
            raise InputError(
                "by='head' needs a registry of heads alone: al.MaskedModel(adapter, adapter.registry('head'))"
            )
        by = "component"
    if not isinstance(by, str | Sequence):
        raise InputError(f"parts are made by one or several of component, {', '.join(known)}; got {by!r}")
    if by == "component":
        shared = ["component"]
    else:
        shared = [by] if isinstance(by, str) else list(by)
        unknown = [name for name in shared if name not in known]
        if unknown or not shared:
            listed = ", ".join(f'"{name}"' for name in ("component", "head", *known))
            raise InputError(f'by is one of {listed}, or several columns such as ["layer", "module"]; got {by!r}')
    groups = table.groupby(shared, sort=False).indices
    # the order of first members: pandas sorts the keys of `indices`
    columns = sorted((np.asarray(rows) for rows in groups.values()), key=lambda rows: int(rows[0]))
    rows: list[dict[str, Any]] = []
    for own in columns:
        first = table.iloc[int(own[0])]
        coordinates = {name: first[name] for name in (known if by == "component" else shared)}
        name = str(first["component"]) if by == "component" else " ".join(_word(*item) for item in coordinates.items())
        rows.append({"part": name, **coordinates, "components": len(own)})
    layers = np.array([table["layer"].to_numpy()[own].min() for own in columns])
    return Parts(pd.DataFrame(rows), tuple(columns), layers, len(registry))


def _word(column: str, value: Any) -> str:
    """A layer as in the names of components, an index by what it is."""
    return f"L{value}" if column == "layer" else f"index {value}" if column == "index" else str(value)
