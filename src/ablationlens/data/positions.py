"""Positions: counted over the real tokens of each example, and the columns of the tensors that they select."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ablationlens.data.checks import is_integer, where_rows
from ablationlens.errors import InputError

Positions: TypeAlias = int | Sequence[int] | slice | Tensor | np.ndarray
"""Which positions count: see `batch`."""


def chosen_columns(positions: Positions, attended: Bool[Tensor, "batch position"]) -> list[list[int]]:
    """The columns that `positions` selects in each example, in its order."""
    if isinstance(positions, Tensor | np.ndarray):
        given = torch.as_tensor(positions)
        if given.dtype == torch.bool:
            return _columns_of_mask(given.to(attended.device), attended)
        positions = cast("list[int]", given.tolist())
    wanted = positions if isinstance(positions, slice) else _integers(positions)
    columns: list[list[int]] = []
    for example, row in enumerate(attended.tolist()):
        real = [column for column, is_real in enumerate(row) if is_real]
        columns.append(real[wanted] if isinstance(wanted, slice) else _picked(real, wanted, example))
    return columns


def _integers(positions: Any) -> list[int]:
    items = list(cast("Sequence[Any]", positions)) if isinstance(positions, Sequence) else [positions]
    if not items or not all(is_integer(item) for item in items):
        raise InputError(
            f"positions are an int, ints, a slice or a Bool tensor [batch, position], not {shown(positions)}"
        )
    return [operator.index(item) for item in items]


def _picked(real: list[int], wanted: list[int], example: int) -> list[int]:
    for position in wanted:
        if not -len(real) <= position < len(real):
            raise InputError(
                f"position {position} is out of range: example {example} has {len(real)} tokens, so positions "
                f"{-len(real)} to {len(real) - 1}"
            )
    columns = [real[position] for position in wanted]
    if len(set(columns)) < len(columns):
        raise InputError(f"positions={shown(wanted)} names one position of example {example} twice")
    return columns


def _columns_of_mask(positions: Tensor, attended: Bool[Tensor, "batch position"]) -> list[list[int]]:
    if positions.shape not in (attended.shape, attended.shape[1:]):
        raise InputError(
            f"a Bool tensor of positions is [batch, position] = {list(attended.shape)} or [position], not "
            f"{list(positions.shape)}"
        )
    selected = positions.expand(attended.shape)
    for example in where_rows((selected & ~attended).any(1)):
        raise InputError(f"positions= selects padding in example {example}")
    return [row.nonzero()[:, 0].tolist() for row in selected]


def mark(chosen: list[list[int]], attended: Bool[Tensor, "batch position"]) -> Bool[Tensor, "batch position"]:
    """True at the chosen columns of each example."""
    scored = torch.zeros(attended.shape, dtype=torch.bool)
    for example, columns in enumerate(chosen):
        scored[example, columns] = True
    return scored.to(attended.device)


def shown(positions: Any) -> str:
    """What an error message calls these positions."""
    return "a Bool tensor" if isinstance(positions, Tensor | np.ndarray) else repr(positions)
