"""Addresses: where a host would keep each tap, before a dry forward says whether it fires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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


class AddressBook:
    """Collects modules in canonical order, with the addresses of their taps."""

    def __init__(self) -> None:
        self.modules: list[Module] = []
        self.addresses: dict[Tap, Address] = {}
        self.stored: dict[tuple[int, str], tuple[nn.Module, slice]] = {}

    def add(
        self,
        layer: int,
        name: str,
        module: nn.Module,
        address: str,
        parts: Sequence[str] = (),
        sizes: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """Note a module, and the projections that it holds if it is fused."""
        how = orientation.orientation(module)
        if how is None:
            raise AdapterError(f"{address} is a {type(module).__name__}, which has no matrix that can be cut")
        self.modules.append(Module(layer, name, how.rows, how.columns, how.operation, parts=tuple(parts)))
        self.stored[layer, name] = (module, slice(0, how.rows))
        self.addresses[Tap(layer, name, "in")] = Address(
            address, module, "in", slice(0, how.columns), how.columns, how.feature_axis, module
        )
        self.addresses[Tap(layer, name, "out")] = Address(
            address, module, "out", slice(0, how.rows), how.rows, how.feature_axis, module
        )
        start = 0
        for part, rows in zip(parts, sizes(how.rows) if sizes else (), strict=True):
            own = slice(start, start + rows)
            self.modules.append(Module(layer, part, rows, how.columns, part_of=name))
            self.stored[layer, part] = (module, own)
            self.addresses[Tap(layer, part, "out")] = Address(
                address, module, "out", own, how.rows, how.feature_axis, module
            )
            start += rows

    def columns(self, layer: int, name: str) -> int:
        stored, _ = self.stored[layer, name]
        how = orientation.orientation(stored)
        assert how is not None
        return how.columns


def part_rows(parts: int) -> Callable[[int], Sequence[int]]:
    """Rows of each projection in a fused matrix: equal shares, which is what the fused families of the table have."""

    def sizes(rows: int) -> Sequence[int]:
        if parts and rows % parts:
            raise AdapterError(f"a fused matrix of {rows} rows does not split into {parts} equal projections")
        return [rows // parts] * parts if parts else []

    return sizes


def head_size(config: Any) -> int:
    """d_head of a Hugging Face configuration."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit) if explicit else int(config.hidden_size // config.num_attention_heads)
