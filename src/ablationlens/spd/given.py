"""Importances and sources in their shapes: every row has its own, or all rows have the same, and nothing else is taken.

A tensor with an axis less would broadcast, and where there are as many examples as positions take the one for the
other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Decomposition, Where, name_of, rows_of
from ablationlens.spd.forward import Gates


def check_sources(sources: Tensor, importances: Tensor, where: Where) -> None:
    """Refuse sources of a module that are neither those of every row of its importances, nor the same for all.

    Args:
        sources: [*rows, C + 1] or [1, ..., C + 1].
        importances: [*rows, C].
        where: the module.

    Raises:
        InputError: saying which shapes there are.
    """
    rows, width = list(importances.shape[:-1]), importances.shape[-1] + 1
    alike = [1] * len(rows)
    if list(sources.shape) not in ([*rows, width], [*alike, width]):
        raise InputError(
            f"the sources of {name_of(where)} are {[*rows, width]}, the remainder's last, or {[*alike, width]} for all "
            f"rows alike; got {list(sources.shape)}"
        )


def check_range(values: Mapping[Where, Tensor], what: str) -> None:
    """Refuse numbers that would make gates outside [0, 1].

    Args:
        values: of each module.
        what: they are, "importances" or "sources".

    Raises:
        InputError: naming the module.
    """
    for where, one in values.items():
        if one.numel() and not bool(((one >= 0) & (one <= 1)).all()):
            low, high = float(one.min()), float(one.max())
            raise InputError(
                f"{what} are numbers from 0 to 1; those of {name_of(where)} go from {low:.4g} to {high:.4g}"
            )


def check_given(values: Mapping[Where, Tensor], what: str, decomposition: Decomposition, examples: int) -> None:
    """Refuse what is not of this decomposition and these examples.

    Args:
        values: importances or sources of each module.
        what: they are, "importances" or "sources".
        decomposition: that they are to be of.
        examples: how many there are.

    Raises:
        InputError: if a module is missing or one too many, the examples are others, or a number is outside [0, 1].
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{what} are tensors by (layer, module); got {type(values).__name__}")
    for where in dict.fromkeys([*decomposition.places, *values]):
        if where not in values or where not in decomposition.places:
            has = "and there are none of" if where not in values else "which has no"
            raise InputError(f"{what} are of every module of the decomposition, {has} {name_of(where)}")
        one: Any = values[where]
        if not isinstance(one, Tensor) or not one.ndim or one.shape[0] not in (1, examples):
            came = list(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise InputError(
                f"the {what} of {name_of(where)} are a tensor of {examples} examples, or [1, ...] for all alike; got "
                f"{came}"
            )
    check_range(values, what)


def importances_at(
    decomposition: Decomposition, importances: Mapping[Where, Tensor], index: Tensor, inputs: Mapping[Where, Tensor]
) -> dict[Where, Tensor]:
    """Importances of some examples, at every row of what their modules read.

    Args:
        decomposition: that they are of.
        importances: of each module, [example, *position, C], or [1, ..., C] for all rows alike.
        index: which examples.
        inputs: of the modules, for these examples: [row, *position, in], or tokens.

    Raises:
        InputError: for another shape.
    """
    found: dict[Where, Tensor] = {}
    for where, part in decomposition.items():
        one, read = importances[where], inputs[where]
        rows = list(rows_of(read))
        alike, width = [1] * len(rows), part.components
        own = one.clone() if len(one) == 1 else one[index]  # a new one, of use to autograd in any mode
        if list(own.shape) not in ([*rows, width], [*alike, width]):
            raise InputError(
                f"the importances of {name_of(where)} are [examples, {', '.join(map(str, [*rows[1:], width]))}], or "
                f"{[*alike, width]} for all rows alike; got {list(one.shape)}"
            )
        found[where] = own.to(read.device).expand(*rows, -1)
    return found


def sources_at(
    sources: Mapping[Where, Tensor], index: Tensor, importances: Mapping[Where, Tensor], *, shared: bool
) -> dict[Where, Tensor]:
    """Sources of some examples that an ascent begins with.

    Args:
        sources: of each module, [example, *position, C + 1], or [1, ..., C + 1] for all rows alike.
        index: which examples.
        importances: of these examples.
        shared: whether they are to stay alike; otherwise each row gets its own copy.

    Raises:
        InputError: for another shape.
    """
    found: dict[Where, Tensor] = {}
    for where, lower in importances.items():
        one = sources[where]
        own = (one.clone() if len(one) == 1 else one[index.to(one.device)]).to(lower.device)
        check_sources(own, lower, where)
        if shared and own.shape[:-1].numel() != 1:
            raise InputError(
                f"with a scope of 'shared' the sources of {name_of(where)} are "
                f"{[*[1] * (lower.ndim - 1), own.shape[-1]]}; got {list(one.shape)}"
            )
        found[where] = own if shared else own.expand(*lower.shape[:-1], -1)
    return found


def check_moving(moving: Mapping[Where, Tensor], decomposition: Decomposition, examples: int) -> None:
    """Refuse what does not say of each source whether it may change.

    Raises:
        InputError: if it is no truth values, of these modules and examples.
    """
    check_given(moving, "moving", decomposition, examples)
    for where, one in moving.items():
        if one.dtype != torch.bool:
            raise InputError(
                f"moving is True or False for each source: that of {name_of(where)} is {one.dtype}; type "
                "{at: one.bool() for at, one in moving.items()}"
            )


def check_gates(gates: Mapping[Where, Gates], decomposition: Decomposition, examples: int) -> None:
    """Refuse what sources cannot be multiplied by.

    Raises:
        InputError: if it is no gates, of these modules and examples.
    """
    if not isinstance(gates, Mapping) or not all(isinstance(own, Gates) for own in gates.values()):
        layer, name = decomposition.places[0]
        raise InputError(
            f"kept are gates by (layer, module), kept={{({layer}, {name!r}): Gates(parts, remainder), ...}}; got "
            f"{_came(gates)}"
        )
    for number, what in enumerate(Gates._fields):
        check_given({at: own[number] for at, own in gates.items()}, f"{what} of kept", decomposition, examples)


def _came(given: Any) -> str:
    """What was given by module, or in place of that."""
    return (
        f"{type(next(iter(given.values()))).__name__} of a module"
        if isinstance(given, Mapping)
        else type(given).__name__
    )


def beside(values: Tensor, what: str, where: Where, width: int, index: Tensor, importances: Tensor) -> Tensor:
    """Values of some examples that are used with the importances of a module.

    Args:
        values: [example, *position, width], or 1 in place of any of these but the last, for all alike.
        what: they are, for the message.
        where: the module.
        width: of the last axis.
        index: which examples.
        importances: of these examples.

    Returns:
        New ones, of use to autograd in any mode, where the importances are.

    Raises:
        InputError: for another shape.
    """
    rows = list(importances.shape[:-1])
    own = values.clone() if len(values) == 1 else values[index.to(values.device)]
    fits = own.ndim == len(rows) + 1 and own.shape[-1] == width
    if not fits or any(size not in (1, full) for size, full in zip(own.shape, rows, strict=False)):
        raise InputError(
            f"the {what} of {name_of(where)} are [examples, {', '.join(map(str, [*rows[1:], width]))}], with 1 for "
            f"examples or positions that are all alike; got {list(values.shape)}"
        )
    return own.to(importances.device)
