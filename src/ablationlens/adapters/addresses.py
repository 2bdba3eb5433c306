"""Addresses: where a host would keep each tap, before a dry forward says whether it fires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ablationlens.adapters import orientation
from ablationlens.errors import AdapterError
from ablationlens.layout import Module
from ablationlens.sites import Tap
from ablationlens.types import Features, Side


@dataclass(frozen=True)
class Address:
    """Where a tap would live, before the dry forward says whether it does."""

    name: str
    module: nn.Module
    hook: Side
    features: Features
    size: int
    feature_axis: int
    owner: nn.Module
    """The module that stores the weight: its own hooks may have kept the tensor."""


@dataclass(eq=False)
class AddressBook:
    """Collects modules in canonical order, with the addresses of their taps.

    Attributes:
        modules: what was noted, a fused matrix before its parts.
        addresses: of the taps of every module.
        stored: the module that keeps each weight, and which of its rows are the weight's.
        embeddings: of tokens.
    """

    modules: list[Module] = field(default_factory=list)
    addresses: dict[Tap, Address] = field(default_factory=dict)
    stored: dict[tuple[int, str], tuple[nn.Module, Features]] = field(default_factory=dict)
    embeddings: list[Module] = field(default_factory=list)

    def add(
        self, layer: int, name: str, module: nn.Module, address: str, parts: Mapping[str, Features] | None = None
    ) -> None:
        """Note a module, and if it is fused the projections that it holds, each with its rows in its own order.

        Raises:
            AdapterError: if the module has no matrix.
        """
        how = orientation.orientation(module)
        if how is None:
            raise AdapterError(f"{address} is a {type(module).__name__}, which has no matrix that can be cut")
        parts = {} if parts is None else parts
        self.modules.append(Module(layer, name, how.rows, how.columns, how.operation, parts=tuple(parts)))
        whole = slice(0, how.rows)
        self.stored[layer, name] = (module, whole)
        self.addresses[Tap(layer, name, "in")] = Address(
            address, module, "in", slice(0, how.columns), how.columns, how.feature_axis, module
        )
        for part, rows in {name: whole, **parts}.items():
            self.addresses[Tap(layer, part, "out")] = Address(
                address, module, "out", rows, how.rows, how.feature_axis, module
            )
        for part, rows in parts.items():
            self.modules.append(Module(layer, part, _count(rows), how.columns, part_of=name))
            self.stored[layer, part] = (module, rows)

    def add_embedding(
        self, name: str, embedding: nn.Embedding, before: tuple[str, nn.Module, Side], after: tuple[str, nn.Module]
    ) -> None:
        """Note an embedding of tokens.

        Args:
            name: its logical name.
            embedding: what keeps its weight.
            before: address and module where its tokens show, and on which side of that module.
            after: address and module whose output it gives.
        """
        tokens, width = embedding.weight.shape
        self.embeddings.append(Module(0, name, width, tokens, "embedding"))
        self.stored[0, name] = (embedding, slice(0, width))
        (path, module, side), (path_after, module_after) = before, after
        # tokens have no axis of features: a place of theirs takes them as they are
        self.addresses[Tap(0, name, "in")] = Address(path, module, side, slice(None), tokens, -1, embedding)
        self.addresses[Tap(0, name, "out")] = Address(
            path_after, module_after, "out", slice(0, width), width, -1, embedding
        )


def _count(rows: Features) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def equal_rows(rows: int, parts: tuple[str, ...]) -> dict[str, Features]:
    """Rows of each part of a fused matrix that holds one part after another, all of one size.

    Raises:
        AdapterError: if the rows do not split into so many parts.
    """
    if rows % len(parts):
        raise AdapterError(f"a fused matrix of {rows} rows does not split into {len(parts)} equal projections")
    size = rows // len(parts)
    return {part: slice(number * size, (number + 1) * size) for number, part in enumerate(parts)}


def attention_rows(
    rows: int, parts: tuple[str, str, str], queries: int, size: int, *, interleaved: bool
) -> dict[str, Features]:
    """Rows of q, k and v in a fused matrix, each ordered by head.

    Key/value heads are what the rows leave for them: ``rows = (queries + 2 * key_values) * size``.

    Args:
        rows: of the fused matrix.
        parts: names of q, k and v.
        queries: query heads.
        size: features of one head.
        interleaved: whether the rows run by key/value head, as [key/value head, its queries + key + value, size];
            otherwise all of q come first, then all of k and all of v.

    Raises:
        AdapterError: if the rows do not split so.
    """
    key_values, left = divmod(rows - queries * size, 2 * size)
    if left or key_values < 1 or queries % key_values:
        raise AdapterError(
            f"a fused matrix of {rows} rows does not hold {queries} query heads of {size} features and as many or "
            "fewer key and value heads"
        )
    q, k, v = parts
    if not interleaved:
        start, stop = queries * size, (queries + key_values) * size
        return {q: slice(0, start), k: slice(start, stop), v: slice(stop, rows)}
    by_head = torch.arange(rows, device="cpu").reshape(key_values, queries // key_values + 2, size)
    return {q: by_head[:, :-2].flatten(), k: by_head[:, -2].flatten(), v: by_head[:, -1].flatten()}
