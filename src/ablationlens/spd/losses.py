"""What a decomposition is trained on: give the weights back, give the outputs back under masks, and need little.

Each is a setting with a coefficient; `training` sums them (arXiv 2506.20790, section 2.4; goodfire-ai/spd).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ablationlens.data.checks import is_number
from ablationlens.errors import InputError
from ablationlens.spd.adversary import STARTS, Ascent, Start
from ablationlens.spd.decomposition import Decomposition, Importances, Where
from ablationlens.spd.routing import Routing, check_routing
from ablationlens.spd.sources import Sampling, check_sampling


def _check_coefficient(coefficient: float) -> None:
    if not is_number(coefficient) or not 0 < coefficient < float("inf"):
        raise InputError(f"a coefficient is a number above 0; got {coefficient!r}: leave the loss out instead")


@dataclass(frozen=True)
class Faithfulness:
    """The components sum to the weight: mean square of the remainders' entries, over all modules.

    Args:
        coefficient: its share of the loss.
    """

    coefficient: float = 1.0

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    def __call__(self, decomposition: Decomposition, weights: Mapping[Where, Tensor]) -> Tensor:
        """The loss, for the model's own weights."""
        squares = [(weights[where] - part.weight).square().sum() for where, part in decomposition.items()]
        return torch.stack(squares).sum() / sum(weight.numel() for weight in weights.values())


@dataclass(frozen=True)
class Minimality:
    """Few components matter at a time: for each component the mean of importance^p over rows, summed.

    With `beta` each component's share is weighted by 1 + beta log2(1 + its sum over rows), which puts a price on
    components that matter often; it depends on the size of a batch.

    Args:
        coefficient: its share of the loss.
        p: the power.
        p_end: the power that it is annealed to, linearly; None: it stays.
        begin: share of the training after which annealing begins.
        end: share of the training at which it ends.
        beta: price of components that matter often.
    """

    coefficient: float = 3e-3
    p: float = 1.0
    p_end: float | None = None
    begin: float = 0.0
    end: float = 1.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)
        powers = (self.p, self.p if self.p_end is None else self.p_end)
        if not all(is_number(p) and 0 < p < float("inf") for p in powers):
            raise InputError(f"p is a power above 0; got p={self.p!r}, p_end={self.p_end!r}")
        if not all(map(is_number, (self.begin, self.end))) or not 0 <= self.begin <= self.end <= 1:
            raise InputError(f"annealing goes from begin to end, 0 to 1; got begin={self.begin!r}, end={self.end!r}")
        if not is_number(self.beta) or not 0 <= self.beta < float("inf"):
            raise InputError(f"beta is a price from 0; got {self.beta!r}")

    def power(self, progress: float) -> float:
        """The power at a share of the training."""
        if self.p_end is None or progress < self.begin:
            return self.p
        if progress >= self.end:
            return self.p_end
        return self.p + (self.p_end - self.p) * (progress - self.begin) / (self.end - self.begin)

    def __call__(self, importances: Mapping[Where, Importances], progress: float) -> Tensor:
        """The loss, at a share of the training."""
        p, total = self.power(progress), []
        for one in importances.values():
            rows = one.upper.shape[:-1].numel()
            sums = (one.upper.clamp(min=0) + 1e-12).pow(p).flatten(0, -2).sum(0)
            weighted = sums if not self.beta else sums * (1 + self.beta * torch.log2(1 + sums))
            total.append(weighted.sum() / rows)
        return torch.stack(total).sum()


@dataclass(frozen=True)
class Reconstruction:
    """The outputs are the model's own, however the components that do not matter are masked.

    The loss is the divergence of the outputs, a mean over examples and over the passes of the routing.

    Args:
        coefficient: its share of the loss.
        routing: "all" modules together, "layerwise", one after the other, or "subset", some at random at each position.
        sampling: of the random sources, "continuous" or "binomial"; see `sources`.
        adversary: how adversarial sources are found; None: they are random.
        start: sources that an adversary begins with.
        remainder: whether remainders have sources as components of importance 0 have; otherwise they are left out.
    """

    coefficient: float = 1.0
    routing: Routing = "all"
    sampling: Sampling = "continuous"
    adversary: Ascent | None = None
    start: Start = "random"
    remainder: bool = True

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)
        check_routing(self.routing)
        check_sampling(self.sampling)
        if self.adversary is not None and not isinstance(self.adversary, Ascent):
            raise InputError(f"an adversary is an al.spd.Ascent(steps, step_size); got {self.adversary!r}")
        if self.start not in STARTS:
            raise InputError(f"start is one of {', '.join(STARTS)}; got {self.start!r}")
        if not isinstance(self.remainder, bool):
            raise InputError(f"remainder is True, sources of its own, or False, left out; got {self.remainder!r}")

    @property
    def name(self) -> str:
        """What it is called in the history of a training."""
        return f"{'stochastic' if self.adversary is None else 'adversarial'}_{self.routing}"


Loss = Faithfulness | Minimality | Reconstruction
STANDARD: tuple[Loss, ...] = (Minimality(), Reconstruction(routing="all"), Reconstruction(routing="layerwise"))
"""The losses of the toy models of goodfire-ai/spd."""
