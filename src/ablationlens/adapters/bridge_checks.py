"""What a TransformerBridge gets wrong, or only reports: found out when it is adapted, and refused.

A bridge that computes something else than the model it holds would give exact answers about another model. Both checks
look at what the bridge at hand does, and pass as soon as TransformerLens mends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import attention_rows
from ablationlens.adapters.architectures import ARCHITECTURES
from ablationlens.adapters.bridge_modules import component_at, fused_linear, stacks_of
from ablationlens.data import Batch
from ablationlens.errors import AdapterError

INSTEAD = "adapt the model itself, before it is bridged: al.adapt(hf_model)"


NO_PATTERN = (
    'the bridge leaves this attention to transformers, whose "sdpa" forms no pattern: '
    'bridge.original_model.set_attn_implementation("eager"), or load it with TransformerBridge.boot_transformers, '
    "which does so by itself"
)
"""Why an attention shows no pattern, and what to type."""


def refuse_wrong_split(bridge: Any, head_size: int) -> None:
    """Refuse a bridge that takes a fused matrix for [all q, all k, all v] where the model stores it head by head.

    TransformerLens 4.3 does so for Falcon's new decoder architecture (the 40b and later ones).

    Raises:
        AdapterError: if it does.
    """
    kind = getattr(getattr(bridge.original_model, "config", None), "model_type", None)
    if not any(family.interleaved and kind in family.model_types for family in ARCHITECTURES):
        return
    for attention in (component_at(stack.blocks[0], "attn") for stack in stacks_of(bridge) if stack.blocks):
        fused = fused_linear(attention, "attn.qkv")
        written = None if attention is None else orientation.orientation(attention.o.original_component)
        if fused is None or written is None:
            continue
        whole, queries = orientation.matrix(fused), written.columns // head_size
        by_head, one_by_one = (
            attention_rows(len(whole), ("q", "k", "v"), queries, head_size, interleaved=way) for way in (True, False)
        )
        for part in ("q", "k", "v"):
            own = orientation.matrix(getattr(attention, part).original_component)
            if not _same(own, whole[by_head[part]]) and _same(own, whole[one_by_one[part]]):
                raise AdapterError(
                    f"this bridge splits the fused q, k and v of {type(bridge.original_model).__name__} in another "
                    f"order than the model stores them, so its logits are not the model's; {INSTEAD}"
                )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def refuse_double_alibi(bridge: Any, run: Callable[[], object]) -> None:
    """Refuse a bridge that adds ALiBi to scores to which the attention mask that it is handed adds it already.

    TransformerLens 4.3 does so for Falcon (falcon-rw) with transformers 5.23.

    Args:
        bridge: the bridge.
        run: runs it once.

    Raises:
        AdapterError: if it does.
    """
    if getattr(bridge.cfg, "positional_embedding_type", None) != "alibi":
        return
    twice: list[bool] = []

    def look(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.is_floating_point() and isinstance(kwargs.get("alibi"), Tensor):
            seen = mask[mask > torch.finfo(mask.dtype).min / 2]
            twice.append(bool((seen != 0).any()))

    handles = [
        attention.register_forward_pre_hook(look, with_kwargs=True)
        for stack in stacks_of(bridge)
        for attention in (component_at(block, "attn") for block in stack.blocks[:1])
        if attention is not None
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if any(twice):
        raise AdapterError(
            f"this bridge of a {type(bridge.original_model).__name__} adds the ALiBi bias twice, once in the attention "
            f"mask that it is handed, so its logits are not the model's; {INSTEAD}"
        )


def perturbed(activation: Tensor) -> Tensor:
    """The activation, changed in every entry by something that no normalisation and no softmax takes out again."""
    if not activation.is_floating_point():
        return activation
    wave = torch.cos(torch.arange(activation.numel(), device=activation.device))
    return activation + wave.reshape(activation.shape).to(activation)


def distinct_tokens(example: Batch, vocabulary: int | None) -> Batch:
    """The example of the dry forward, whose tokens are all one, with others: attention to equals changes nothing."""
    tokens = example.inputs.get("input_ids")
    if tokens is None or vocabulary is None:
        return example
    others = (torch.arange(tokens.numel(), device=tokens.device) * 7 + 1) % vocabulary
    return replace(example, inputs={**example.inputs, "input_ids": others.reshape(tokens.shape)})
