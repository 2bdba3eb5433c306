"""TransformerLensAdapter: a TransformerBridge, edited at its hook points."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import Address
from ablationlens.adapters.hooking import first_tensor
from ablationlens.adapters.state import refuse_compiled
from ablationlens.adapters.torch_module import TorchAdapter
from ablationlens.data import Batch
from ablationlens.errors import AdapterError, UnknownNameError
from ablationlens.layout import MODULE_ORDER, Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.sites import Tap
from ablationlens.types import Side

FOLDING_TOLERANCE = 1e-5
"""Centred writing weights have column means this small beside their spread; trained ones do not."""


class TransformerLensAdapter(TorchAdapter):
    """Adapter for `transformer_lens.TransformerBridge`: booted from Hugging Face, from a directory, or native.

    Args:
        model: the bridge.
        example: an input for the dry forward; token models need none.
        allow_folded: permit heads, rows and columns of processed weights, which mean something else there.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.

    Raises:
        AdapterError: if the bridge is compiled.
    """

    host = "transformer_lens"
    hosts = ("transformer_lens",)

    def __init__(
        self, model: nn.Module, example: Any = None, *, allow_folded: bool = False, allow_repeated: bool = False
    ) -> None:
        self.bridge = cast(Any, model)
        refuse_compiled(self.bridge.original_model)
        self.allow_folded = allow_folded
        self._inner = frozenset(inspect.signature(self.bridge.original_model.forward).parameters)
        super().__init__(model, example, allow_repeated=allow_repeated)
        self.folded = weights_are_processed(self)

    def check(self, registry: Registry) -> None:
        changed = [part.site.kind for part in registry.parts if part.site.kind != "neuron"]
        if self.folded and changed and not self.allow_folded:
            raise AdapterError(
                f"this bridge's weights were processed (folded or centred), so a {changed[0]} means something else "
                "than in the model as it was trained. Boot it again and keep the raw weights, "
                "bridge.enable_compatibility_mode(no_processing=True), or take the processed ones as they are: "
                "al.adapt(bridge, allow_folded=True)"
            )

    def _token_model(self) -> bool:
        return True

    def _find(self) -> tuple[dict[Tap, Address], dict[tuple[int, str], tuple[nn.Module, slice]], Layout]:
        addresses: dict[Tap, Address] = {}
        stored: dict[tuple[int, str], tuple[nn.Module, slice]] = {}
        modules: list[Module] = []
        heads: list[Heads] = []
        for layer, block in enumerate(self.bridge.blocks):
            found = {name: linear for name in MODULE_ORDER if (linear := _linear(block, name)) is not None}
            fused = "attn.qkv" in found
            for name, (bridge, linear) in found.items():
                how = orientation.orientation(linear)
                assert how is not None
                parts = ("attn.q", "attn.k", "attn.v") if name == "attn.qkv" else ()
                part_of = "attn.qkv" if fused and name in ("attn.q", "attn.k", "attn.v") else None
                modules.append(Module(layer, name, how.rows, how.columns, how.operation, part_of, parts))
                stored[layer, name] = (linear, slice(0, how.rows))
                address = f"blocks.{layer}.{name}"
                hook_in, name_in = bridge.hook_in, f"{address}.hook_in"
                if parts:  # a bridge splits the fused matrix and never calls it: its input is that of the attention
                    hook_in, name_in = block.attn.hook_in, f"blocks.{layer}.attn.hook_in"
                addresses[Tap(layer, name, "in")] = Address(
                    name_in, hook_in, "out", slice(0, how.columns), how.columns, -1, linear
                )
                addresses[Tap(layer, name, "out")] = Address(
                    f"{address}.hook_out", bridge.hook_out, "out", slice(0, how.rows), how.rows, -1, linear
                )
            if "attn.o" in found:
                size = int(self.bridge.cfg.d_head)
                how = orientation.orientation(found["attn.o"][1])
                assert how is not None
                heads.append(Heads(layer, how.columns // size, size))
        return addresses, stored, Layout(tuple(modules), tuple(heads))

    def _named(self, name: str) -> tuple[nn.Module, Side]:
        """The hook point of a name; legacy names are understood as TransformerLens understands them."""
        points: dict[str, nn.Module] = self.bridge.hook_dict
        if name in points:
            return points[name], "out"
        near = get_close_matches(name, points, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "bridge.hook_dict lists them"
        raise UnknownNameError(f"no hook point '{name}' in this bridge: {hint}")

    @cached_property
    def context(self) -> int | None:
        return int(self.bridge.cfg.n_ctx) or None

    @property
    def vocabulary(self) -> int | None:
        size = getattr(self.bridge.cfg, "d_vocab", None)
        return int(size) if isinstance(size, int) and size > 0 else None

    def forward(self, batch: Batch) -> Tensor:
        inputs = dict(batch.inputs)
        key = "input_ids" if "input_ids" in inputs else "input"
        first = inputs.pop(key)
        if "position_ids" not in self._inner:
            inputs.pop("position_ids", None)
        if "use_cache" in self._inner:
            inputs["use_cache"] = cast(Any, False)
        return first_tensor(self.bridge(first, return_type="logits", **inputs))

    def describe(self) -> dict[str, Any]:
        model = type(self.bridge.original_model).__name__
        # a bridge keeps its own copies of the projections that it splits from a fused matrix
        split = [m for m in self.layout.modules if m.part_of is not None]
        biases = (self.bias(m.layer, m.name) for m in split)
        copies = sum(m.rows * m.columns for m in split) + sum(b.numel() for b in biases if b is not None)
        described = super().describe()
        return {
            **described,
            "class": model,
            "parameters": described["parameters"] - copies,
            "folded": self.folded,
            "allow_folded": self.allow_folded,
        }


def _linear(block: Any, name: str) -> tuple[Any, nn.Module] | None:
    """The bridge of a logical module and the linear module in it, if this block has one."""
    module = block
    for step in name.split("."):
        module = getattr(module, step, None)
        if module is None:
            return None
    linear = getattr(module, "original_component", None)
    return None if linear is None or orientation.orientation(linear) is None else (module, linear)


def weights_are_processed(adapter: TransformerLensAdapter) -> bool:
    """Whether a bridge's weights were folded or centred.

    The bridge notes it; weights that were processed before they were loaded are recognised by writing weights whose
    every column is centred, which training does not produce.
    """
    if bool(getattr(adapter.bridge, "_weights_processed", False)):
        return True
    writing = [m for m in adapter.layout.modules if m.name in ("attn.o", "mlp.out")]
    with torch.no_grad():
        return bool(writing) and all(_centred(adapter.weight(m.layer, m.name)) for m in writing)


def _centred(weight: Tensor) -> bool:
    spread = weight.double().std()
    return bool(spread > 0) and float(weight.double().mean(dim=0).abs().max() / spread) < FOLDING_TOLERANCE
