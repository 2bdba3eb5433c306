"""The dry forward: which inputs and outputs of modules fire when a model runs, in which order, and of which shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ablationlens.adapters.hooking import find_tensor
from ablationlens.types import Side


@dataclass(frozen=True)
class Firing:
    """What the dry forward saw of one input or output of a module.

    Attributes:
        ranks: rank of each call among all inputs and outputs of all modules.
        shape: of the first tensor in it, at the first call, or None if it holds none, or one of integers.
    """

    ranks: tuple[int, ...]
    shape: tuple[int, ...] | None


def firings_of(model: nn.Module, run: Callable[[], object]) -> dict[tuple[nn.Module, Side], Firing]:
    """What fires in a model when it is run: by module, which is right in a copy of the adapter too."""
    firings: dict[tuple[nn.Module, Side], Firing] = {}
    rank = itertools.count()

    def record(module: nn.Module, side: Side, value: Any) -> None:
        before = firings.get((module, side))
        if before is not None:
            firings[module, side] = replace(before, ranks=(*before.ranks, next(rank)))
            return
        tensor = find_tensor(value)
        shape = None if tensor is None or not tensor.is_floating_point() else tuple(tensor.shape)
        firings[module, side] = Firing((next(rank),), shape)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record(module, "in", args[0] if args else next(iter(kwargs.values()), None))

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        record(module, "out", output)

    with ExitStack() as stack, torch.no_grad():
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        run()
    return firings
