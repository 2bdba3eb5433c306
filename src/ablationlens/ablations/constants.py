"""Ablations that replace a part by the same value for every example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ablationlens.ablations.base import Ablation, check_batch, chunks, constant, feature_axis
from ablationlens.adapters.plan import Factored, Plan, Replacements
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.sites import Tap


@dataclass(frozen=True, repr=False)
class Zero(Ablation):
    """Zero ablation: the weights of the part are 0.

    A row keeps its bias, as in the COAR reference (arXiv 2404.11534), which zeroes weights and not biases; heads,
    columns and neurons are cut at an input and are 0 there.

    Args:
        include_bias: zero the bias of a row too, so that the output feature is 0.
    """

    include_bias: bool = False

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        values = {tap: self._origin(plan, tap) for tap in plan.taps}
        if self.include_bias:
            for step in plan.steps:
                if isinstance(step, Factored) and step.remainder is not None:
                    values[step.write_tap] = self._origin(plan, step.write_tap)
        return Replacements(values, per_example=False)

    def _origin(self, plan: Plan, tap: Tap) -> Tensor:
        adapter = plan.adapter
        module = adapter.layout.module(tap.layer, tap.module)
        axis = feature_axis(plan, tap)
        features = module.rows if tap.side == "out" else module.columns
        bias = adapter.bias(tap.layer, tap.module) if tap.side == "out" and not self.include_bias else None
        if bias is None:
            bias = torch.zeros(features, device=adapter.device, dtype=adapter.dtype)
        return constant(bias, axis, adapter.place(tap).axes - 2)

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
        sums: dict[Tap, Tensor] = {}
        counts: dict[Tap, Tensor] = {}
        for chunk in chunks(self.data):
            here = chunk.to(plan.adapter.device)
            for tap, values in plan.adapter.read(here, plan.taps).items():
                total, count = _total(values.double(), here.attended, feature_axis(plan, tap))
                sums[tap] = sums[tap] + total if tap in sums else total
                counts[tap] = counts[tap] + count if tap in counts else count
        dtype = plan.adapter.dtype
        means = {tap: self._mean(sums[tap], counts[tap], feature_axis(plan, tap)) for tap in plan.taps}
        return Replacements({tap: mean.to(dtype) for tap, mean in means.items()}, per_example=False)

    def _mean(self, total: Tensor, count: Tensor, axis: int) -> Tensor:
        """Mean from the sums and counts of [position, feature], [feature] or [channel, ...] entries."""
        feature = 0 if axis == 1 else total.ndim - 1
        pooled_axes = [other for other in range(total.ndim) if other != feature]
        counts = count.expand_as(total)
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


def _total(values: Tensor, attended: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    """Sum over examples, and how many examples each entry counts."""
    if axis == 1:
        return values.sum(0), torch.full((1,) * (values.ndim - 1), len(values), device=values.device)
    if values.ndim == 2:
        return values.sum(0), torch.tensor([len(values)], device=values.device)
    real = torch.ones(values.shape[:2], device=values.device, dtype=torch.bool)
    if attended is not None and attended.shape == real.shape:
        real = attended.to(values.device)
    real = real.reshape(*real.shape, *[1] * (values.ndim - 2))
    values = torch.where(real, values, 0.0)  # padding may hold anything, NaN included
    return values.sum(0), real.double().sum(0)
