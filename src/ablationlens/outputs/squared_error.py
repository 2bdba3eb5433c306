"""The output of a regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs.base import Output, wide
from ablationlens.outputs.scored import select
from ablationlens.types import Scores


@dataclass(frozen=True)
class SquaredError(Output):
    """The mean squared difference from float labels, over the features of the output and the scored positions.

    The labels have the shape of the model's output, or that shape without a last axis of one.
    """

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        target = batch.labels
        if target is None or not target.is_floating_point():
            raise InputError("SquaredError needs float targets: al.batch(inputs, labels=targets)")
        target = target.to(logits.device)
        if tuple(logits.shape) == (*target.shape, 1):
            target = target.unsqueeze(-1)
        if target.shape != logits.shape:
            raise InputError(f"the targets have shape {list(target.shape)}, the model's output {list(logits.shape)}")
        if batch.scored is None or logits.shape[:2] != batch.scored.shape:
            return (wide(logits) - wide(target)).square().reshape(len(batch), -1).mean(1)
        shape = (*logits.shape[:2], -1)
        rows = select(self, logits.reshape(shape), batch, reference=target.reshape(shape))
        return rows.mean((wide(rows.logits) - wide(cast("Tensor", rows.reference))).square().mean(-1))
