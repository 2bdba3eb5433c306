"""Outputs that compare distributions over the classes: the loss, and the divergence from the unmodified model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs.base import Output, wide
from ablationlens.outputs.scored import at, select
from ablationlens.types import Scores

PIECE = 2**16
"""How many logits a log-softmax takes at a time on a CPU: a quarter of a megabyte of float32."""


@dataclass(frozen=True)
class CrossEntropy(Output):
    """The loss: minus the label's log-probability in nats, averaged over the scored positions."""

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = select(self, logits, batch, labelled=True)
        return rows.mean(_in_pieces(_loss, rows.logits, cast("Tensor", rows.labels)))


@dataclass(frozen=True)
class KL(Output):
    """Kullback-Leibler divergence from the unmodified model, in nats, averaged over the scored positions.

    Attributes:
        direction: "clean||ablated" is sum of p_clean (log p_clean - log p_ablated): what the ablated model loses on
            the clean one's predictions. "ablated||clean" is the other way round.
    """

    needs_reference: ClassVar[bool] = True
    direction: str = "clean||ablated"

    def __post_init__(self) -> None:
        if self.direction not in ("clean||ablated", "ablated||clean"):
            raise InputError(f"the direction of a KL is 'clean||ablated' or 'ablated||clean', not {self.direction!r}")

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        if reference is None:
            raise InputError("KL compares with the unmodified model: give its logits, output(logits, batch, reference)")
        rows = select(self, logits, batch, reference=reference)
        ablated, clean = rows.logits, cast("Tensor", rows.reference)
        p, q = (clean, ablated) if self.direction == "clean||ablated" else (ablated, clean)
        return rows.mean(_in_pieces(_kl, p, q))


def _in_pieces(function: Callable[..., Float[Tensor, "*row"]], *parts: Tensor) -> Float[Tensor, "*row"]:
    """`function` of a few rows at a time where no graph is built on a CPU.

    Where the allocator returns temporaries of many megabytes to the operating system, which zeroes them anew at every
    call, a KL took 22 ms of CPU time and takes 5 (a cross-entropy 8 and 1.5); where it keeps them, it is all the same.
    """
    logits = parts[0]
    if torch.is_grad_enabled() or logits.device.type != "cpu":
        return function(*parts)
    rows = max(1, PIECE * logits.shape[0] // logits.numel())
    return torch.cat([function(*piece) for piece in zip(*(part.split(rows) for part in parts), strict=True)])


def _loss(logits: Float[Tensor, "*row class"], labels: Int[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    return -at(wide(logits).log_softmax(-1), labels)


def _kl(p: Float[Tensor, "*row class"], q: Float[Tensor, "*row class"]) -> Float[Tensor, "*row"]:
    log_p, log_q = wide(p).log_softmax(-1), wide(q).log_softmax(-1)
    difference = log_p - log_q
    if not bool(log_p.detach().amin().isfinite()):
        # 0 log 0 = 0: entries of the vocabulary that a model rules out with -inf. Rare, and the pass is not free.
        difference = difference.masked_fill(log_p == -torch.inf, 0)
    return torch.linalg.vecdot(log_p.exp(), difference)
