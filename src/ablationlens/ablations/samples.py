"""Ablations that replace a part by a value of its own for each example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablationlens.ablations.base import Ablation, check_batch, read_examples, same_padding, same_shape, stream
from ablationlens.adapters.plan import Plan, Replacements
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.randomness import normal, raw


@dataclass(frozen=True, repr=False, eq=False)
class Counterfactual(Ablation):
    """Activations of a paired example, the counterfactual of activation patching.

    Example i of the data is ablated towards example i of `other`; make it with ``data.like(texts)``.

    Args:
        other: as many examples as the data, of the same length and padding.
    """

    other: Batch

    def __post_init__(self) -> None:
        check_batch(self.other, "a counterfactual")

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        if len(self.other) != len(data):
            raise InputError(
                f"a counterfactual pairs examples one by one: {len(data)} expected, got {len(self.other)}; "
                "make it with data.like(texts)"
            )
        same_shape(data, self.other, "a counterfactual")
        same_padding(data.attended, self.other.attended, "a counterfactual")
        same_padding(data.encoder_attended, self.other.encoder_attended, "a counterfactual")
        return Replacements(read_examples(plan, self.other), per_example=True)

    def describe(self) -> dict[str, Any]:
        return {"ablation": "Counterfactual", "other": self.other.fingerprint()}


@dataclass(frozen=True, repr=False, eq=False)
class Resample(Ablation):
    """Activations of another example, drawn at random for each example and site.

    Args:
        data: examples to draw from; by default the other examples of the data itself.
        seed: the donor depends on (seed, example, site) alone.
    """

    data: Batch | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data is not None:
            check_batch(self.data, "the data of a Resample")

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        donors = data if self.data is None else self.data
        same_shape(data, donors, "resampling")
        if self.data is None and len(data) < 2:
            raise InputError(
                "resampling from the data itself needs at least 2 examples; give others: al.Resample(batch)"
            )
        lines = donors.attended
        if lines is not None and not bool((lines == lines[0]).all()):
            raise InputError(
                "resampling needs examples without padding, or all padded alike; use texts of equal length"
            )
        if lines is not None and data.attended is not None:
            same_padding(data.attended, lines[:1].expand_as(data.attended), "resampling")
        activations = read_examples(plan, donors)
        values: dict[Any, Tensor] = {}
        for tap, activation in activations.items():
            index = [self._donor(stream("resample", tap), example, len(donors)) for example in range(len(data))]
            values[tap] = activation[torch.tensor(index, device=activation.device)]
        return Replacements(values, per_example=True)

    def _donor(self, name: str, example: int, donors: int) -> int:
        word = int(raw(self.seed, name, example, 1)[0])
        if self.data is not None:
            return word % donors
        return (example + 1 + word % (donors - 1)) % donors  # any example but this one

    def describe(self) -> dict[str, Any]:
        own = None if self.data is None else self.data.fingerprint()
        return {"ablation": "Resample", "data": own, "seed": self.seed}


@dataclass(frozen=True, repr=False)
class GaussianNoise(Ablation):
    """The part's own activation plus Gaussian noise, as in causal tracing.

    The activation is that of the unmodified model, recorded when the data is bound.

    Args:
        sigma: standard deviation of the noise, in units of the activation, or of its own standard deviation over
            the data if `relative`.
        seed: the noise depends on (seed, example, site) alone.
        relative: see `sigma`.

    Raises:
        InputError: if sigma is negative or not finite.
    """

    sigma: float
    seed: int = 0
    relative: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < float("inf"):
            raise InputError(f"sigma is a standard deviation, 0 or more; got {self.sigma}")

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        values: dict[Any, Tensor] = {}
        for tap, activation in read_examples(plan, data).items():
            scale = self.sigma * float(activation.float().std()) if self.relative else self.sigma
            noise = [
                normal(self.seed, stream("noise", tap), example, tuple(activation.shape[1:]))
                for example in range(len(data))
            ]
            stacked = torch.stack([torch.from_numpy(one) for one in noise])
            values[tap] = activation + scale * stacked.to(activation)
        return Replacements(values, per_example=True)

    def describe(self) -> dict[str, Any]:
        return {"ablation": "GaussianNoise", "sigma": self.sigma, "seed": self.seed, "relative": self.relative}
