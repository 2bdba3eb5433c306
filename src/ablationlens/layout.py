"""What an adapter has learned of a model, in logical names: the one thing that registries are made from.

Every host of the same checkpoint yields the same layout. That is why names, order and JSON of a registry do not
depend on whether the model is held by TransformerLens, by nnsight or by plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from ablationlens.errors import InputError, UnknownNameError

MODULE_ORDER: tuple[str, ...] = (
    *("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.o"),
    *("cross.q", "cross.k", "cross.v", "cross.o"),
    *("mlp.gate_in", "mlp.gate", "mlp.in", "mlp.out"),
)
"""Logical modules of a transformer layer, in the order in which a layer runs them.

``attn.qkv`` and ``mlp.gate_in`` are fused matrices, ``cross`` is the attention of a decoder to its encoder. In a gated
MLP, ``gate`` is the projection that goes through the activation function and ``in`` the other one. Where a model has
several stacks of layers, names begin with the stack: ``encoder.attn.q``, ``decoder.cross.o``.
"""


IDENTITY = "pre_identity"
"""Last word of the name of an identity matrix that stands before a module, as goodfire-ai/spd calls it.

``attn.q.pre_identity`` maps what ``attn.q`` reads to itself. No model has such a module: only decompositions do.
"""


def identity_before(name: str) -> str:
    """Name of the identity that stands before a module."""
    return f"{name}.{IDENTITY}"


def after_identity(name: str) -> str | None:
    """The module before which an identity stands; None for a name of anything else."""
    stem = name.removesuffix(f".{IDENTITY}")
    return None if stem == name else stem


EMBEDDING = "embed"
"""Name of the token embedding of a transformer. It belongs to no layer, and is counted to layer 0, which reads it."""


def split_stack(name: str) -> tuple[str, str]:
    """The stack of a logical name, or "", and the name within it: ("encoder", "attn.q") of ``encoder.attn.q``."""
    stack, _, local = name.rpartition(".")[0].rpartition(".")
    return stack, f"{local}.{name.rpartition('.')[2]}"


def reads_encoder(name: str) -> bool:
    """Whether a module works on the positions of the encoder, in a model that has a decoder too."""
    stack, local = split_stack(after_identity(name) or name)
    return stack == "encoder" or local in ("cross.k", "cross.v")


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
    operation: Literal["linear", "convolution", "identity", "embedding"] = "linear"
    """What the matrix does; an identity is one that was put before a module, see `IDENTITY`, and the columns of an
    embedding are tokens."""
    part_of: str | None = None
    """The fused module that holds this one, for example ``attn.qkv`` for the ``attn.q`` of GPT-2."""
    parts: tuple[str, ...] = ()
    """For a fused module, the projections that it holds, in the order of its rows."""


@dataclass(frozen=True)
class Heads:
    """Attention heads of one layer."""

    layer: int
    queries: int
    """Query heads: the groups of the attention output before `module`."""
    size: int
    """Features of one head (d_head)."""
    module: str = "attn.o"
    """The output projection at whose input they are cut; ``encoder.attn.o`` and the like in a model of two stacks."""

    @property
    def attention(self) -> str:
        """The attention that the heads belong to: ``attn``, ``encoder.attn``, ``decoder.cross``."""
        return self.module.rpartition(".")[0]


@dataclass(frozen=True)
class Layout:
    """Modules and heads of one model, in canonical order."""

    modules: tuple[Module, ...]
    heads: tuple[Heads, ...] = ()
    transformer: bool = True
    """Whether the modules carry the logical names of ``MODULE_ORDER``, or paths."""
    advice: str = field(default="", compare=False, repr=False)
    """For a model whose modules go by paths: how to give them logical names."""
    embeddings: tuple[Module, ...] = ()
    """Embeddings of tokens, which only rank-one parts cut, and only if they are asked for."""

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({module.layer for module in self.modules}))

    @property
    def names(self) -> tuple[str, ...]:
        """Logical module names that occur, in canonical order, each once."""
        return tuple(dict.fromkeys(module.name for module in self.modules))

    def module(self, layer: int, name: str) -> Module:
        """The module of that layer and name, which may be an identity before one.

        Raises:
            UnknownNameError: if there is none.
            InputError: for an identity where none can be.
        """
        for module in (*self.embeddings, *self.modules):
            if module.layer == layer and module.name == name:
                return module
        stem = after_identity(name)
        if stem is not None:
            return _identity(self.module(layer, stem))
        raise UnknownNameError(f"no module '{name}' in layer {layer}; {self._describe()}")

    def key_values(self, heads: Heads) -> int:
        """Key/value heads of an attention: fewer than its query heads where these share keys and values."""
        name = f"{heads.attention}.k"
        rows = next((m.rows for m in self.modules if (m.layer, m.name) == (heads.layer, name)), None)
        return heads.queries if rows is None else rows // heads.size

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

        A short name is the end of a logical name, from a dot on: ``cross.q`` is ``decoder.cross.q``.

        Raises:
            UnknownNameError: for a module that the model does not have, naming the nearest ones.
            InputError: for a short name that could be several modules, or something that is no name.
        """
        if modules is None:
            return None
        given: Any = [modules] if isinstance(modules, str) else modules
        names = list(given) if isinstance(given, Iterable) else [given]
        if not all(isinstance(name, str) for name in names):
            raise InputError(f"modules go by their names, modules=['q', 'mlp.in'] or modules='q'; got {modules!r:.60}")
        return tuple(self._full_name(name) for name in names)

    def decomposable(self, layers: Sequence[int] | None, modules: Sequence[str] | str | None) -> list[Module]:
        """The modules whose matrices are to be written as rank-one parts, in canonical order.

        Args:
            layers: layers to take; None means all.
            modules: their names, those of fused matrices, identities (``q.pre_identity``) and the embedding
                (``embed``) included; None means every linear module that is not fused.

        Raises:
            UnknownNameError: for a layer or module that the model does not have.
            InputError: if there is none, one has no matrix, or one is a part of another.
        """
        names, chosen = self.select_names(modules), self.select_layers(layers)
        found: list[Module] = []
        for module in (*self.embeddings, *self.modules):
            if module.layer not in chosen:
                continue
            if names is not None and identity_before(module.name) in names:
                found.append(_identity(module))
            if module.name in names if names is not None else not module.parts and module.operation == "linear":
                found.append(module)
        if not found:
            raise InputError(f"no module to decompose: this model has {', '.join(self.names)}")
        for module in found:
            if module.operation == "convolution":
                raise InputError(
                    f"L{module.layer}.{module.name} is a convolution, which has no rank-one parts: name linear modules"
                )
        self.refuse_parts_of_another([(module.layer, module.name) for module in found])
        return found

    def refuse_parts_of_another(self, places: Sequence[tuple[int, str]]) -> None:
        """Refuse a fused matrix together with one of the projections in it.

        Raises:
            InputError: naming both.
        """
        for layer, name in places:
            whole = self.module(layer, name).part_of
            if whole is not None and (layer, whole) in places:
                raise InputError(
                    f"L{layer}.{name} is a part of L{layer}.{whole}, and both are to be decomposed: keep one of them"
                )

    def _full_name(self, name: str) -> str:
        known = self.names
        if name in known or any(module.name == name for module in self.embeddings):
            return name
        stem = after_identity(name)
        if stem is not None:
            return identity_before(self._full_name(stem))
        matches = [full for full in known if full.endswith(f".{name}")] if self.transformer else []
        if len(matches) == 1:
            return matches[0]
        if len(matches) > 1:
            raise InputError(f"module '{name}' could be {' or '.join(matches)}; write the full name")
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        logical = any(full.endswith(f".{name}") or full == name for full in MODULE_ORDER)
        advice = f". {self.advice}" if self.advice and logical else ""
        raise UnknownNameError(f"no module '{name}': {hint}{self._describe()}{advice}")

    def _describe(self) -> str:
        shown = list(self.names[:12])
        more = f" and {len(self.names) - 12} more" if len(self.names) > 12 else ""
        return f"this model has layers {_span(self.layers)} and modules {', '.join(shown)}{more}"


def _identity(module: Module) -> Module:
    """The identity before a module."""
    if module.part_of is not None:
        raise InputError(
            f"'{module.name}' reads what the other projections in {module.part_of} read: an identity can stand before "
            f"all of them, '{identity_before(module.part_of)}'"
        )
    if module.operation != "linear":
        what = "an embedding" if module.operation == "embedding" else "a convolution"
        raise InputError(f"an identity can stand before a linear module; '{module.name}' is {what}")
    return Module(module.layer, identity_before(module.name), module.columns, module.columns, "identity")


def _span(layers: Sequence[int]) -> str:
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers)) or "(none)"
