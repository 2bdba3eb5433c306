"""How predictions of one model differ from those of another, both with everything kept."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.diagnostics.clean import MEASURES, Clean, Collected, clean_pass
from ablationlens.diagnostics.divergences import divergences
from ablationlens.masked_model import MaskedModel
from ablationlens.sweep import Pass


def nothing(logits: Tensor) -> Tensor:
    """An output that asks for nothing, for models of which only the predictions are looked at."""
    return torch.zeros(len(logits), device=logits.device)


def predictions(model: MaskedModel, data: Batch, rows: int) -> Clean:
    """Predictions of a model with everything kept."""
    collected = Collected(data)
    clean_pass(model, data, collected.keep, rows=rows)
    return collected.clean()


def compared(
    before: Clean, after: MaskedModel, data: Batch, rows: int
) -> Float32[np.ndarray, "measure example position"]:
    """The measures of `al.drift` from the predictions of one model to those of another, NaN at padding."""
    real = before.places.real.numpy()
    values = np.full((len(MEASURES), *real.shape), np.nan, dtype=np.float32)

    def keep(one: Pass) -> None:
        found, _ = before.compare(one)
        examples = slice(one.examples.start, one.examples.stop)
        values[:, examples][..., real[examples]] = found[:, 0].numpy()

    clean_pass(after, data, keep, rows=rows)
    return values


def kl_of(
    before: Float[Tensor, "example *position class"], after: Float[Tensor, "example *position class"]
) -> Float32[np.ndarray, "example position"]:
    """KL(before || after) of probabilities, in nats."""
    p, q = (one.flatten(0, -2) for one in (before, after))
    found = divergences(p.log(), p, q.log()).kl
    return found.view(len(before), -1).to("cpu", torch.float32).numpy()
