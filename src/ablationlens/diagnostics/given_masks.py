"""The masks of a diagnosis: a design, a tensor, or masks by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsIndex, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import Design
from ablationlens.outputs.identity import identity
from ablationlens.sites import Component
from ablationlens.sweep import GivenMasks, MaskSource

Ablated: TypeAlias = Tensor | Component | str | SupportsIndex | Iterable[Component | str | SupportsIndex] | None
Masks: TypeAlias = Tensor | Design | Mapping[str, Ablated]
"""A tensor [mask, component] or [mask, position, component], a design, or by name what is ablated: a mask [component],
[1, component], [example, component] or [example, position, component]; components or their names; None for nothing."""


@dataclass(frozen=True)
class MasksByExample:
    """Masks of which each gives every example gates of its own: [example or 1, (position,) component]."""

    by_example: ClassVar[bool] = True

    values: tuple[Tensor, ...]
    shape: tuple[int, ...]

    @property
    def components(self) -> int:
        return self.shape[-1]

    @property
    def draws(self) -> int:
        return len(self.values)

    def masks(self, start: int, stop: int) -> Tensor:
        wide = [mask if mask.ndim == len(self.shape) else mask[:, None] for mask in self.values[start:stop]]
        return torch.stack([mask.expand(self.shape) for mask in wide])


def given_masks(model: MaskedModel, data: Batch, masks: Masks) -> tuple[list[str] | list[int], MaskSource]:
    """What each mask is called, its name or its number, and where they come from.

    Raises:
        InputError: if they do not fit the registry or the data, or there are none.
    """
    if not isinstance(masks, Mapping):
        if not isinstance(masks, Tensor | Design):
            raise InputError(
                f"masks are a tensor [mask, component], a design, or by name what is ablated, {{'without': "
                f"'L0.head 3'}}; got {type(masks).__name__}"
            )
        if isinstance(masks, Tensor) and masks.ndim == 3 and len(masks) == len(data) > 1:
            raise InputError(
                f"a tensor {list(masks.shape)} may be {len(masks)} masks by position, or a mask for each of the "
                f"{len(data)} examples: name it, {{'ablated': mask}}, for the latter; for the former name each, "
                "{'first': masks[:1].expand(len(data), -1, -1), ...}"
            )
        source = model.source(masks, data)
        return list(range(source.draws)), source
    if not masks:
        raise InputError("there are no masks: give some by name, {'clean': None, 'without': 'L0.head 3'}")
    found = [_checked(model, data, str(name), ablated) for name, ablated in masks.items()]
    names = [str(name) for name in masks]
    if len(set(names)) < len(names):
        raise InputError(f"two masks have one name: {', '.join(names)}")
    if all(mask.ndim == 2 and len(mask) == 1 for mask in found):
        return names, GivenMasks(torch.cat(found))
    inner = max((mask.shape[1:] for mask in found), key=len)
    return names, MasksByExample(tuple(found), (len(data), *inner))


def described(masks: Masks, source: MaskSource) -> dict[str, Any]:
    """The masks, JSON-able."""
    if isinstance(masks, Design):
        return masks.describe()
    return {"draws": source.draws, "values": identity(getattr(source, "values", None))}


def _checked(model: MaskedModel, data: Batch, name: str, ablated: Ablated) -> Tensor:
    if isinstance(ablated, Design) or (isinstance(ablated, np.ndarray) and ablated.dtype.kind in "bf"):
        kind = type(ablated).__name__
        raise InputError(f"mask '{name}' is a tensor, torch.from_numpy(...), or components to ablate; got {kind}")
    if not isinstance(ablated, Tensor) or not ablated.ndim:
        return model.mask(() if ablated is None else ablated)
    mask = ablated.float() if ablated.dtype == torch.bool else ablated
    mask = mask[None] if mask.ndim == 1 else mask
    try:
        model.check_mask(mask, data)
    except InputError as error:
        raise InputError(f"mask '{name}': {error}" if name else str(error)) from error
    return mask.detach().cpu()
