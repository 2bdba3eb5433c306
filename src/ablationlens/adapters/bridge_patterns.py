"""Attention patterns of a TransformerBridge: what its `hook_pattern` hook points show.

Some families' attention a bridge computes itself, and shows the pattern whatever the model was loaded as. Others (OPT,
BERT, ViT, T5) it leaves to transformers, which forms a pattern as "eager" only. It costs batch x heads x queries x keys
numbers in each layer that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.bridge_checks import NO_PATTERN
from ablationlens.adapters.bridge_modules import attention_in
from ablationlens.adapters.patterns import chosen_heads
from ablationlens.adapters.state import alone
from ablationlens.data import Batch
from ablationlens.errors import AdapterError
from ablationlens.layout import Heads


def bridge_patterns(
    adapter: Adapter, bridge: Any, batch: Batch, layers: Sequence[int] | None = None, attention: str | None = None
) -> dict[int, Float[Tensor, "batch head query key"]]:
    """The attention patterns of a bridge's unmodified model, by layer.

    Args:
        adapter: what holds the bridge.
        bridge: the bridge.
        batch: inputs; patterns of padded queries mean nothing.
        layers: layers to read; all by default.
        attention: which attention of a layer, in a model that has several: ``encoder.attn``, ``decoder.attn`` or
            ``decoder.cross`` in T5, where short names that fit one of them will do.

    Raises:
        AdapterError: if the attention shows no pattern; the message says how to load the model so that it does.
        InputError: if the model has several attentions, and `attention` does not say which.
        UnknownNameError: for a layer or an attention that the model does not have.
    """
    chosen = chosen_heads(adapter, layers, attention)
    adapter.check_data(batch)
    points = {heads.layer: attention_in(bridge, heads.layer, heads.attention) for heads in chosen}
    seen: dict[int, Tensor] = {}

    def keep(layer: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen[layer] = output

    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(alone(adapter.model))
        for layer, (_, component) in points.items():
            stack.callback(component.hook_pattern.register_forward_hook(partial(keep, layer)).remove)
        adapter.run(batch)
    for heads in chosen:
        _check(points[heads.layer][0], heads, seen.get(heads.layer), len(batch))
    return {heads.layer: seen[heads.layer] for heads in chosen}


def _check(path: str, heads: Heads, pattern: Tensor | None, examples: int) -> None:
    if pattern is None:
        raise AdapterError(f"{path}.hook_pattern does not fire: {NO_PATTERN}")
    if pattern.ndim != 4 or pattern.shape[:2] != (examples, heads.queries):
        raise AdapterError(
            f"{path}.hook_pattern shows a tensor of shape {list(pattern.shape)}, which is not the attention pattern "
            f"[{examples}, {heads.queries}, query, key]"
        )
