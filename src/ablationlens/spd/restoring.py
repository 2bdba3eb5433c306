"""Importance functions from the tensors that a file holds, with every name and shape checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ablationlens.errors import StoreError
from ablationlens.spd.functions import ImportanceFunction, importance_function


def restored(
    kind: str, components: int, width: int, hidden: Sequence[int], state: Mapping[str, Tensor], prefix: str = ""
) -> ImportanceFunction:
    """An importance function with the given weights; no random numbers are drawn.

    Args:
        kind: "mlp", "vector_mlp" or "shared_mlp".
        components: of the module.
        width: features of the module's input.
        hidden: widths of the hidden layers.
        state: ``layers.0.W`` and so on.
        prefix: of the names in the file, for messages.

    Raises:
        StoreError: if a tensor is missing, or one too many, or of another shape or type, or not finite.
        InputError: for an unknown kind, or hidden layers that do not fit it.
    """
    with torch.device("meta"):
        function = importance_function(kind, components, width, hidden)
    wanted = function.state_dict()
    described = f"an importance function '{kind}' of hidden widths {list(hidden)} for {components} components"
    missing = [name for name in wanted if name not in state]
    if missing:
        raise StoreError(f"the key {prefix}{missing[0]} is missing: {described} has it")
    extra = [name for name in state if name not in wanted]
    if extra:
        raise StoreError(f"the key {prefix}{extra[0]} is one too many: {described} has none of it")
    for name, value in wanted.items():
        if state[name].shape != value.shape:
            raise StoreError(
                f"{prefix}{name} has shape {list(state[name].shape)}: {described} and {width} input features has "
                f"{list(value.shape)} there"
            )
        dtype = next(iter(state.values())).dtype
        if not state[name].is_floating_point() or state[name].dtype != dtype:
            raise StoreError(f"{prefix}{name} is {state[name].dtype}: the weights of a function are of one float type")
        if not bool(torch.isfinite(state[name]).all()):
            raise StoreError(f"{prefix}{name} holds NaN or infinity")
    function.load_state_dict(dict(state), assign=True)
    return function
