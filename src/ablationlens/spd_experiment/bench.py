"""What all modes of an experiment share: the model, the examples, what is asked for, and the target's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias

from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.packing import choose, of_rows
from ablationlens.spd.decomposition import Decomposition, Where
from ablationlens.spd.forward import Gates
from ablationlens.spd.modes import Mode
from ablationlens.spd_experiment.asked import Arm, Asked
from ablationlens.spd_experiment.bases import Given
from ablationlens.spd_experiment.compared import nothing, predictions

Patterns: TypeAlias = Literal["first", "mean"]
"""Whose attention patterns are kept: those of a mode's first sample, or means over its samples."""


class Bench:
    """A model and its examples, ready for every mode.

    Attributes:
        rows: of one forward pass, which holds one draw: so all arms are passes of the same shape.
        target: predictions of the unmodified model.
        importances: of the components.
        modules: those whose gap is asked for.
    """

    def __init__(
        self,
        adapter: Adapter,
        decomposition: Decomposition,
        data: Batch,
        asked: Asked,
        positions: tuple[int, ...] | None,
        rows: int | None,
        patterns: Patterns | None,
        layers: Sequence[int] | SupportsIndex | None,
        gaps: str,
    ) -> None:
        self.adapter, self.data, self.asked, self.positions = adapter, data, asked, positions
        self.patterns, self.layers = patterns, layers
        self.arms, self.split = asked.arms, asked.split
        target = MaskedModel(adapter, self.split.registry, output=nothing)
        check_call(target, data)
        if positions is not None:
            target.mask(positions=positions, data=data)  # refuses those that there are not, before anything long begins
        chosen = choose(len(data), data.length, adapter.device, adapter.vocabulary)
        own = chosen if rows is None else of_rows(rows, len(data))
        self.rows = min(own.rows, len(data))
        self.target = predictions(target, data, self.rows)
        self.importances = decomposition.importances(adapter, data)
        self.modules: list[Where] = list(decomposition.places) if gaps == "modules" else []

    def model(self, gates: Mapping[Where, Gates], described: Mapping[str, Any], *, heads: bool = False) -> MaskedModel:
        """The model of the components, or of the heads, with gates."""
        registry = self.asked.heads if heads else self.split.registry
        assert registry is not None
        return MaskedModel(self.adapter, registry, output=nothing, base=Given(gates, self.split, described))

    def masks(self, model: MaskedModel, arms: Iterable[Arm], data: Batch | None = None) -> dict[str, Tensor]:
        """Masks of some arms, of all examples or of others."""
        return {arm.name: arm.mask(model, self.data if data is None else data, self.positions) for arm in arms}

    def kept(self, arm: Arm) -> dict[Where, Gates]:
        """What the gates of components are multiplied by, in the shape of importances."""
        mask = arm.mask(MaskedModel(self.adapter, self.split.registry, output=nothing), self.data, self.positions)
        axes = next(iter(self.importances.values())).ndim
        return self.split.by_module(mask[:, None] if mask.ndim < axes else mask)

    def cost(self, modes: Mapping[str, Mode]) -> str:
        """What the experiment costs, in words."""
        samples = sum(mode.samples for mode in modes.values())
        shown = {"first": len(modes), "mean": samples, None: 0}[self.patterns]
        again = sum(mode.samples for mode in modes.values() if mode.samples > 1)
        arms = len(self.arms) + 1
        passes = samples * (arms + len(self.modules) + 1) + (shown + again) * arms
        return (
            f"ablation experiment: {len(self.arms)} ablations in {len(modes)} modes, {samples} samples in all: about "
            f"{passes:,} forward passes of {len(self.data):,} examples, and what PGD takes"
        )
