"""The result of an ablation experiment: effects beside the gap of the baseline, patterns, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Float64

from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.means import over_examples, over_positions
from ablationlens.diagnostics.named import place_of
from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays

SHOWN = ("kl", "reverse_kl", "js", "top1_changed")
"""Measures of tables; those of the right class are there where it is known, in `AblationExperiment.values`."""
MEANS = "kl_of_means"
EVERYTHING = "all modules"
"""The gap of the baseline itself, among those of single modules."""
BY_ARM, BY_SAMPLE = ("mode", "ablation", "example", "position"), ("mode", "ablation", "sample", "example")
BY_MODULE = ("mode", "module", "sample", "example")
PATTERNS = ("mode", "ablation", "example", "layer", "head", "query", "key")


@dataclass(frozen=True, repr=False)
class AblationExperiment:
    """What ablations do to a model whose components are masked, in several modes.

    Effects are from a mode's baseline to the same with something ablated, by the same sources. The gap is from the
    target, the unmodified model, to the baseline.

    Attributes:
        values: [mode, ablation, example, position] of every measure of `al.drift`, and of ``kl_of_means``, the KL of
            the two predictions that are means over samples; all else is a mean over samples of measures. NaN at
            padding, and where a measure needs the right class and there is none. Coordinates: ``operation``
            [ablation], "ablate" or "free"; ``baseline`` and ``samples`` [mode].
        samples: [mode, ablation, sample, example] of the measures of `al.drift`, for each sample the mean over real
            positions; NaN beyond the samples of a mode.
        gaps: [mode, module, sample, example], as `samples`, from the target to the baseline: "all modules", and each
            module with its components masked and the others as they are.
        patterns: [mode, ablation, example, layer, head, query, key], attention patterns, first of "baseline"; of the
            first sample, or means over samples, as was asked. None where they were not wanted.
        traces: for each PGD mode, the losses of its ascent, [step, example]; of others of its ascents as
            "mode: ablation".
        provenance: how it was made, JSON-able.
    """

    values: xr.Dataset
    samples: xr.Dataset
    gaps: xr.Dataset
    patterns: xr.DataArray | None = None
    traces: Mapping[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        names = ["mode", "ablation", "kl", "kl_se", "js", "top1_changed", "gap_kl"]
        shown = pd.DataFrame(self.table()[names])
        return shown.to_string(index=False, float_format="{:.4g}".format)

    @property
    def modes(self) -> list[str]:
        """Names of the modes."""
        return [str(mode) for mode in self.values["mode"].values]

    @property
    def ablations(self) -> list[str]:
        """Names of what was ablated or freed."""
        return [str(one) for one in self.values["ablation"].values]

    def table(self) -> pd.DataFrame:
        """One row per mode and ablation.

        Columns: mode, baseline (what the model is before), ablation, operation; kl, reverse_kl, js in nats and
        top1_changed, a share: means over real positions, then examples, then samples, each with its standard error
        over samples (``kl_se``; None where there is one sample); ``kl_se_examples``, the standard error over examples
        (None for one); ``kl_of_means``; ``gap_kl``, ``gap_js`` and ``gap_top1_changed``, how far the baseline is from
        the target, with ``gap_kl_se``; samples and positions, how many there are.
        """
        rows: list[dict[str, Any]] = []
        gap = {(row["mode"], row["module"]): row for row in self.gap_table().to_dict("records")}
        for mode in self.modes:
            for ablation in self.ablations:
                at = self.samples.sel(mode=mode, ablation=ablation)
                row: dict[str, Any] = {
                    "mode": mode,
                    "baseline": str(self.values["baseline"].sel(mode=mode).item()),
                    "ablation": ablation,
                    "operation": str(self.values["operation"].sel(ablation=ablation).item()),
                }
                for name in SHOWN:
                    row[name], row[f"{name}_se"] = _over_samples(at[name].values)
                row["kl_se_examples"] = _over(over_samples(at["kl"].values))[1]
                row[MEANS] = self._of_means(mode, ablation)
                own = gap[mode, EVERYTHING]
                row |= {f"gap_{name}": own[name] for name in ("kl", "kl_se", "js", "top1_changed")}
                row["samples"] = int(self.values["samples"].sel(mode=mode).item())
                row["positions"] = int(self.provenance["data"]["positions"])
                rows.append(row)
        return _frame(rows)

    def gap_table(self) -> pd.DataFrame:
        """One row per mode and module: how far predictions are from the target's with its components masked.

        Columns: mode, baseline, module ("all modules" first), and the measures with their standard errors over samples
        (None where there is one sample).
        """
        rows: list[dict[str, Any]] = []
        for mode in self.modes:
            baseline = str(self.values["baseline"].sel(mode=mode).item())
            for module in self.gaps["module"].values:
                at = self.gaps.sel(mode=mode, module=module)
                row: dict[str, Any] = {"mode": mode, "baseline": baseline, "module": str(module)}
                for name in SHOWN:
                    row[name], row[f"{name}_se"] = _over_samples(at[name].values)
                rows.append(row)
        return _frame(rows)

    def pattern(self, mode: str, ablation: str) -> xr.DataArray:
        """Patterns before and after one ablation, for `plots.attention` and `al.attention_summary`.

        Returns:
            [mask, example, layer, head, query, key], where the masks are "baseline" and the ablation.

        Raises:
            InputError: if the experiment was made without patterns, or has no such mode or ablation.
        """
        shown = self._shown()
        modes, ablations = self.modes, self.ablations
        place, arm = place_of(mode, modes, "mode"), place_of(ablation, ablations, "ablation")
        return shown.isel(mode=place, ablation=[0, arm + 1], drop=True).rename(ablation="mask")

    def pattern_change(self) -> xr.DataArray:
        """How far each head's pattern is from the baseline's: total-variation distance, 0 to 1, a mean over queries.

        Returns:
            [mode, ablation, example, layer, head].

        Raises:
            InputError: if the experiment was made without patterns.
        """
        shown = self._shown()
        before, after = shown.isel(ablation=0, drop=True), shown.isel(ablation=slice(1, None))
        distance = abs(after - before).sum(dim="key", skipna=False) / 2
        return distance.mean("query", skipna=True).rename("pattern_change")

    def _shown(self) -> xr.DataArray:
        if self.patterns is None:
            raise InputError("this experiment has no patterns: al.spd.ablation_experiment(..., patterns='first')")
        return self.patterns

    def _of_means(self, mode: str, ablation: str) -> float:
        """Mean of `kl_of_means` over real positions and examples."""
        values = self.values[MEANS].sel(mode=mode, ablation=ablation).values
        return _over(over_positions(values, np.ones(values.shape, dtype=bool)))[0]

    # -- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        arrays: dict[str, np.ndarray] = {}
        for group, one in (("values", self.values), ("samples", self.samples), ("gaps", self.gaps)):
            arrays |= {f"{group}.{name}": one[name].values for name in one.data_vars}
        arrays |= {f"traces.{number}": trace for number, trace in enumerate(self.traces.values())}
        header: dict[str, Any] = {
            "modes": self.modes,
            "baselines": self.values["baseline"].values.tolist(),
            "counts": self.values["samples"].values.tolist(),
            "ablations": self.ablations,
            "operations": self.values["operation"].values.tolist(),
            "modules": self.gaps["module"].values.tolist(),
            "examples": self.values["example"].values.tolist(),
            "traces": list(self.traces),
            "provenance": self.provenance,
        }
        if self.patterns is not None:
            arrays["patterns"] = self.patterns.values
            header["patterns"] = {
                "layers": self.patterns["layer"].values.tolist(),
                "query_tokens": self.patterns["query_token"].values.tolist(),
                "key_tokens": self.patterns["key_token"].values.tolist(),
            }
        return save_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> AblationExperiment:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        arrays, header = load_arrays(path, "an ablation experiment")
        try:
            groups = [_group(arrays, name) for name in ("values", "samples", "gaps")]
            of_modes = list(zip(header["modes"], header["baselines"], header["counts"], strict=True))
            of_arms = list(zip(header["ablations"], header["operations"], strict=True))
            sets = labelled(groups[0], groups[1], groups[2], of_modes, of_arms, header["modules"], header["examples"])
            traces = {name: arrays[f"traces.{number}"] for number, name in enumerate(header["traces"])}
            int(header["provenance"]["data"]["positions"])  # which tables have
            patterns = None
            if "patterns" in arrays:
                shown = header["patterns"]
                tokens = [np.array(shown[name], dtype=str) for name in ("query_tokens", "key_tokens")]
                patterns = patterns_labelled(
                    arrays["patterns"],
                    header["modes"],
                    header["ablations"],
                    header["examples"],
                    shown["layers"],
                    *tokens,
                )
            return cls(*sets, patterns, traces, header["provenance"])
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise StoreError(f"{path} does not hold an ablation experiment ({error})") from error


def labelled(
    values: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    gaps: Mapping[str, np.ndarray],
    modes: list[tuple[str, str, int]],
    arms: list[tuple[str, str]],
    modules: list[str],
    examples: list[str],
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Values, samples and gaps with names on their axes.

    Args:
        values: by measure, [mode, ablation, example, position].
        samples: by measure, [mode, ablation, sample, example].
        gaps: by measure, [mode, module, sample, example].
        modes: name, baseline and number of samples of each.
        arms: name and operation of each.
        modules: names.
        examples: names.
    """
    of_modes: dict[str, Any] = {
        "mode": [name for name, _, _ in modes],
        "baseline": ("mode", [baseline for _, baseline, _ in modes]),
        "samples": ("mode", [count for _, _, count in modes]),
    }
    of_arms: dict[str, Any] = {
        "ablation": [name for name, _ in arms],
        "operation": ("ablation", [operation for _, operation in arms]),
    }
    shared = {**of_modes, "example": examples}
    return (
        xr.Dataset({name: (BY_ARM, one) for name, one in values.items()}, {**shared, **of_arms}),
        xr.Dataset({name: (BY_SAMPLE, one) for name, one in samples.items()}, {**shared, **of_arms}),
        xr.Dataset({name: (BY_MODULE, one) for name, one in gaps.items()}, {**shared, "module": modules}),
    )


