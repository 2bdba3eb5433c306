"""Ablations that replace a part by the same value for every example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ablationlens.ablations.base import Ablation, check_batch, chunks
from ablationlens.adapters.base import Place
from ablationlens.adapters.plan import Plan, Replacements
from ablationlens.adapters.steps import Factored
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.layout import reads_encoder
from ablationlens.sites import Tap


@dataclass(frozen=True, repr=False)
class Zero(Ablation):
    """Zero ablation: the weights of the part are 0.

    A row keeps its bias, as in the COAR reference (arXiv 2404.11534), which zeroes weights and not biases; heads,
    columns and neurons are cut at an input and are 0 there. Sites of the user's own have no weight, and are 0.

    Args:
        include_bias: zero the bias of a row too, so that the output feature is 0.
    """

    include_bias: bool = False

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        values = {tap: plan.origin(tap, include_bias=self.include_bias) for tap in plan.taps}
        if self.include_bias:
            for step in plan.steps:
                if isinstance(step, Factored) and step.remainder is not None:
                    values[step.write_tap] = plan.origin(step.write_tap, include_bias=True)
        return Replacements(values, per_example=False)

    def describe(self) -> dict[str, Any]:
        return {"ablation": "Zero", "include_bias": self.include_bias}


@dataclass(frozen=True, repr=False)
class Scale(Ablation):
    """Scale the part by gamma instead of removing it (arXiv 2404.11534, appendix E.2): gamma = 0 is `Zero`.

    Args:
        gamma: what is left of an ablated part, from 0 to 1.

    Raises:
        InputError: if gamma is not in [0, 1].
    """

    gamma: float

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma is the share of a part that an ablation leaves, from 0 to 1; got {self.gamma}")

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        return replace(Zero().bind(plan, data), strength=1 - self.gamma)

    def describe(self) -> dict[str, Any]:
        return {"ablation": "Scale", "gamma": self.gamma}


@dataclass(frozen=True, repr=False, eq=False)
class Mean(Ablation):
    """Mean ablation: the average activation over a reference data set, padding left out.

    Args:
        data: examples to average over.
        per_position: average each position by itself (the data to be ablated must then have the same length);
            by default positions are pooled.
    """

    data: Batch
    per_position: bool = False

    def __post_init__(self) -> None:
        check_batch(self.data, "the data of a Mean")

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        if self.per_position and data.length != self.data.length:
            raise InputError(
                f"a mean per position needs data of the same length: the means have {self.data.length} positions, "
                f"the data {data.length}. Pool the positions instead: al.Mean(data)"
            )
        held = {tap: plan.held(tap) for tap in plan.taps}
        sums: dict[Tap, Tensor] = {}
        counts: dict[Tap, Tensor] = {}
        dtypes: dict[Tap, torch.dtype] = {}
        for chunk in chunks(self.data):
            here = chunk.to(plan.adapter.device)
            for tap, values in plan.read(here).items():
                attended = here.encoder_attended if reads_encoder(tap.module) else here.attended
                total, count = _total(values.double(), attended, held[tap])
                sums[tap] = sums[tap] + total if tap in sums else total
                counts[tap] = counts[tap] + count if tap in counts else count
                dtypes[tap] = torch.promote_types(values.dtype, plan.adapter.dtype)  # codes may be finer than the model
        means = {tap: self._mean(sums[tap], counts[tap], held[tap]).to(dtypes[tap]) for tap in plan.taps}
        return Replacements(means, per_example=False)

    def _mean(self, total: Tensor, count: Tensor, held: Place) -> Tensor:
        """Mean from the sums and counts of entries without the example axis."""
        counts = count.expand_as(total)
        pooled_axes = [axis - 1 for axis in held.pooled]
        pooled = (
            total.sum(pooled_axes, keepdim=True) / counts.sum(pooled_axes, keepdim=True)
            if pooled_axes
            else total / count
        )
        if not self.per_position:
            return pooled
        return torch.where(counts > 0, total / counts.clamp(min=1), pooled)  # a position that is padding everywhere

    def describe(self) -> dict[str, Any]:
        return {"ablation": "Mean", "per_position": self.per_position, "data": self.data.fingerprint()}


def _total(values: Tensor, attended: Tensor | None, held: Place) -> tuple[Tensor, Tensor]:
    """Sum over examples, and how many examples each entry counts."""
    real = torch.ones([len(values), *[1] * (values.ndim - 1)], device=values.device, dtype=torch.bool)
    for axis in held.positions if held.positions is not None else _positions(held):
        if attended is not None and attended.shape == (len(values), values.shape[axis]):
            shape = [len(values), *[1] * (values.ndim - 1)]
            shape[axis] = values.shape[axis]
            real = real & attended.to(values.device).reshape(shape)
    values = torch.where(real, values, 0.0)  # padding may hold anything, NaN included
    return values.sum(0), real.double().sum(0)


def _positions(held: Place) -> tuple[int, ...]:
    """Axes of positions where nobody tried: that of [example, position, ..., feature]."""
    return (1,) if held.axes > 2 and held.axis_from_last == -1 else ()
