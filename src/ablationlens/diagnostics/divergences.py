"""How far predictions under ablation are from the clean ones, in as few passes over the vocabulary as it takes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LOG_2 = math.log(2)


class Divergences(NamedTuple):
    """In nats, of each row.

    Attributes:
        kl: KL(clean || ablated) = sum of p (log p - log q): what the ablated model loses on the clean predictions.
        reverse_kl: KL(ablated || clean).
        js: Jensen-Shannon, the mean of KL(p || m) and KL(q || m) with m = (p + q) / 2 (Lin, 1991); at most log 2.
    """

    kl: Float[Tensor, " row"]
    reverse_kl: Float[Tensor, " row"]
    js: Float[Tensor, " row"]


def divergences(
    log_p: Float[Tensor, "row class"], p: Float[Tensor, "row class"], log_q: Float[Tensor, "row class"]
) -> Divergences:
    """The three divergences of q, the ablated predictions, from p, the clean ones.

    With d = log q - log p, everything follows from p and r = exp(d): q = p r, log(p / m) = log 2 - log(1 + r). As every
    term is made from d, equal predictions diverge by exactly nothing, and a small change is not lost in rounding as it
    would be in a difference of entropies.

    Args:
        log_p: log-probabilities of the unmodified model.
        p: the same as probabilities.
        log_q: those under ablation.
    """
    d = log_q - log_p
    r = d.exp()
    q = p * r
    kl, reverse_kl = -torch.linalg.vecdot(p, d), torch.linalg.vecdot(q, d)
    log_p_over_m = torch.sub(r.new_tensor(LOG_2), r.log1p_(), out=r)
    js = (torch.linalg.vecdot(q.add_(p), log_p_over_m) + reverse_kl) / 2
    found = torch.stack([kl, reverse_kl, js])
    odd = ~found.isfinite().all(0)
    if bool(odd.any()):  # entries that a model rules out with -inf, or a change beyond the range of exp
        found[:, odd] = torch.stack(_carefully(log_p[odd], log_q[odd]))
    return Divergences(*found.clamp_(min=0))


def _carefully(log_p: Float[Tensor, "row class"], log_q: Float[Tensor, "row class"]) -> Divergences:
    """The same, with 0 log 0 = 0 and an infinite divergence where the other distribution has no support."""
    log_m = torch.logaddexp(log_p, log_q) - LOG_2

    def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
        a = log_a.exp()
        return torch.where(a == 0, 0, a * (log_a - log_b)).sum(-1)

    return Divergences(kl(log_p, log_q), kl(log_q, log_p), (kl(log_p, log_m) + kl(log_q, log_m)) / 2)
