"""Labels, aligned with the logits, and with them the positions that are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ablationlens.data.checks import is_integral, where_rows
from ablationlens.data.inputs import main_key, token_key
from ablationlens.data.positions import Positions, chosen_columns, mark, shown
from ablationlens.data.tokens import Tokenizer, one_token
from ablationlens.errors import InputError

NO_LABEL = -100
"""The label of a position, or of an example, that has none; the value that PyTorch's losses ignore."""


def checked_labels(labels: Any, named: Mapping[str, Tensor], tokenizer: Tokenizer) -> Tensor:
    """Given labels as int64 or float, one entry or row for each example; texts as the tokens that they are."""
    main = named[main_key(named)]
    try:
        given = torch.as_tensor(_token_ids(labels, tokenizer))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "labels are numbers of shape [batch], [batch, position] or [batch, k], or one text for each example that "
            f"is one token: {error}"
        ) from error
    if given.ndim == 0 or given.shape[0] != main.shape[0]:
        raise InputError(f"labels have shape {list(given.shape)}, but there are {main.shape[0]} examples")
    if given.is_floating_point():
        return given.to(main.device)
    if not is_integral(given):
        raise InputError(f"labels are integers (token ids, classes) or float targets, not {given.dtype}")
    for example in where_rows(((given < 0) & (given != NO_LABEL)).reshape(len(given), -1).any(1)):
        raise InputError(f"the labels of example {example} are negative; only -100, for no label, may be")
    return given.to(main.device, torch.long)


def _token_ids(labels: Any, tokenizer: Tokenizer) -> Any:
    """Labels that are texts as the indices of their tokens; all others as they are."""
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not labels:
        return labels
    if not all(isinstance(label, str) for label in labels):
        return labels
    known: dict[str, int] = {}
    for example, label in enumerate(labels):
        if label not in known:
            try:
                known[label] = one_token(label, tokenizer)
            except InputError as error:
                raise InputError(f"the label of example {example}: {error}") from error
    return [known[label] for label in labels]


def targets(
    named: Mapping[str, Tensor],
    attended: Bool[Tensor, "batch position"],
    given: Tensor | None,
    positions: Positions | None,
) -> tuple[Tensor | None, Bool[Tensor, "batch position"]]:
    """Labels and scored positions of inputs that have positions."""
    chosen = None if positions is None else chosen_columns(positions, attended)
    if given is not None and given.ndim == 1 and not given.is_floating_point():
        return given, _one_position(attended, chosen)
    labels = _aligned(named, attended, given, chosen)
    per_position = labels is not None and not labels.is_floating_point()
    labelled = attended & (labels != NO_LABEL) if per_position else attended
    if chosen is None:
        return labels, labelled
    scored = mark(chosen, attended)
    if isinstance(positions, slice):
        scored = scored & labelled
    for example in where_rows(~scored.any(1)):
        raise InputError(
            f"positions={shown(positions)} leaves nothing to score in example {example}, which has "
            f"{int(attended[example].sum())} tokens. The last one has no next token to predict: give labels=, or, for "
            "an output that needs no label, positions=-1"
        )
    return labels, scored


def _aligned(
    named: Mapping[str, Tensor],
    attended: Bool[Tensor, "batch position"],
    given: Tensor | None,
    chosen: list[list[int]] | None,
) -> Tensor | None:
    """Labels [batch, position], aligned with the logits; floats as they come, in the shape of the model's output."""
    if given is None:
        key = token_key(named)
        return None if key is None else _next_tokens(named[key], attended)
    if given.is_floating_point():
        return given
    if given.shape == attended.shape:
        return given.masked_fill(~attended, NO_LABEL)
    width = attended.shape[1]
    if given.ndim != 2 or chosen is None:
        raise InputError(
            f"labels have shape {list(given.shape)}, the inputs {list(attended.shape)}. Give [batch], one for each "
            f"position ([batch, {width}]), or [batch, k] with positions= selecting k positions"
        )
    return _spread(given, attended, chosen)


def _next_tokens(
    tokens: Int[Tensor, "batch position"], attended: Bool[Tensor, "batch position"]
) -> Int[Tensor, "batch position"]:
    labels = torch.full_like(tokens, NO_LABEL)
    both = attended[:, :-1] & attended[:, 1:]
    labels[:, :-1] = tokens[:, 1:].masked_fill(~both, NO_LABEL)
    return labels


def _spread(
    given: Int[Tensor, "batch chosen"], attended: Bool[Tensor, "batch position"], chosen: list[list[int]]
) -> Int[Tensor, "batch position"]:
    labels = torch.full(attended.shape, NO_LABEL, device=attended.device)
    for example, columns in enumerate(chosen):
        if len(columns) != given.shape[1]:
            raise InputError(
                f"positions= selects {len(columns)} positions of example {example}, but labels {list(given.shape)} "
                f"have {given.shape[1]} for it"
            )
        labels[example, columns] = given[example]
    return labels


def _one_position(
    attended: Bool[Tensor, "batch position"], chosen: list[list[int]] | None
) -> Bool[Tensor, "batch position"]:
    """Where a single label for each example is predicted: at the last real token, unless told otherwise."""
    if chosen is None:
        return mark(chosen_columns(-1, attended), attended)
    for example, columns in enumerate(chosen):
        if len(columns) != 1:
            raise InputError(
                f"labels [batch] name one token for each example, but positions= selects {len(columns)} positions of "
                f"example {example}: give labels [batch, {len(columns)}]"
            )
    return mark(chosen, attended)
