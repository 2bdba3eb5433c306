"""How a module stores its weight matrix: the only place that knows Linear from Conv1D from Conv2d.

Everything else speaks of the mathematical out x in matrix: rows are output features, columns input features.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.errors import AdapterError


@dataclass(frozen=True)
class Orientation:
    """Shape of a module's matrix, and where features lie in its activations."""

    operation: Literal["linear", "convolution"]
    rows: int
    columns: int
    feature_axis: int
    """Axis of the features in the module's input and output."""


def orientation(module: nn.Module) -> Orientation | None:
    """How `module` stores its matrix, or None if it is not a matrix that can be cut."""
    if _is_conv1d(module):
        columns, rows = _weight(module).shape
        return Orientation("linear", rows, columns, -1)
    match module:
        case nn.Linear():
            return Orientation("linear", module.out_features, module.in_features, -1)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if module.groups == 1:
            return Orientation("convolution", module.out_channels, module.in_channels, 1)
        case _:
            return None


def is_lookup(module: nn.Module) -> bool:
    """Whether `module` is an embedding that gives rows of its weight as they are, neither scaled nor normalised."""
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return False
    return type(module).forward is nn.Embedding.forward


def gives_new(module: nn.Module) -> bool:
    """Whether what `module` gives is new, and its caller's alone.

    A forward of the user's own may keep what it gives, or give what it was given.
    """
    own = vars(module).get("forward")
    if own is not None and not type(own).__module__.startswith("nnsight."):  # which puts one into every module
        return False
    known: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    if _is_conv1d(module):
        known = (sys.modules["transformers.pytorch_utils"].Conv1D,)
    return any(type(module).forward is one.forward for one in known)


def matrix(module: nn.Module) -> Float[Tensor, "out in"]:
    """The out x in matrix of a linear module or an embedding, as a view of its weight.

    Raises:
        AdapterError: if the module has no such matrix.
    """
    if _is_conv1d(module):
        return _weight(module).detach().T
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if isinstance(module, nn.Embedding):
        return module.weight.detach().T
    raise AdapterError(f"{type(module).__name__} has no out x in matrix")


def bias(module: nn.Module) -> Float[Tensor, " out"] | None:
    """The bias that the module adds to its output, or None."""
    value = getattr(module, "bias", None)
    return value.detach() if isinstance(value, Tensor) else None


def _is_conv1d(module: nn.Module) -> bool:
    """Hugging Face's Conv1D stores the transpose; it is only there if transformers was imported."""
    host = sys.modules.get("transformers.pytorch_utils")
    return host is not None and isinstance(module, host.Conv1D)


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    if not isinstance(weight, torch.Tensor):
        raise AdapterError(f"{type(module).__name__}.weight is not a tensor")
    return weight
