"""Claims: a feature of an activation belongs to one site, where a site of the user's own is among them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from ablationlens.adapters.base import Place
from ablationlens.errors import OverlapError
from ablationlens.registry import Part
from ablationlens.sites import Coordinates, Grouped


def refuse_shared(parts: Sequence[tuple[Part, Place]]) -> None:
    """Refuse sites of which two claim the same feature.

    What the kinds of the library cut is told apart by their weights, when a registry is made.

    Args:
        parts: of a registry, each with the place where it writes.

    Raises:
        OverlapError: naming both components.
    """
    by_activation: dict[tuple[int, str], list[tuple[Part, Place]]] = {}
    for part, place in parts:
        by_activation.setdefault(place.key, []).append((part, place))
    for together in by_activation.values():
        if len(together) == 1 or all(part.site.kind != "custom" for part, _ in together):
            continue
        owner: dict[int, tuple[int, str]] = {}
        for number, (part, place) in enumerate(together):
            elements = torch.arange(prod(place.shape[1:])).reshape(1, *place.shape[1:])
            elements = place.shown(elements).movedim(place.feature_axis, -1)[..., place.features].flatten(0, -2)
            basis = part.site.basis
            members = basis if isinstance(basis, Coordinates | Grouped) else None  # others claim all features
            for index in part.indices if members is not None else part.indices[:1]:
                own = elements if members is None else elements[:, list(members.members(index))]
                for element in own.flatten().tolist():
                    before, name = owner.setdefault(element, (number, part.site.name(index)))
                    if before != number:
                        raise OverlapError(
                            f"{name} and {part.site.name(index)} both claim a feature of {place.address}: keep one of "
                            "them, or choose other features with select="
                        )
