"""Where a model predicts: which positions of the logits are real, what they should predict, which are scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ablationlens.data import NO_LABEL, Batch
from ablationlens.errors import InputError


@dataclass(frozen=True)
class Places:
    """The positions of the logits of each example; one position where the logits have none. On the CPU.

    Attributes:
        real: False at padding.
        scored: what an Output averages over.
        labels: the class that is right, -100 where none is known.
        are_positions: whether the logits have positions.
    """

    real: Bool[Tensor, "example position"]
    scored: Bool[Tensor, "example position"]
    labels: Int[Tensor, "example position"]
    are_positions: bool

    def index(self, examples: range) -> Int[Tensor, " real"]:
        """The real positions of these examples, among all of theirs in a row."""
        return self.real[examples.start : examples.stop].flatten().nonzero()[:, 0]

    def span(self, examples: range) -> slice:
        """The real positions of these examples, among the real ones of all examples."""
        before = self.real.sum(1).cumsum(0)
        first = int(before[examples.start - 1]) if examples.start else 0
        return slice(first, int(before[examples.stop - 1]))


def places(data: Batch, shape: torch.Size) -> Places:
    """The places of the logits of all examples.

    Args:
        data: the examples.
        shape: of the logits of one of them: [position, class] or [class].

    Raises:
        InputError: if the logits are something else, have other positions than the inputs, hold one number instead of a
            prediction, or a label is outside of them.
    """
    if len(shape) not in (1, 2):
        raise InputError(f"logits are [batch, position, class] or [batch, class], not {['batch', *shape]}")
    if shape[-1] < 2:
        raise InputError(
            "the model returns one number and no prediction, so nothing can drift: take model.sweep(masks)"
        )
    are_positions = len(shape) == 2
    size = (len(data), shape[0] if are_positions else 1)
    real = torch.ones(size, dtype=torch.bool)
    if are_positions and data.attended is not None:
        real = data.attended.cpu()
    if real.shape != size:
        raise InputError(
            f"the logits have {size[1]} positions and the inputs {real.shape[1]}: they have to be the same"
        )
    chosen = data.scored.cpu() if are_positions and data.scored is not None else None
    labels = _labels(data, size, chosen).masked_fill(~real, NO_LABEL)
    outside = labels >= shape[-1]
    if bool(outside.any()):
        example, position = outside.nonzero()[0].tolist()
        raise InputError(
            f"example {example}, position {position} has label {int(labels[example, position])}, but the logits have "
            f"{shape[-1]} entries: labels are 0 to {shape[-1] - 1}"
        )
    if chosen is None:
        chosen = labels != NO_LABEL if bool((labels != NO_LABEL).any()) else real
    return Places(real, chosen, labels, are_positions)


def _labels(data: Batch, size: tuple[int, int], scored: Tensor | None) -> Int[Tensor, "example position"]:
    """The labels of the batch in the shape of the positions, where they are classes."""
    none = torch.full(size, NO_LABEL)
    if data.labels is None or data.labels.is_floating_point():
        return none
    labels = data.labels.cpu()
    if labels.ndim == 1 and size[1] == 1:
        return labels[:, None]
    if labels.ndim == 1 and scored is not None:  # one for each example, at its scored position
        return torch.where(scored, labels[:, None], none)
    return labels if labels.shape == size else none
