"""Repeated random sequences, and what a model that copies them shows: accuracy, head scores, head knockouts.

A sequence is `length` random tokens, twice. From the second token of the second half on, every next token is known:
it followed the same token in the first half. The textbook circuit for it is a head that looks at the previous token
and, one layer up, an *induction* head that looks at the token after the earlier occurrence of the current one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ablationlens.errors import InputError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import LlamaForCausalLM

FIRST_TOKEN = 1
"""Token 0 begins a text and is never drawn."""


def repeated_sequences(n: int, length: int, vocabulary: int, seed: int = 0) -> Int[Tensor, "n twice_length"]:
    """`n` sequences of `length` random tokens (drawn with replacement), each repeated once: [n, 2 * length].

    Raises:
        InputError: if `n` or `length` is too small to make a repeated sequence.
    """
    if n < 1 or length < 2:
        raise InputError(f"n must be at least 1 and length at least 2, not n={n}, length={length}")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(FIRST_TOKEN, vocabulary, (n, length), generator=generator)
    return torch.cat([half, half], dim=1)


@torch.no_grad()
def copy_accuracy(model: nn.Module, sequences: Int[Tensor, "n twice_length"]) -> float:
    """The share of the second half's tokens, from its second on, that the model predicts."""
    length = sequences.shape[1] // 2
    logits: Tensor = model(input_ids=sequences, use_cache=False).logits
    return (logits[:, length:-1].argmax(-1) == sequences[:, length + 1 :]).float().mean().item()


@torch.no_grad()
def head_scores(
    model: LlamaForCausalLM, sequences: Int[Tensor, "n twice_length"]
) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean attention mass per head on the current and previous token, and on the one after the earlier occurrence.

    The model must have been loaded with ``attn_implementation="eager"``, which alone gives attention patterns.
    """
    length = sequences.shape[1] // 2
    attentions = model(input_ids=sequences, use_cache=False, output_attentions=True).attentions
    pattern = torch.stack(attentions)  # layer, sequence, head, query, key
    current = pattern.diagonal(0, dim1=-2, dim2=-1)
    previous = pattern.diagonal(-1, dim1=-2, dim2=-1)  # query i to key i - 1
    after = pattern.diagonal(1 - length, dim1=-2, dim2=-1)[..., 1:]  # query i to key i - length + 1, second half
    places = {"current_token": current, "previous_token": previous, "induction": after}
    return {name: mass.mean((1, 3)) for name, mass in places.items()}


def accuracy_without(
    model: LlamaForCausalLM, sequences: Int[Tensor, "n twice_length"], heads: Collection[tuple[int, int]]
) -> float:
    """Copy accuracy with some heads, given as (layer, head), silenced: their parts of the input of ``o_proj`` zero."""
    count = model.config.num_attention_heads
    handles: list[RemovableHandle] = []
    try:
        for layer in {layer for layer, _ in heads}:
            silent = [head for at, head in heads if at == layer]

            def silence(_: nn.Module, inputs: tuple[Tensor], silent: list[int] = silent) -> tuple[Tensor]:
                z = inputs[0].unflatten(-1, (count, -1)).clone()
                z[..., silent, :] = 0
                return (z.flatten(-2),)

            o_proj = model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")
            handles.append(o_proj.register_forward_pre_hook(silence))
        return copy_accuracy(model, sequences)
    finally:
        for handle in handles:
            handle.remove()