def patterns_labelled(
    values: np.ndarray,
    modes: list[str],
    ablations: list[str],
    examples: list[str],
    layers: list[int],
    query_tokens: np.ndarray,
    key_tokens: np.ndarray,
) -> xr.DataArray:
    """Patterns with names on their axes; the first of the ablations is the baseline."""
    coordinates = {
        "mode": modes,
        "ablation": ["baseline", *ablations],
        "example": examples,
        "layer": layers,
        "head": np.arange(values.shape[4]),
        "query_token": (("example", "query"), query_tokens),
        "key_token": (("example", "key"), key_tokens),
    }
    return xr.DataArray(values, dims=PATTERNS, coords=coordinates, name="attention")


def _group(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one of the three sets, by measure."""
    measures = (*MEASURES, MEANS) if name == "values" else MEASURES
    return {one: arrays[f"{name}.{one}"] for one in measures}


def over_samples(values: Float[np.ndarray, "sample example"]) -> Float64[np.ndarray, " example"]:
    """Mean of each example over the samples that there are."""
    return over_examples(values.T)[0]


def _over_samples(values: np.ndarray) -> tuple[float, float | None]:
    """Mean of [sample, example], and its standard error over samples; None for one of them."""
    return _over(over_examples(values)[0])


def _over(values: Float[np.ndarray, " many"]) -> tuple[float, float | None]:
    """Mean of some numbers, and its standard error; None for one of them."""
    mean, error = over_examples(values[None])
    return float(mean[0]), _known(error[0])


def _known(error: Any) -> float | None:
    """A standard error, None where there is none."""
    return float(error) if np.isfinite(error) else None


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A table in which None stays None."""
    frame = pd.DataFrame(rows)
    for name in frame.columns:
        given = [row[name] for row in rows]
        if any(one is None for one in given):
            frame[name] = pd.Series(given, dtype=object)
    return frame
