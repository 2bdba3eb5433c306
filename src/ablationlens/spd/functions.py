"""Importance functions: small networks that say, of an input, how much each component of a module matters there.

Each gives one number for each component, which a sigmoid (see `sigmoids`) makes an importance. The names of parameters
and the layout of weights are those of goodfire-ai/spd, so that its runs load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError, UnknownNameError

RELU_GAIN = math.sqrt(2)


class _Dense(nn.Module):
    """One layer for all components, W [in, out]."""

    def __init__(self, width: int, out: int, gain: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width, out) * gain / math.sqrt(width))
        self.b = nn.Parameter(torch.zeros(out))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows out"]:
        return x @ self.W + self.b


class _Separate(nn.Module):
    """A layer of its own for each component, W [C, in, out]; an input without an axis of components is shared."""

    def __init__(self, components: int, width: int, out: int, gain: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(components, width, out) * gain / math.sqrt(width))
        self.b = nn.Parameter(torch.zeros(components, out))

    def forward(self, x: Float[Tensor, "*rows C_or_1 width"]) -> Float[Tensor, "*rows C out"]:
        count, width, out = self.W.shape
        if x.shape[-2] == 1:  # one product for all components
            whole = x.squeeze(-2) @ self.W.transpose(0, 1).reshape(width, count * out)
            return whole.unflatten(-1, (count, out)) + self.b
        if width == 1:
            return x * self.W[:, 0] + self.b
        if out == 1:
            return (x * self.W[..., 0]).sum(-1, keepdim=True) + self.b
        rows = x.flatten(0, -3).transpose(0, 1) if x.ndim > 2 else x[:, None]
        found = torch.baddbmm(self.b[:, None], rows, self.W).transpose(0, 1)
        return found.unflatten(0, x.shape[:-2]) if x.ndim > 2 else found[0]


class ImportanceFunction(nn.Module):
    """How much each component matters for an input, before the sigmoid.

    Attributes:
        kind: its name in a saved decomposition.
        hidden: widths of the hidden layers, each followed by an exact GELU.
        reads_codes: whether it reads the codes ``x @ V`` rather than the input x.
    """

    kind: ClassVar[str]
    reads_codes: ClassVar[bool] = False
    hidden: tuple[int, ...]
    layers: nn.Sequential

    def forward(self, read: Tensor) -> Float[Tensor, "*rows C"]:
        raise NotImplementedError


class ScalarMLP(ImportanceFunction):
    """A network of its own for each component, which reads that component's code alone: "mlp"."""

    kind = "mlp"
    reads_codes = True

    def __init__(self, components: int, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.hidden = _checked(hidden, self.kind)
        widths = (1, *self.hidden)
        self.layers = nn.Sequential()
        for before, after in zip(widths, self.hidden, strict=False):
            self.layers.extend([_Separate(components, before, after, RELU_GAIN), nn.GELU()])
        self.layers.append(_Separate(components, widths[-1], 1, 1.0))

    def forward(self, read: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        found: Tensor = self.layers(read[..., None])
        return found[..., 0]


class VectorMLP(ImportanceFunction):
    """A network of its own for each component, which reads the module's whole input: "vector_mlp"."""

    kind = "vector_mlp"

    def __init__(self, components: int, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.hidden = _checked(hidden, self.kind)
        widths = (width, *self.hidden)
        self.layers = nn.Sequential()
        for before, after in zip(widths, self.hidden, strict=False):
            self.layers.extend([_Separate(components, before, after, RELU_GAIN), nn.GELU()])
        self.layers.append(_Separate(components, widths[-1], 1, 1.0))

    def forward(self, read: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows C"]:
        found: Tensor = self.layers(read[..., None, :])
        return found[..., 0]


class SharedMLP(ImportanceFunction):
    """One network for all components of a module, which reads its whole input: "shared_mlp"."""

    kind = "shared_mlp"

    def __init__(self, components: int, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.hidden = _widths(hidden)
        widths = (width, *self.hidden)
        self.layers = nn.Sequential()
        for before, after in zip(widths, self.hidden, strict=False):
            self.layers.extend([_Dense(before, after, RELU_GAIN), nn.GELU()])
        self.layers.append(_Dense(widths[-1], components, 1.0))

    def forward(self, read: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows C"]:
        found: Tensor = self.layers(read)
        return found


FUNCTIONS: dict[str, type[ScalarMLP] | type[VectorMLP] | type[SharedMLP]] = {
    one.kind: one for one in (ScalarMLP, VectorMLP, SharedMLP)
}


def importance_function(kind: str, components: int, width: int, hidden: Sequence[int]) -> ImportanceFunction:
    """A new importance function, with random weights of the global generator.

    Args:
        kind: "mlp", "vector_mlp" or "shared_mlp".
        components: of the module, the remainder not counted.
        width: features of the module's input.
        hidden: widths of the hidden layers.

    Raises:
        UnknownNameError: if there is no such kind.
        InputError: if the hidden layers do not fit the kind, or there are no components or features.
    """
    if not isinstance(kind, str) or kind not in FUNCTIONS:
        raise UnknownNameError(f"no importance function {kind!r}: there are {', '.join(FUNCTIONS)}")
    for name, value in (("components", components), ("width", width)):
        if not is_integer(value) or value < 1:
            raise InputError(f"{name} is a whole number from 1; got {value!r}")
    return FUNCTIONS[kind](components, width, hidden)


def check_fits(function: ImportanceFunction, components: int, width: int) -> None:
    """Refuse an importance function that is none, or is for another module.

    Args:
        function: one of `FUNCTIONS`, whose weights say what it is for; nothing is known of any other.
        components: of the module, the remainder not counted.
        width: features of the module's input.

    Raises:
        InputError: saying what its weights are, and what they would be.
    """
    if not isinstance(function, ImportanceFunction):
        raise InputError(
            f"an importance function is al.spd.importance_function('mlp', components={components}, width={width}, "
            f"hidden=(16,)), or None; got {function!r:.60}"
        )
    if type(function) not in FUNCTIONS.values():
        return
    with torch.device("meta"):
        wanted = importance_function(function.kind, components, width, function.hidden).state_dict()
    for name, value in function.state_dict().items():
        if value.shape != wanted[name].shape:
            raise InputError(
                f"this importance function '{function.kind}' is of another module: its {name} is {list(value.shape)}, "
                f"and for {components} components and {width} input features it is {list(wanted[name].shape)}"
            )


def positionwise(function: ImportanceFunction | None) -> bool:
    """Whether a function is known to read each position by itself, as those of this package do."""
    return function is None or type(function) in FUNCTIONS.values()


def _checked(hidden: Sequence[int], kind: str) -> tuple[int, ...]:
    if isinstance(hidden, Sequence) and not hidden:
        raise InputError(f"an importance function '{kind}' needs a hidden layer, hidden=(16,); 'shared_mlp' needs none")
    return _widths(hidden)


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(hidden, Sequence) or not all(is_integer(width) and width >= 1 for width in hidden):
        raise InputError(f"hidden are widths of layers, whole numbers from 1, such as (16,); got {hidden!r}")
    return tuple(int(width) for width in hidden)
