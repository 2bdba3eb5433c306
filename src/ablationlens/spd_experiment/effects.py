"""The effects of all ablations in one mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.drift import drift
from ablationlens.diagnostics.means import over_positions
from ablationlens.diagnostics.patterns import attention_patterns
from ablationlens.masked_model import MaskedModel
from ablationlens.outputs.base import wide
from ablationlens.spd.decomposition import Where
from ablationlens.spd.forward import Gates
from ablationlens.spd.modes import Mode
from ablationlens.spd.pgd import PGD
from ablationlens.spd.sources import multiplied
from ablationlens.spd_experiment.asked import Arm
from ablationlens.spd_experiment.bases import taken
from ablationlens.spd_experiment.bench import Bench
from ablationlens.spd_experiment.compared import compared, kl_of, predictions


class Effects:
    """The effects in one mode.

    Args:
        bench: what all modes share.
        name: of the mode.
        mode: its gates are found here, for all samples.
        reoptimise: whether PGD goes on after each ablation.
    """

    def __init__(self, bench: Bench, name: str, mode: Mode, *, reoptimise: bool) -> None:
        self.bench, self.name, self.mode = bench, name, mode
        self.described = mode.describe()
        self.traces: dict[str, np.ndarray] = {}
        self.reoptimised: list[str] = []
        self.sources = [self._sources(sample) for sample in range(mode.samples)]
        self.gates = [mode.gates_with(bench.importances, self._wide(sources)) for sources in self.sources]
        self.other: dict[str, list[dict[Where, Gates]]] = {}
        """Gates of arms that are not the baseline's with some at 0: what is freed, or optimised again."""
        for arm in bench.arms:
            again = reoptimise and isinstance(mode, PGD) and arm.whole and arm.columns
            if arm.operation == "free" and arm.columns:
                self.other[arm.name] = self._freed(arm)
            elif again:
                self.other[arm.name] = [self._ablated_again(arm)]
                self.reoptimised.append(arm.name)
        examples, positions = bench.target.places.real.shape
        arms, groups = len(bench.arms), 1 + len(bench.modules)
        self.values = np.zeros((len(MEASURES), arms, examples, positions))
        self.samples = np.full((len(MEASURES), arms, mode.samples, examples), np.nan)
        self.gaps = np.full((len(MEASURES), groups, mode.samples, examples), np.nan)
        self.means = np.full((arms, examples, positions), np.nan, dtype=np.float32)
        self.patterns: xr.DataArray | None = None

    # -- gates ----------------------------------------------------------------------------------------------------

    def _sources(self, sample: int) -> Mapping[Where, Tensor]:
        """Sources of one sample; those of PGD with the trace of their ascent."""
        bench = self.bench
        if not isinstance(self.mode, PGD):
            return self.mode.sources(bench.adapter, bench.data, bench.importances, sample)
        found = self.mode.search(bench.adapter, bench.data, bench.importances)
        self.traces[self.name] = found.trace.numpy()
        return found.sources

    def _wide(self, sources: Mapping[Where, Tensor]) -> dict[Where, Tensor]:
        """Sources of every row, also where examples share them."""
        return {where: one.expand(*self.bench.importances[where].shape[:-1], -1) for where, one in sources.items()}

    def _freed(self, arm: Arm) -> list[dict[Where, Gates]]:
        """Gates with the importance of some components at 0, for each sample."""
        kept = self.bench.kept(arm)
        importances = {where: one * kept[where].parts for where, one in self.bench.importances.items()}
        if not isinstance(self.mode, PGD):
            return [self.mode.gates_with(importances, sources) for sources in self.sources]
        begin: dict[Where, Tensor] = {}
        for where, source in self.sources[0].items():  # what is freed begins at the gate that it had
            stay, had = kept[where].parts, self.gates[0][where].parts
            parts = source[..., :-1] * stay + had * (1 - stay)
            begin[where] = torch.cat([parts, source[..., -1:]], dim=-1)
        moving = {where: _moving(kept[where].parts) for where in begin}  # all other sources are those of the baseline
        return [self._searched(arm, importances, begin, moving=moving)]

    def _ablated_again(self, arm: Arm) -> dict[Where, Gates]:
        """Gates of an ascent under the ablation, which begins with the baseline's sources."""
        kept = self.bench.kept(arm)
        return multiplied(self._searched(arm, self.bench.importances, self.sources[0], kept=kept), kept)

    def _searched(
        self,
        arm: Arm,
        importances: Mapping[Where, Tensor],
        begin: Mapping[Where, Tensor],
        *,
        moving: Mapping[Where, Tensor] | None = None,
        kept: Mapping[Where, Gates] | None = None,
    ) -> dict[Where, Gates]:
        assert isinstance(self.mode, PGD)
        bench = self.bench
        found = self.mode.search(bench.adapter, bench.data, importances, begin=begin, moving=moving, kept=kept)
        self.traces[f"{self.name}: {arm.name}"] = found.trace.numpy()
        return self.mode.gates_with(importances, self._wide(found.sources))

    # -- measures -------------------------------------------------------------------------------------------------

    def measure(self, sample: int) -> None:
        """Effects and gap of one sample, and its patterns if they are wanted."""
        bench = self.bench
        real = bench.target.places.real.numpy()
        found = self._effects(sample)
        for number, arm in enumerate(bench.arms):
            self.values[:, number] += found[arm.name]
            self.samples[:, number, sample] = over_positions(found[arm.name], real)
        for number, gates in enumerate(self._gated(sample)):
            values = compared(bench.target, bench.model(gates, self.described), bench.data, bench.rows)
            self.gaps[:, number, sample] = over_positions(values, real)
        if bench.patterns == "mean" or (bench.patterns == "first" and sample == 0):
            shown = self._patterns(sample)
            self.patterns = shown if self.patterns is None else self.patterns + shown

    def _models(self, gates: Mapping[Where, Gates]) -> list[tuple[MaskedModel, list[Arm]]]:
        """The models of components and of heads, with the arms that are masks of each; only those that are needed."""
        shared = [arm for arm in self.bench.arms if arm.name not in self.other]
        by_parts, by_heads = [one for one in shared if not one.heads], [one for one in shared if one.heads]
        found = [(self.bench.model(gates, self.described), by_parts)] if by_parts or self.other else []
        return found + ([(self.bench.model(gates, self.described, heads=True), by_heads)] if by_heads else [])

    def _effects(self, sample: int) -> dict[str, np.ndarray]:
        """Of each arm the measures, [measure, example, position]."""
        bench, found = self.bench, dict[str, np.ndarray]()
        models = self._models(self.gates[sample])
        for model, arms in models:
            if arms:
                drifted = drift(model, bench.data, bench.masks(model, arms), rows=bench.rows, show_bar=False).values
                for arm in arms:
                    at = drifted.sel(mask=arm.name)
                    found[arm.name] = np.stack([at[name].values for name in MEASURES])
        if self.other:
            before = predictions(models[0][0], bench.data, bench.rows)
            for name, gates in self.other.items():
                after = bench.model(gates[sample], self.described)
                found[name] = compared(before, after, bench.data, bench.rows)
        return found

    def _gated(self, sample: int) -> Iterable[dict[Where, Gates]]:
        """Gates of the baseline, and of each module alone with the others whole."""
        gates = self.gates[sample]
        yield gates
        for where in self.bench.modules:
            yield {
                at: own if at == where else Gates(torch.ones_like(own.parts), torch.ones_like(own.remainder))
                for at, own in gates.items()
            }

    def _patterns(self, sample: int) -> xr.DataArray:
        """Patterns of the baseline, then of every arm: [ablation, example, ...]."""
        bench = self.bench
        found: dict[str, xr.DataArray] = {}
        for model, arms in self._models(self.gates[sample]):
            masks = {} if found else {"": None}
            shown = attention_patterns(
                model,
                bench.data,
                {**masks, **bench.masks(model, arms)},
                layers=bench.layers,
                rows=bench.rows,
                show_bar=False,
            )
            found |= {str(name): shown.sel(mask=name, drop=True) for name in shown["mask"].values}
        for name, gates in self.other.items():
            model = bench.model(gates[sample], self.described)
            found[name] = attention_patterns(model, bench.data, layers=bench.layers, rows=bench.rows, show_bar=False)
        return xr.concat([found[name] for name in ("", *(arm.name for arm in bench.arms))], dim="ablation")

    def finish(self) -> None:
        """Means over samples."""
        self.values /= self.mode.samples
        if self.patterns is not None and self.bench.patterns == "mean":
            self.patterns = self.patterns / self.mode.samples
        self.means[:] = self.values[MEASURES.index("kl")] if self.mode.samples == 1 else self._kl_of_means()

    def _kl_of_means(self) -> np.ndarray:
        """KL of predictions that are means over samples: [ablation, example, position], a few examples at a time."""
        bench = self.bench
        found = np.full(self.means.shape, np.nan, dtype=np.float32)
        real = bench.target.places.real.numpy()
        for index in torch.arange(len(bench.data)).split(bench.rows):
            data = bench.data.take(index)
            own = slice(int(index[0]), int(index[-1]) + 1)
            models = [self._models(taken(gates, index)) for gates in self.gates]
            before = _mean_prediction([(one[0][0], one[0][0].mask()) for one in models], data)
            for number, arm in enumerate(bench.arms):
                if arm.name in self.other:
                    others = [bench.model(taken(gates, index), self.described) for gates in self.other[arm.name]]
                    pairs = [(one, one.mask()) for one in others]
                else:
                    chosen = [next(model for model, arms in one if arm in arms) for one in models]
                    mask = bench.masks(chosen[0], [arm], data)[arm.name]
                    pairs = [(model, mask) for model in chosen]
                found[number, own] = kl_of(before, _mean_prediction(pairs, data))
        found[:, ~real] = np.nan
        return found


def _moving(kept: Tensor) -> Tensor:
    """Sources that an ascent may change: of what is freed, and of no remainder."""
    return torch.cat([kept == 0, torch.zeros_like(kept[..., :1], dtype=torch.bool)], dim=-1)


def _mean_prediction(pairs: Sequence[tuple[MaskedModel, Tensor]], data: Batch) -> Tensor:
    """Mean of the probabilities that several models give, each under its mask."""
    total: Tensor | None = None
    with torch.no_grad():
        for model, mask in pairs:
            found = wide(model.logits(mask, data)).softmax(-1)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total / len(pairs)
