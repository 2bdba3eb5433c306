"""How good a bundled language model is: held-out loss beside a unigram baseline, both in nats per token."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def log_unigram(counts: np.ndarray) -> Float[Tensor, " vocab"]:
    """Log-probabilities of the unigram model with these token counts; one is added, so that none is impossible."""
    smoothed = torch.from_numpy(np.asarray(counts, dtype=np.float64) + 1.0)
    return (smoothed / smoothed.sum()).log().float()


@torch.no_grad()
def held_out_losses(
    model: nn.Module,
    ids: Int[Tensor, "text token"],
    unigram: Float[Tensor, " vocab"],
    unigram_of_domain: Float[Tensor, " vocab"] | None = None,
) -> dict[str, float]:
    """Mean negative log-likelihood of every token but the first of each text.

    Args:
        model: A Hugging Face causal language model in eval mode.
        ids: The texts, all of one length.
        unigram: Log-probabilities of the baseline.
        unigram_of_domain: Those of a second, stronger baseline that knows the domain.
    """
    total = 0.0
    for batch in ids.split(32):
        logits: Tensor = model(input_ids=batch, use_cache=False).logits
        log_probability = logits[:, :-1].log_softmax(-1).gather(-1, batch[:, 1:, None])
        total -= log_probability.double().sum().item()
    targets = ids[:, 1:]
    losses = {"model": total / targets.numel(), "unigram": -unigram[targets].double().mean().item()}
    if unigram_of_domain is not None:
        losses["unigram_of_domain"] = -unigram_of_domain[targets].double().mean().item()
    return {name: round(value, 4) for name, value in losses.items()}
