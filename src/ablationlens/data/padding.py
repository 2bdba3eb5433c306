"""What is padding: attention_mask and position_ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ablationlens.data.checks import is_integral, where_rows
from ablationlens.data.inputs import DECODER, encoder_of, main_key, shape_of
from ablationlens.errors import InputError


def with_padding(named: dict[str, Tensor], attention_mask: Any) -> dict[str, Tensor]:
    """attention_mask and position_ids together, or neither where nothing is padded.

    They belong to the first input that a model reads; that of a decoder comes with a mask of its own, if any.
    """
    decoder = {name: value for name, value in named.items() if name.startswith(DECODER)}
    if decoder:
        mask, shape = decoder.get(f"{DECODER}attention_mask"), shape_of(named)
        if mask is not None and shape is not None:
            decoder[f"{DECODER}attention_mask"] = _checked_mask(mask, shape, mask.device)
        return {**with_padding(encoder_of(named), attention_mask), **decoder}
    shape = shape_of(named)
    if attention_mask is not None:
        if shape is None:
            raise InputError(f"the inputs ({', '.join(named)}) have no positions: leave out attention_mask=")
        if "attention_mask" in named:
            raise InputError(
                "attention_mask is given twice (in the inputs, or by padding lists of different lengths): leave one out"
            )
        given = torch.as_tensor(attention_mask)
        named = {**named, "attention_mask": given[None] if given.ndim == 1 else given}
    if shape is None:
        return named
    rest = {name: tensor for name, tensor in named.items() if name != "attention_mask"}
    given = named.get("attention_mask")
    device = named[main_key(named)].device
    mask = torch.ones(shape, dtype=torch.long, device=device) if given is None else _checked_mask(given, shape, device)
    if "position_ids" not in named and bool(mask.all()):
        return rest
    positions = named.get("position_ids", (mask.cumsum(1) - 1).clamp(min=0))
    if positions.shape != mask.shape or not is_integral(positions):
        raise InputError(f"position_ids are integers of shape {list(mask.shape)}, not {list(positions.shape)}")
    return {**rest, "attention_mask": mask, "position_ids": positions}


def _checked_mask(mask: Tensor, shape: tuple[int, int], device: torch.device) -> Int[Tensor, "batch position"]:
    if tuple(mask.shape) != shape:
        raise InputError(f"attention_mask has shape {list(mask.shape)}, the inputs are {list(shape)}")
    for example in where_rows(((mask != 0) & (mask != 1)).any(1)):
        raise InputError(f"attention_mask holds only 0 and 1, but something else in example {example}")
    for example in where_rows((mask == 0).all(1)):
        raise InputError(f"attention_mask is 0 everywhere in example {example}: it has no token")
    return mask.to(device, torch.long)


def attended_of(inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch position"] | None:
    """True at real tokens, False at padding, at the positions of the logits; None for inputs without positions."""
    shape = shape_of(inputs)
    if shape is None:
        return None
    mask = f"{DECODER}attention_mask" if f"{DECODER}input_ids" in inputs else "attention_mask"
    if mask in inputs:
        return inputs[mask].bool()
    return torch.ones(shape, dtype=torch.bool, device=inputs[main_key(inputs)].device)
