"""The one way to make a Batch: inputs, labels and positions checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ablationlens.data.batches import Batch
from ablationlens.data.inputs import Inputs, arguments_of, texts_of
from ablationlens.data.labels import checked_labels, targets
from ablationlens.data.padding import attended_of, with_padding
from ablationlens.data.positions import Positions
from ablationlens.data.tokens import Tokenizer
from ablationlens.errors import InputError


def batch(
    inputs: Inputs,
    *,
    tokenizer: Tokenizer = None,
    labels: Tensor | np.ndarray | Sequence[Any] | None = None,
    positions: Positions | None = None,
    attention_mask: Tensor | np.ndarray | Sequence[Any] | None = None,
) -> Batch:
    """Gather what a model reads and what its output is scored on.

    Args:
        inputs: A text or texts; token ids as an integer tensor ``[batch, position]`` (or one example, ``[position]``)
            or as lists, padded where their lengths differ; a float tensor ``[batch, ...]`` of images or features; or a
            mapping with the keyword arguments of the forward pass, for example a tokenizer's output. Padding inside a
            tensor is known only from an attention_mask: a pad token is often a real token as well.
        tokenizer: A Hugging Face tokenizer. It is not changed.
        labels: None for the next token. ``[batch, position]``: what the logits *at* each position should predict, so
            a Hugging Face style ``labels=input_ids`` must be shifted by one first. ``[batch, k]``: for the k positions
            that `positions` selects, in its order. ``[batch]``: the class of each example, or, if the model turns out
            to give logits for each position, the token to predict at its one scored position (the last real one, or
            the one that `positions` selects), which may also be named by a text that is one token, labels=[" yes",
            " no"]. Floats ``[batch, ...]``: the targets of a regression. -100 is no label.
        positions: Which positions are scored; by default those that have a label. An int, ints or a slice count the
            real tokens of each example, as Python indexing does (-1 is the last one), whatever the padding. A Bool
            tensor ``[batch, position]`` or ``[position]`` counts columns, padding included. Ints and a Bool tensor are
            taken at their word: a position without a label, such as the last one, whose next token is unknown, is good
            for a fixed logit or a KL, and any output that needs a label there refuses it. A slice is a range, and
            keeps those of its positions that have a label.
        attention_mask: ``[batch, position]``, 1 at real tokens and 0 at padding.

    Raises:
        InputError: for anything that does not fit together, with the example and what to type.
    """
    texts = texts_of(inputs)
    named = with_padding(arguments_of(inputs, texts, tokenizer), attention_mask)
    attended = attended_of(named)
    given = None if labels is None else checked_labels(labels, named, tokenizer)
    if attended is None:
        if positions is not None:
            raise InputError(f"the inputs ({', '.join(named)}) have no positions: leave out positions=")
        return Batch(named, given, None, tokenizer, texts)
    aligned, scored = targets(named, attended, given, positions)
    return Batch(named, aligned, scored, tokenizer, texts)
