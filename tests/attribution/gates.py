"""Gate functions written by hand, one gate for each component: what captum is given in the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests import models


def gated_mlp(model: Any, x: Tensor, readout: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f(gates [row, 33]) of the perceptron of the tests: one gate for each row of its three matrices, biases kept.

    Row r belongs to example r % examples, as captum repeats them.
    """

    def forward(gates: Tensor) -> Tensor:
        first, middle, last = gates.split([16, 12, 5], dim=1)
        h = x.repeat(len(gates) // len(x), 1)
        h = (h @ model.first.weight.T) * first + model.first.bias
        h = (torch.nn.functional.gelu(h) @ model.middle.weight.T) * middle + model.middle.bias
        return readout((torch.tanh(h) @ model.last.weight.T) * last + model.last.bias)

    return forward


def gated_heads(model: Any, tokens: Tensor, readout: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f(gates [row, layer * head]) of a tiny GPT-2 or Llama: what each head hands to ``o`` times its gate."""

    def forward(gates: Tensor) -> Tensor:
        handles = []
        for layer in range(models.LAYERS):
            module, _ = models.module_of(model, layer, "attn.o")
            own = gates[:, layer * models.HEADS : (layer + 1) * models.HEADS]
            scale = own.repeat_interleave(models.WIDTH // models.HEADS, dim=1)[:, None]
            handles.append(module.register_forward_pre_hook(lambda _m, args, scale=scale: (args[0] * scale,)))
        try:
            return readout(model(tokens.repeat(len(gates) // len(tokens), 1)).logits)
        finally:
            for handle in handles:
                handle.remove()

    return forward


def last_logit(logits: Tensor) -> Tensor:
    """One number for each row, of one row of class logits or of the last position's."""
    return (logits if logits.ndim == 2 else logits[:, -1])[:, 2]


def spread(logits: Tensor) -> Tensor:
    """One number for each row that depends on every logit, unevenly."""
    weights = torch.linspace(-1, 1, logits[0].numel()).cos().reshape(logits.shape[1:])
    return (logits * weights).flatten(1).sum(1) / 10
