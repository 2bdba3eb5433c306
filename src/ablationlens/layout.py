"""What an adapter has learned of a model, in logical names: the one thing that registries are made from.

Every host of the same checkpoint yields the same layout. That is why names, order and JSON of a registry do not
depend on whether the model is held by TransformerLens, by nnsight or by plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from ablationlens.errors import InputError, UnknownNameError

MODULE_ORDER: tuple[str, ...] = ("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.in", "mlp.out")
"""Logical modules of a transformer layer, in the order in which a layer runs them."""


@dataclass(frozen=True)
class Module:
    """One weight matrix of the model, under its logical name.

    Rows and columns are those of the mathematical out x in matrix, however the host stores it.
    """

    layer: int
    """Layer of a transformer; for other networks, the rank of the module in the order of execution."""
    name: str
    """Logical name, such as ``attn.q``; for networks without an architecture table, the module's path."""
    rows: int
    """Output features (filters of a convolution)."""
    columns: int
    """Input features (input channels of a convolution)."""
    operation: Literal["linear", "convolution"] = "linear"
    part_of: str | None = None
    """The fused module that holds this one, for example ``attn.qkv`` for the ``attn.q`` of GPT-2."""
    parts: tuple[str, ...] = ()
    """For a fused module, the projections that it holds, in the order of its rows."""


@dataclass(frozen=True)
class Heads:
    """Attention heads of one layer."""

    layer: int
    queries: int
    """Query heads: the groups of the attention output before ``attn.o``."""
    size: int
    """Features of one head (d_head)."""


@dataclass(frozen=True)
class Layout:
    """Modules and heads of one model, in canonical order."""

    modules: tuple[Module, ...]
    heads: tuple[Heads, ...] = ()
    transformer: bool = True
    """Whether the modules carry the logical names of ``MODULE_ORDER``, or paths."""

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({module.layer for module in self.modules}))

    @property
    def names(self) -> tuple[str, ...]:
        """Logical module names that occur, in canonical order, each once."""
        return tuple(dict.fromkeys(module.name for module in self.modules))

    def module(self, layer: int, name: str) -> Module:
        """The module of that layer and name.

        Raises:
            UnknownNameError: if there is none.
        """
        for module in self.modules:
            if module.layer == layer and module.name == name:
                return module
        raise UnknownNameError(f"no module '{name}' in layer {layer}; {self._describe()}")

    def select_layers(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Check `layers` against the model; None means all.

        Raises:
            UnknownNameError: for a layer that the model does not have.
        """
        if layers is None:
            return self.layers
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UnknownNameError(f"no layer {unknown[0]}: this model has layers {_span(self.layers)}")
        return tuple(layers)

    def select_names(self, modules: Sequence[str] | str | None) -> tuple[str, ...] | None:
        """Resolve short names (``q`` for ``attn.q``) against the model; None means the default of each kind.

        Raises:
            UnknownNameError: for a module that the model does not have, naming the nearest ones.
        """
        if modules is None:
            return None
        if isinstance(modules, str):
            modules = [modules]
        return tuple(self._full_name(name) for name in modules)

    def _full_name(self, name: str) -> str:
        known = self.names
        if name in known:
            return name
        matches = [full for full in known if full.rpartition(".")[2] == name] if self.transformer else []
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            raise InputError(f"module '{name}' could be {' or '.join(matches)}; write the full name")
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownNameError(f"no module '{name}': {hint}{self._describe()}")

    def _describe(self) -> str:
        shown = list(self.names[:12])
        more = f" and {len(self.names) - 12} more" if len(self.names) > 12 else ""
        return f"this model has layers {_span(self.layers)} and modules {', '.join(shown)}{more}"


def _span(layers: Sequence[int]) -> str:
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers)) or "(none)"
