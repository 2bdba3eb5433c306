"""Where the modules of a checkpoint are in a model: from module paths to layers and logical names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache

from ablationlens.adapters.architectures import ARCHITECTURES, Architecture
from ablationlens.adapters.base import Adapter
from ablationlens.errors import AdapterError
from ablationlens.layout import EMBEDDING, MODULE_ORDER, Module, after_identity, identity_before, split_stack
from ablationlens.sites import Tap
from ablationlens.spd.decomposition import Where
from ablationlens.types import Side

LLAMA_SIMPLE = Architecture(
    layers="h",
    modules={
        "attn.qkv": "attn.c_attn",
        "attn.q": "attn.q_proj",
        "attn.k": "attn.k_proj",
        "attn.v": "attn.v_proj",
        "attn.o": "attn.o_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.in": "mlp.c_fc",
        "mlp.out": "mlp.down_proj",
    },
)
"""The language models that goodfire-ai/spd trains itself (its LlamaSimple and LlamaSimpleMLP)."""

EMBEDDINGS = ("wte", "transformer.wte", "embed_tokens", "model.embed_tokens", "gpt_neox.embed_in", "embed_in")
"""What families call their token embedding."""


def places_of(paths: Sequence[str], adapter: Adapter | None = None) -> dict[str, Where]:
    """Layer and logical module of each path that has one, in canonical order.

    Args:
        paths: of modules, as the checkpoint has them, and of identities before them, ``....pre_identity``.
        adapter: the model: its own addresses count first, then the families of the architecture table.
    """
    own = {} if adapter is None else _addresses(adapter)
    found: dict[str, Where] = {}
    for path in paths:
        stem = after_identity(path)
        where = own.get(stem or path) or _by_family(stem or path)
        if where is None or (adapter is not None and not _has(adapter, where, "out" if stem is None else "in")):
            continue
        found[path] = where if stem is None else (where[0], identity_before(where[1]))
    every = [] if adapter is None else [(m.layer, m.name) for m in _modules(adapter)]
    rank = _canonical if adapter is None else every.index

    def order(where: Where) -> tuple[object, bool]:
        stem = after_identity(where[1])
        return rank((where[0], stem or where[1])), stem is None

    return dict(sorted(found.items(), key=lambda item: order(item[1])))


def _addresses(adapter: Adapter) -> dict[str, Where]:
    """Where each module is by the path at which this host hooks it; a fused matrix counts, not its parts."""
    found: dict[str, Where] = {}
    for module in _modules(adapter):
        tap = Tap(module.layer, module.name, "out")
        if module.part_of is None and adapter.has(tap):
            with suppress(AdapterError):  # one that is called twice; it is refused when it is asked for
                found[adapter.place(tap).address] = (module.layer, module.name)
    return found


def _modules(adapter: Adapter) -> tuple[Module, ...]:
    return (*adapter.layout.embeddings, *adapter.layout.modules)


def _has(adapter: Adapter, where: Where, side: Side) -> bool:
    known = any((module.layer, module.name) == where for module in _modules(adapter))
    return known and adapter.has(Tap(*where, side))


def _by_family(path: str) -> Where | None:
    """What the families call this path, if they agree."""
    if path in EMBEDDINGS:
        return 0, EMBEDDING
    steps = path.split(".")
    numbers = [index for index, step in enumerate(steps) if step.isdecimal()]
    for number in numbers:
        names = _names().get((".".join(steps[:number]), ".".join(steps[number + 1 :])), set())
        if len(names) == 1:
            return int(steps[number]), next(iter(names))
    return None


@cache
def _names() -> dict[tuple[str, str], set[str]]:
    """(path of the layers, path in a layer) -> logical names, over all families."""
    found: dict[tuple[str, str], set[str]] = {}
    for layers, relative, name in _rows():
        found.setdefault((layers, relative), set()).add(name)
    return found


def _rows() -> Iterator[tuple[str, str, str]]:
    for family in (LLAMA_SIMPLE, *ARCHITECTURES):
        for stack, paths in family.stacks.items():
            for layers in paths:
                for name, relative in family.of_stack(stack).items():
                    yield layers, relative, name


def _canonical(where: Where) -> tuple[int, str, int]:
    if where[1] == EMBEDDING:
        return -1, "", 0
    stack, local = split_stack(where[1])
    return where[0], stack, MODULE_ORDER.index(local)
