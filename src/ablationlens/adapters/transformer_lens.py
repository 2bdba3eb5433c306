"""TransformerLensAdapter: a TransformerBridge, edited at its hook points."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from ablationlens.adapters.base import PatternPoint, Place
from ablationlens.adapters.bridge_checks import (
    NO_PATTERN,
    distinct_tokens,
    perturbed,
    refuse_double_alibi,
    refuse_wrong_split,
)
from ablationlens.adapters.bridge_modules import attention_in, find_in_bridge
from ablationlens.adapters.configuration import config_of, head_size, positions_of
from ablationlens.adapters.examples import given_example, image_example, token_example
from ablationlens.adapters.finding import Found
from ablationlens.adapters.hooked import HookedAdapter
from ablationlens.adapters.hooking import hook
from ablationlens.adapters.state import alone, evaluating, refuse_compiled
from ablationlens.adapters.torch_module import logits_of
from ablationlens.data import Batch
from ablationlens.errors import AdapterError
from ablationlens.layout import Heads, split_stack
from ablationlens.registry import Registry
from ablationlens.sites import Tap

FOLDING_TOLERANCE = 1e-5
"""Centred writing weights have column means this small beside their spread; trained ones do not."""


MEAN_THE_SAME = ("neuron", "custom")
"""Kinds that folding leaves alone: a neuron, and an activation of the bridge that the user has named."""


class TransformerLensAdapter(HookedAdapter):
    """Adapter for `transformer_lens.TransformerBridge`: booted from Hugging Face, from a directory, or native.

    Args:
        model: the bridge.
        example: an input for the dry forward; token models need none.
        allow_folded: permit heads, rows and columns of processed weights, which mean something else there.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.

    Raises:
        AdapterError: if the bridge is compiled, has nothing to cut, or computes something else than its model.
    """

    host = "transformer_lens"
    hosts = ("transformer_lens",)

    def __init__(
        self, model: nn.Module, example: Any = None, *, allow_folded: bool = False, allow_repeated: bool = False
    ) -> None:
        self.bridge = cast(Any, model)
        refuse_compiled(self.bridge.original_model)
        self.allow_folded = allow_folded
        self._acting: set[str] = set()
        super().__init__(model, example, allow_repeated=allow_repeated)
        self.folded = weights_are_processed(self)
        if not self.folded:
            refuse_wrong_split(self.bridge, self._head_size)
        refuse_double_alibi(self.bridge, lambda: self.run(self._dry_example))

    def check(self, registry: Registry) -> None:
        for part in registry.parts:
            if part.site.write.location is not None:
                self._refuse_reported(part.site.write)
        changed = [part.site.kind for part in registry.parts if part.site.kind not in MEAN_THE_SAME]
        if self.folded and changed and not self.allow_folded:
            raise AdapterError(
                f"this bridge's weights were processed (folded or centred), so a {changed[0]} means something else "
                "than in the model as it was trained. Boot it again and keep the raw weights, "
                "bridge.enable_compatibility_mode(no_processing=True), or take the processed ones as they are: "
                "al.adapt(bridge, allow_folded=True)"
            )

    def _example(self, example: Any) -> Batch:
        if example is not None:
            return given_example(example)
        inner = self.bridge.original_model
        image = image_example(inner, self.device, self.dtype)
        return token_example(inner, self._accepted, self.device) if image is None else image

    def _called(self) -> nn.Module:
        return self.bridge.original_model

    def _find(self) -> Found:
        return find_in_bridge(self.bridge, self._head_size)

    @property
    def _head_size(self) -> int:
        return head_size(config_of(self.bridge.original_model)) or int(self.bridge.cfg.d_head)

    def place(self, tap: Tap) -> Place:
        self._refuse_fused(tap)
        address = self._locate(tap)
        if (address.module, address.hook) not in self._firings and (advice := self._advice(address.name)):
            raise AdapterError(f"{address.name} does not fire, so an ablation there would do nothing: {advice}")
        return super().place(tap)

    def _refuse_fused(self, tap: Tap) -> None:
        """Refuse the output of a fused matrix: a bridge runs its own copies of the projections in it."""
        known = [m for m in self.layout.modules if (m.layer, m.name) == (tap.layer, tap.module)]
        if tap.location is None and tap.side == "out" and known and known[0].parts:
            raise AdapterError(
                f"a bridge splits the fused {tap.module} into {', '.join(known[0].parts)} and never runs it whole: "
                f"name these, or adapt the model itself, before it is bridged: al.adapt(hf_model)"
            )

    def _advice(self, name: str) -> str:
        """What makes a hook point fire that does not, if that is known."""
        gated = getattr(self.bridge, "_gated_hook_reason", None)
        flag = None if gated is None else gated(name)
        if flag is not None:
            return f"it is behind a flag that is off; bridge.set_{flag}(True) switches it on"
        if name.endswith(("hook_pattern", "hook_attn_scores")):
            return NO_PATTERN
        return ""

    def _refuse_reported(self, tap: Tap) -> None:
        """Refuse a hook point of the user's own that shows a value after it was used: writing there changes nothing."""
        place = self.place(tap)
        if place.address in self._acting:
            return
        batch = distinct_tokens(self._dry_example, self.vocabulary)
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(alone(self.model))
            stack.enter_context(evaluating(self._modules))
            plain = self.forward(batch)
            stack.callback(hook(place, perturbed).remove)
            stack.enter_context(warnings.catch_warnings(action="ignore"))  # of what is found out here
            acts = not torch.equal(self.forward(batch), plain)
        if not acts:
            raise AdapterError(
                f"writing at {place.address} changes nothing: the bridge shows there what was computed elsewhere. "
                "Name a hook point that the computation goes through, such as blocks.0.attn.hook_z for the attention"
            )
        self._acting.add(place.address)

    @cached_property
    def context(self) -> int | None:
        inner = self.bridge.original_model
        return positions_of(inner) if config_of(inner) is not None else int(self.bridge.cfg.n_ctx) or None

    @property
    def vocabulary(self) -> int | None:
        config = config_of(self.bridge.original_model)
        size = getattr(self.bridge.cfg, "d_vocab", None) if config is None else getattr(config, "vocab_size", None)
        return int(size) if isinstance(size, int) and size > 0 else None

    def forward(self, batch: Batch) -> Tensor:
        first, named = self.arguments(batch)
        if not first:  # a bridge takes tokens or pixels by position, and hands on by name what its model knows
            first = [named.pop(next(name for name in ("input_ids", "pixel_values") if name in named))]
        return logits_of(self.bridge(*first, return_type="logits", **named))

    def pattern_point(self, heads: Heads) -> PatternPoint:
        path, component = attention_in(self.bridge, heads.layer, heads.attention)
        return PatternPoint(f"{path}.hook_pattern", component.hook_pattern, _as_shown, NO_PATTERN)

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


def _as_shown(pattern: Any) -> Any:
    return pattern


def weights_are_processed(adapter: TransformerLensAdapter) -> bool:
    """Whether a bridge's weights were folded or centred.

    The bridge notes it; weights that were processed before they were loaded are recognised by writing weights whose
    every column is centred, which training does not produce.
    """
    if bool(getattr(adapter.bridge, "_weights_processed", False)):
        return True
    writing = [m for m in adapter.layout.modules if split_stack(m.name)[1] in ("attn.o", "cross.o", "mlp.out")]
    with torch.no_grad():
        return bool(writing) and all(_centred(adapter.weight(m.layer, m.name)) for m in writing)


def _centred(weight: Tensor) -> bool:
    spread = weight.double().std()
    return bool(spread > 0) and float(weight.double().mean(dim=0).abs().max() / spread) < FOLDING_TOLERANCE
