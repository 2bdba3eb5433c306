"""How far the outputs of a model on gated components are from those of the model itself."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError

Divergence: TypeAlias = Literal["kl", "mse"]
DIVERGENCES: tuple[Divergence, ...] = ("kl", "mse")


def check_divergence(divergence: str) -> None:
    """Refuse an unknown divergence.

    Raises:
        InputError: naming those that there are.
    """
    if divergence not in DIVERGENCES:
        raise InputError(f"output is 'kl' (predictions) or 'mse' (numbers); got {divergence!r}")


def diverged(
    logits: Float[Tensor, "batch *position out"],
    target: Float[Tensor, "batch *position out"],
    batch: Batch,
    divergence: Divergence,
) -> Float[Tensor, " batch"]:
    """Divergence of each example's outputs, a mean over its real positions (and for "mse" over features).

    "kl" is KL(target || gated) of the predictions in nats, in float32 or better.
    """
    wide = logits.dtype if logits.dtype == torch.float64 else torch.float32
    ours, theirs = logits.to(wide), target.to(wide)
    if divergence == "kl":
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
        p = theirs.exp()
        # where a model rules an entry out with -inf, 0 log 0 = 0
        by_row = (p * (theirs - ours)).masked_fill(p == 0, 0).sum(-1)
    else:
        by_row = (ours - theirs).square().mean(-1)
    if by_row.ndim == 1:
        return by_row
    if batch.attended is None or by_row.shape != batch.attended.shape:
        return by_row.flatten(1).mean(1)
    real = batch.attended.to(by_row)
    return (by_row * real).sum(1) / real.sum(1)
