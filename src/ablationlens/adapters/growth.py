"""Which axes of an activation grow with the input: learnt from a second dry forward, of more rows and other positions.

The shape of one activation does not say which of its axes are positions: [1, 4, 4, 8] may be four heads at four
positions or the other way round.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.data.inputs import main_key

LENGTHS = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "inputs_embeds")
"""Ends of the names of inputs that have an axis of positions."""


def another_example(example: Batch) -> Batch:
    """The same example twice, and one position shorter (or longer, if it has only one) where it has positions."""
    twice = example.take(torch.arange(len(example)).repeat(2))
    if example.length is None:
        return twice
    main = main_key(twice.inputs)
    inputs = {
        name: _other_length(value) if name == main or name.endswith(LENGTHS) else value
        for name, value in twice.inputs.items()
    }
    return replace(twice, inputs=inputs, labels=None, scored=None)


def _other_length(value: Tensor) -> Tensor:
    axes = (1,) if value.ndim < 4 else (2, 3)  # an attention mask may come as [batch, 1, query, key]
    for axis in axes:
        if value.ndim > axis:
            size = value.shape[axis]
            value = value.narrow(axis, 0, size - 1) if size > 1 else torch.cat([value, value], dim=axis)
    return value


def grown_axes(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes, other than the batch, whose sizes differ between two shapes; None if the shapes cannot be compared."""
    if len(before) != len(after):
        return None
    return tuple(axis for axis in range(1, len(before)) if before[axis] != after[axis])
