"""Module hooks: pass an activation through a function, and take the hook off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters.base import Place
from ablationlens.adapters.orientation import gives_new
from ablationlens.data import Batch
from ablationlens.errors import AdapterError


def first_tensor(value: Any) -> Tensor:
    """The tensor in a module's output: itself, or the first of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        return value[0]
    raise AdapterError(f"expected a tensor, or a tuple that starts with one; got {type(value).__name__}")


def with_first(value: Any, changed: Tensor) -> Any:
    """A tuple or list with another tensor in the place of its first."""
    if hasattr(value, "_replace"):  # a named tuple
        return value._replace(**{value._fields[0]: changed})
    return type(value)((changed, *value[1:]))


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
            return None if changed is None else with_first(output, changed)

        return place.module.register_forward_hook(after)

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            changed = change(first_tensor(args[0]))
            return None if changed is None else ((changed, *args[1:]), kwargs)
        name = next(iter(kwargs))
        changed = change(first_tensor(kwargs[name]))
        return None if changed is None else (args, {**kwargs, name: changed})

    return place.module.register_forward_pre_hook(before, with_kwargs=True)


def may_overwrite(place: Place) -> bool:
    """Whether nobody else has the activation at a place, so that it may be edited in place."""
    hooked = any(holder._forward_hooks for holder in place.holders) or every_module._global_forward_hooks
    return place.fresh and not hooked and gives_new(place.holders[-1])


def unfolded(place: Place, batch: Batch, activation: Tensor) -> Tensor:
    """An activation [batch * position, feature] as [batch, position, feature].

    Raises:
        AdapterError: if it holds something else than one entry for each position of each example.
    """
    positions = batch.length or place.folded
    if activation.shape[0] != len(batch) * positions:
        raise AdapterError(
            f"{place.address} has {activation.shape[0]} entries in this forward pass, and not one for each of the "
            f"{positions} positions of {len(batch)} examples: it is not known which entry belongs to which example"
        )
    return activation.unflatten(0, (len(batch), -1))


def by_example(
    place: Place, batch: Callable[[], Batch | None], change: Callable[[Tensor], Tensor | None]
) -> Callable[[Tensor], Tensor | None]:
    """`change`, which sees an activation whose batch and positions share an axis as [batch, position, feature].

    Args:
        place: where it is.
        batch: the inputs of the pass that is running; None between passes, when `change` does nothing.
        change: what to do with it.
    """
    if not place.folded:
        return change

    def of_whole(activation: Tensor) -> Tensor | None:
        running = batch()
        if running is None:
            return None
        changed = change(unfolded(place, running, activation))
        return None if changed is None else changed.flatten(0, 1)

    return of_whole
