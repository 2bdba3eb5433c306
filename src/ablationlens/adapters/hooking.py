"""Module hooks: pass an activation through a function, and take the hook off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters.base import Place
from ablationlens.errors import AdapterError
from ablationlens.types import Side


def first_tensor(value: Any) -> Tensor:
    """The tensor in a module's output: itself, or the first of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return value[0]
    raise AdapterError(f"expected a tensor, or a tuple that starts with one; got {type(value).__name__}")


def find_tensor(value: Any) -> Tensor | None:
    """The tensor in a module's input or output, or None if it holds none."""
    try:
        return first_tensor(value)
    except AdapterError:
        return None


def hook(place: Place, change: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Pass the activation at a place through `change`; None leaves it as it is."""
    if place.hook == "out":

        def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return change(output)
            changed = change(first_tensor(output))
            return None if changed is None else type(output)((changed, *output[1:]))

        return place.module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = change(first_tensor(args[0]))
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(iter(kwargs))
        changed = change(first_tensor(kwargs[name]))
        return None if changed is None else (args, {**kwargs, name: changed})

    return place.module.register_forward_pre_hook(before, with_kwargs=True)


def keep(seen: dict[tuple[int, Side], Tensor], key: tuple[int, Side]) -> Callable[[Tensor], None]:
    """What a hook calls to note an activation in `seen`, unchanged."""

    def remember(activation: Tensor) -> None:
        seen[key] = activation

    return remember
