"""Whatever a model reads, as tensors under the names of the forward pass's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ablationlens.data.checks import is_integral
from ablationlens.data.tokens import Tokenizer, checked_tokens, padded, rows_of, tokenize
from ablationlens.errors import InputError

Inputs: TypeAlias = str | Sequence[Any] | Tensor | np.ndarray | Mapping[str, Any]
"""Texts, token ids, images or features, or the keyword arguments of the forward pass."""


def texts_of(inputs: Inputs) -> tuple[str, ...] | None:
    """The inputs if they are texts."""
    if isinstance(inputs, str):
        return (inputs,)
    if isinstance(inputs, Sequence) and len(inputs) and all(isinstance(item, str) for item in inputs):
        return tuple(inputs)
    return None


def arguments_of(inputs: Inputs, texts: tuple[str, ...] | None, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The inputs under the names of the forward pass's arguments."""
    if texts is not None:
        return padded(tokenize(texts, tokenizer), tokenizer)
    if isinstance(inputs, Mapping):
        return checked_arguments(inputs)
    if isinstance(inputs, Tensor | np.ndarray):
        return _bare(torch.as_tensor(inputs))
    return padded(rows_of(inputs), tokenizer)


def checked_arguments(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """A mapping's tensors, all with one leading batch axis."""
    if "labels" in inputs:
        raise InputError(
            "the inputs hold 'labels', which would make the model compute a loss. Give them apart, aligned with the "
            "logits: al.batch(inputs, labels=...); next-token labels are the default"
        )
    named: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if not isinstance(value, Tensor | np.ndarray):
            raise InputError(
                f"the input '{name}' is a {type(value).__name__}, not a tensor. A tokenizer returns tensors with "
                'return_tensors="pt"'
            )
        named[name] = torch.as_tensor(value)
    if not named:
        raise InputError("the mapping of inputs is empty")
    return _with_one_batch_axis(named)


def _with_one_batch_axis(named: dict[str, Tensor]) -> dict[str, Tensor]:
    key = main_key(named)
    for name, tensor in named.items():
        if tensor.ndim == 0 or tensor.numel() == 0:
            raise InputError(f"the input '{name}' has shape {list(tensor.shape)}: it needs a batch axis and an example")
    examples = named[key].shape[0]
    ids = named.get("position_ids")
    if ids is not None and ids.ndim == 2 and ids.shape[0] == 1:
        named = {**named, "position_ids": ids.expand(examples, -1)}
    for name, tensor in named.items():
        if tensor.shape[0] != examples:
            raise InputError(f"the inputs disagree on the batch: '{key}' {examples}, '{name}' {tensor.shape[0]}")
    tokens = [key for key in (token_key(encoder_of(named)), token_key(named)) if key is not None]
    return {**named, **{key: checked_tokens(named[key], key) for key in tokens}}


def _bare(inputs: Tensor) -> dict[str, Tensor]:
    """A tensor without a name: integers are tokens, floats are images or features."""
    if inputs.is_floating_point():
        if inputs.ndim < 2 or inputs.numel() == 0:
            raise InputError(f"float inputs are [batch, ...], not {list(inputs.shape)}: inputs[None] is one example")
        return {"input": inputs}
    if inputs.ndim > 2:
        raise InputError(
            f"an integer tensor of shape {list(inputs.shape)} is neither tokens [batch, position] nor float images: "
            "for images, type inputs.float() / 255"
        )
    return {"input_ids": checked_tokens(inputs[None] if inputs.ndim == 1 else inputs, "input_ids")}


DECODER = "decoder_"
"""How the names of what a decoder reads begin, in a model that has an encoder too."""


def encoder_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an encoder reads, or a model that has no decoder of its own."""
    return {name: value for name, value in inputs.items() if not name.startswith(DECODER)}


def token_key(inputs: Mapping[str, Tensor]) -> str | None:
    """The name of the input with the token ids at whose positions the logits are, a decoder's before an encoder's."""
    if f"{DECODER}input_ids" in inputs:
        return f"{DECODER}input_ids"
    if "input_ids" in inputs:
        return "input_ids"
    plain = inputs.get("input")
    return "input" if plain is not None and plain.ndim == 2 and is_integral(plain) else None


def main_key(inputs: Mapping[str, Tensor]) -> str:
    """The input that the others go with."""
    known = (key for key in ("input_ids", "inputs_embeds", "input", "pixel_values") if key in inputs)
    return next(known, next(iter(inputs)))


def shape_of(inputs: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """(examples, positions) of the logits, or None for inputs without positions, such as images."""
    key = token_key(inputs) or ("inputs_embeds" if "inputs_embeds" in inputs else None)
    if key is None:
        return None
    if inputs[key].ndim < 2:
        raise InputError(f"'{key}' is [batch, position, ...], not {list(inputs[key].shape)}")
    return inputs[key].shape[0], inputs[key].shape[1]
