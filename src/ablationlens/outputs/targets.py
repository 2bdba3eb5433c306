"""What a head may attend to: the previous token, the first, the one after an earlier occurrence, or a position."""

from __future__ import annotations

import operator
from contextlib import suppress
from typing import Any, Literal, SupportsIndex, TypeAlias, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.data.inputs import token_key
from ablationlens.errors import InputError

TargetName: TypeAlias = Literal["induction", "previous", "first", "current"]
Target: TypeAlias = TargetName | SupportsIndex
"""See `targets`."""


def check_target(target: Any) -> TargetName | int:
    """A target, as its name or Python's own integer.

    Raises:
        InputError: if it is neither.
    """
    names: tuple[TargetName, ...] = get_args(TargetName)
    for name in names:
        if isinstance(target, str) and target == name:
            return name
    if isinstance(target, SupportsIndex):
        with suppress(TypeError):  # of an array that holds no single integer
            return operator.index(target)
    listed = ", ".join(f'"{name}"' for name in names)
    raise InputError(f"a target is {listed}, or a position such as 0 or -1; got {target!r}")


def targets(batch: Batch, target: Target) -> Bool[Tensor, "batch query key"]:
    """The keys that are the target of each query; a query without any has none to attend to.

    Positions are counted over the real tokens of each example: padding is neither query nor key.

    Args:
        batch: the examples.
        target: "previous", the token before; "first", the first token, for all queries but itself; "current", the query
            itself; "induction", every token that came after an earlier occurrence of the query's token (as in
            TransformerLens' head detector); or a position, negative from the end, for the queries from there on.

    Raises:
        InputError: if the batch has no positions, no tokens where "induction" needs them, or an example is too short
            for the position.
    """
    target, attended = check_target(target), batch.attended
    if attended is None or batch.length is None:
        raise InputError("attention patterns are between positions, and these inputs have none")
    real = attended[:, :, None] & attended[:, None, :]
    at = torch.arange(batch.length, device=attended.device)
    behind = at[:, None] - at[None]
    if target == "current":
        return real & (behind == 0)
    # the real token before each position, -1 where there is none: masks may have holes
    latest = torch.where(attended, at, -1).cummax(1).values
    before = torch.nn.functional.pad(latest, (1, 0), value=-1)[:, :-1]
    if target == "previous":
        return real & (before[:, :, None] == at)
    first = attended.int().argmax(1)
    if target == "first":
        return real & (at == first[:, None])[:, None] & (behind > 0)
    if target == "induction":
        key = token_key(batch.inputs)
        if key is None:
            raise InputError("induction is told by token ids, and these inputs hold none")
        tokens = batch.inputs[key]
        earlier = (tokens[:, :, None] == tokens[:, None]) & (behind > 0)
        after = earlier.gather(2, before.clamp(min=0)[:, None].expand_as(earlier))
        return after & (before >= 0)[:, None] & real
    assert isinstance(target, int)
    sizes = attended.sum(1)
    short = (sizes <= target) if target >= 0 else (sizes < -target)
    if bool(short.any()):
        example = int(short.nonzero()[0])
        raise InputError(f"position {target} of example {example}: it has {int(sizes[example])} tokens")
    order = attended.int().cumsum(1) - 1
    wanted = target if target >= 0 else (sizes + target)[:, None]
    return real & ((order == wanted) & attended)[:, None] & (behind >= 0)


def mass(
    pattern: Tensor, wanted: Bool[Tensor, "batch query key"], queries: Bool[Tensor, "batch query"] | None = None
) -> Tensor:
    """Mean attention on the wanted keys over the queries that have any, NaN where no query has: [batch, ...].

    Args:
        pattern: [batch, ..., query, key].
        wanted: from `targets`.
        queries: only these.

    Returns:
        [batch, ...], float32 or better.
    """
    has = wanted.any(-1) if queries is None else wanted.any(-1) & queries
    middle = (1,) * (pattern.ndim - 3)
    wide = pattern if pattern.dtype == torch.float64 else pattern.float()
    shape = (len(wanted), *middle, *wanted.shape[1:])
    # where, and not a product: what a padded query attends to may be NaN
    on = torch.where((wanted & has[:, :, None]).view(shape), wide, 0).sum((-1, -2))
    counted = has.sum(1).view(-1, *middle)
    return torch.where(counted > 0, on / counted.clamp(min=1), torch.nan)
