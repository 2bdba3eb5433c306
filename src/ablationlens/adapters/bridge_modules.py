"""Where a TransformerBridge keeps the logical modules: its stacks of blocks, and their components' hook points.

A bridge gives every family the same component names, so this needs no table of families. What differs is the stacks
(`blocks`, or `encoder_blocks` and `decoder_blocks`), and the fused matrices: a bridge splits them when it is built,
runs its own copies of the parts, and never calls the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from torch import nn

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import Address, AddressBook
from ablationlens.adapters.architectures import FUSED
from ablationlens.adapters.finding import Found
from ablationlens.errors import AdapterError
from ablationlens.layout import EMBEDDING, MODULE_ORDER, Heads, Layout, Module
from ablationlens.sites import Tap
from ablationlens.types import Features

STACKS = {"blocks": "", "encoder_blocks": "encoder", "decoder_blocks": "decoder"}
"""Where a bridge has its blocks -> the stack in logical names; "" for the only one."""

COMPONENTS = {
    "": {"attn": "attn", "mlp": "mlp"},
    "encoder": {"attn": "attn", "mlp": "mlp"},
    "decoder": {"attn": "self_attn", "cross": "cross_attn", "mlp": "mlp"},
}
"""For each stack: the first word of a logical name -> the block's component."""

FUSED_LINEAR = {"attn.qkv": "qkv", "mlp.gate_in": "gate_up_proj"}
"""What holds a fused matrix: a component of the attention; in an MLP, a module of the original."""


class Stack(NamedTuple):
    """One list of blocks of a bridge: its name there, its name in logical names, and the blocks."""

    path: str
    name: str
    blocks: list[Any]

    def logical(self, local: str) -> str:
        """The full logical name of a module in this stack."""
        return f"{self.name}.{local}" if self.name else local

    def component(self, local: str) -> str:
        """Path of a logical module within a block: ``cross.q`` is ``cross_attn.q``."""
        first, _, rest = local.partition(".")
        return f"{COMPONENTS[self.name].get(first, first)}.{rest}"


class Held(NamedTuple):
    """One logical module of one block.

    Attributes:
        linear: the module that keeps the matrix.
        before: name and hook point of its input.
        after: name and hook point of its output, or None for a fused matrix that the bridge has not even by name.
    """

    linear: nn.Module
    before: tuple[str, nn.Module]
    after: tuple[str, nn.Module] | None


def stacks_of(bridge: Any) -> list[Stack]:
    """The lists of blocks of a bridge, an encoder's before a decoder's."""
    found = ((path, getattr(bridge, path, None)) for path in STACKS)
    return [Stack(path, STACKS[path], list(blocks)) for path, blocks in found if isinstance(blocks, nn.ModuleList)]


def attention_in(bridge: Any, layer: int, attention: str) -> tuple[str, Any]:
    """Path and component of an attention by its logical name, such as ``attn`` or ``decoder.cross``.

    Raises:
        AdapterError: if the bridge has none of that name there.
    """
    name, _, first = attention.rpartition(".")
    for stack in stacks_of(bridge):
        if stack.name == name and layer < len(stack.blocks):
            own = COMPONENTS[name].get(first, first)
            component = component_at(stack.blocks[layer], own)
            if component is not None:
                return f"{stack.path}.{layer}.{own}", component
    raise AdapterError(f"this bridge of a {type(bridge.original_model).__name__} has no L{layer}.{attention}")


def find_in_bridge(bridge: Any, head_size: int) -> Found:
    """Modules of a bridge under their logical names.

    Raises:
        AdapterError: if no block of the bridge has a matrix under the names that bridges use.
    """
    addresses: dict[Tap, Address] = {}
    stored: dict[tuple[int, str], tuple[nn.Module, Features]] = {}
    modules: list[Module] = []
    heads: list[Heads] = []
    for stack in stacks_of(bridge):
        for layer, block in enumerate(stack.blocks):
            held = dict(_held(stack, layer, block))
            whole = {part: name for name, parts in FUSED.items() if name in held for part in parts}
            for local, (linear, before, after) in held.items():
                how = orientation.orientation(linear)
                assert how is not None
                name = stack.logical(local)
                parts = tuple(stack.logical(part) for part in FUSED.get(local, ()))
                part_of = stack.logical(whole[local]) if local in whole else None
                modules.append(Module(layer, name, how.rows, how.columns, how.operation, part_of, parts))
                stored[layer, name] = (linear, slice(0, how.rows))
                addresses[Tap(layer, name, "in")] = _address(before, how.columns, linear)
                if after is not None:
                    addresses[Tap(layer, name, "out")] = _address(after, how.rows, linear)
                if local.endswith(".o"):
                    heads.append(Heads(layer, how.columns // head_size, head_size, name))
    if not modules:
        raise AdapterError(
            f"this bridge of a {type(bridge.original_model).__name__} has no blocks with attn.q or mlp.in projections, "
            "so there is nothing to cut; adapt the model itself, before it is bridged: al.adapt(hf_model)"
        )
    book = AddressBook(modules, addresses, stored)
    embed = getattr(bridge, EMBEDDING, None)
    linear = getattr(embed, "original_component", None)
    if isinstance(linear, nn.Embedding) and orientation.is_lookup(linear) and stacks_of(bridge)[0].name == "":
        before, after = f"{EMBEDDING}.hook_in", f"{EMBEDDING}.hook_out"
        book.add_embedding(
            EMBEDDING, linear, (before, cast(Any, embed).hook_in, "out"), (after, cast(Any, embed).hook_out)
        )
    return Found(addresses, stored, Layout(tuple(modules), tuple(heads), embeddings=tuple(book.embeddings)))


def _address(point: tuple[str, nn.Module], size: int, owner: nn.Module) -> Address:
    name, module = point
    return Address(name, module, "out", slice(0, size), size, -1, owner)


def _held(stack: Stack, layer: int, block: Any) -> Iterator[tuple[str, Held]]:
    """The logical modules of a block, in canonical order."""
    for local in MODULE_ORDER:
        path = stack.component(local)
        at = f"{stack.path}.{layer}.{path}"
        if local in FUSED:
            parent, above = component_at(block, path.rpartition(".")[0]), at.rpartition(".")[0]
            linear = fused_linear(parent, local)
            if linear is not None:  # its input is that of the attention or the MLP, which hands it to the parts
                never = component_at(parent, path.rpartition(".")[2])
                after = None if never is None else (f"{at}.hook_out", never.hook_out)
                yield local, Held(linear, (f"{above}.hook_in", parent.hook_in), after)
            continue
        component = component_at(block, path)
        linear = getattr(component, "original_component", None)
        if linear is not None and orientation.orientation(linear) is not None:
            yield local, Held(linear, (f"{at}.hook_in", component.hook_in), (f"{at}.hook_out", component.hook_out))


def fused_linear(parent: Any, local: str) -> nn.Module | None:
    """The fused matrix of an attention or MLP component, if it has one that was split into the parts that run."""
    own, parts = FUSED_LINEAR[local], (part.rpartition(".")[2] for part in FUSED[local])
    if parent is None or any(component_at(parent, part) is None for part in parts):
        return None
    holder = component_at(parent, own) if local == "attn.qkv" else parent
    linear = getattr(holder, "original_component", None)
    linear = linear if local == "attn.qkv" else getattr(linear, own, None)
    return linear if linear is not None and orientation.orientation(linear) is not None else None


def component_at(block: Any, path: str) -> Any:
    """The component of a block or of another component, or None if it has none of that name."""
    found = block
    for step in path.split("."):
        found = getattr(found, step, None)
        if found is None:
            return None
    return found
