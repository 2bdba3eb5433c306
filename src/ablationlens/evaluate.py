"""How well attributions predict ablations that they have not seen.

The measure is that of the COAR paper (arXiv 2404.11534): for each example, the correlation between the true outputs
under fresh random masks and what ``bias + mask @ weights`` predicts for them. Correlation is blind to scale, so R2 and
the slope stand beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64
from scipy import stats

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import Design, DesignName, LeaveOneOut, Random, random_design
from ablationlens.provenance import packages
from ablationlens.randomness import raw
from ablationlens.results import Attribution

log = logging.getLogger("ablationlens")

STREAM = "evaluate"
"""Held-out masks have a stream of random numbers of their own."""
BOOTSTRAPS = 2000
"""Resamples behind an interval."""
KEYS = ("method", "alpha", "example")
MEASURES = ("pearson", "spearman", "r2", "slope")
SCAN = 20
"""Draws looked at for each held-out mask wanted, before masks that were used for fitting are let in and counted."""


@dataclass(frozen=True)
class HeldOut(Design):
    """Draws of a random design that no attribution was fitted on.

    Attributes:
        source: the random design, on a stream of its own.
        chosen: its draws that are used.
        overlap: how many of them are masks of a fit, because the registry has too few others.
    """

    source: Random
    chosen: tuple[int, ...]
    overlap: int
    components: int = field(init=False)
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", self.source.components)
        object.__setattr__(self, "draws", len(self.chosen))

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        return self.source.mask(self.chosen[draw])

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "draws": self.draws, "overlap": self.overlap}


@dataclass(frozen=True)
class Scores:
    """Held-out correlation of one or several attributions.

    Attributes:
        frame: one row per method, alpha and example: pearson, spearman, r2, slope; NaN where undefined.
        true: alpha -> outputs [draw, example] under held-out masks.
        predicted: (method, alpha) -> predictions [draw, example].
        overlap: alpha -> held-out masks that a fit has seen, because there are too few others.
        draws: held-out masks for each alpha.
        provenance: how they were made, JSON-able.
    """

    frame: pd.DataFrame
    true: dict[float, Float[np.ndarray, "draw example"]]
    predicted: dict[tuple[str, float], Float[np.ndarray, "draw example"]]
    overlap: dict[float, int]
    draws: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.3f}".format)

    def table(self) -> pd.DataFrame:
        """One row per method and alpha.

        Columns: method, alpha, pearson (mean over examples), low and high (its 95% bootstrap interval), spearman, r2,
        slope (means over examples), undefined (examples whose true or predicted outputs do not vary).
        """
        rows: list[dict[str, Any]] = []
        for method, alpha in self.predicted:
            group = self.frame[(self.frame["method"] == method) & (self.frame["alpha"] == alpha)]
            values = np.asarray(group["pearson"], dtype=np.float64)
            low, high = self._interval(method, alpha, values)
            means = {name: _mean(np.asarray(group[name], dtype=np.float64)) for name in MEASURES}
            rows.append(
                {
                    "method": method,
                    "alpha": alpha,
                    "pearson": means["pearson"],
                    "low": low,
                    "high": high,
                    "spearman": means["spearman"],
                    "r2": means["r2"],
                    "slope": means["slope"],
                    "undefined": int(np.isnan(values).sum()),
                }
            )
        return pd.DataFrame(rows)

    def _interval(self, method: str, alpha: float, values: Float64[np.ndarray, " example"]) -> tuple[float, float]:
        """Bootstrap over examples; over draws where there is only one example."""
        defined = values[~np.isnan(values)]
        if len(defined) == 0:
            return float("nan"), float("nan")
        name = f"bootstrap:{method}:{alpha}"
        if len(defined) > 1:
            picks = _picks(name, len(defined))
            means = defined[picks].mean(axis=1)
        else:
            example = int(np.flatnonzero(~np.isnan(values))[0])
            true, predicted = self.true[alpha][:, example], self.predicted[method, alpha][:, example]
            ok = np.isfinite(true) & np.isfinite(predicted)
            picks = _picks(name, int(ok.sum()))
            means = np.array([pearson(true[ok][pick, None], predicted[ok][pick, None])[0] for pick in picks[:500]])
        low, high = np.nanpercentile(means, [2.5, 97.5])
        return float(low), float(high)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        keys = list(self.predicted)
        header = {
            "frame": [self.frame[name].tolist() for name in KEYS],
            "alphas": list(self.true),
            "predicted": keys,
            "overlap": list(self.overlap.items()),
            "draws": self.draws,
            "provenance": self.provenance,
        }
        arrays = {f"true.{i}": self.true[alpha] for i, alpha in enumerate(self.true)}
        arrays |= {f"frame.{name}": self.frame[name].to_numpy(np.float64) for name in MEASURES}
        arrays |= {f"predicted.{i}": self.predicted[key] for i, key in enumerate(keys)}
        return save_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Scores:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged.
        """
        arrays, header = load_arrays(path, "scores")
        try:
            columns = dict(zip(KEYS, header["frame"], strict=True))
            columns |= {name: arrays[f"frame.{name}"] for name in MEASURES}
            return cls(
                frame=pd.DataFrame(columns),
                true={alpha: arrays[f"true.{i}"] for i, alpha in enumerate(header["alphas"])},
                predicted={
                    (method, alpha): arrays[f"predicted.{i}"] for i, (method, alpha) in enumerate(header["predicted"])
                },
                overlap=dict(header["overlap"]),
                draws=header["draws"],
                provenance=header["provenance"],
            )
        except (KeyError, ValueError) as error:
            raise StoreError(f"{path} does not hold scores ({error})") from error


def evaluate(
    model: MaskedModel,
    data: Batch,
    attributions: Mapping[str, Attribution] | Attribution,
    *,
    alphas: Sequence[float] | np.ndarray | SupportsFloat = (0.05,),
    draws: int = 500,
    seed: int = 0,
    design: DesignName = "bernoulli",
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Scores:
    """Correlation of attributions with ablations that they were not fitted on, all on the same fresh masks.

    Args:
        model: the masked model.
        data: the examples that the attributions are of.
        attributions: one, or several by name.
        alphas: shares of components to ablate.
        draws: held-out masks for each alpha.
        seed: of the held-out masks, which have a stream of their own.
        design: how they are drawn.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if an attribution belongs to another registry or other data, or draws or alphas do not fit.
    """
    named = _named(attributions)
    _check(model, data, named, draws)
    shares = [float(alpha) for alpha in np.atleast_1d(np.asarray(alphas, dtype=np.float64))]
    if not shares:
        raise InputError("alphas are shares of components to ablate, at least one: alphas=[0.05]")
    sources = {alpha: random_design(design, len(model.registry), alpha, draws, seed, STREAM) for alpha in shares}
    held_out = {alpha: held_out_masks(source, named) for alpha, source in sources.items()}
    true: dict[float, np.ndarray] = {}
    predicted: dict[tuple[str, float], np.ndarray] = {}
    rows_of_frame: list[dict[str, Any]] = []
    provenance: dict[str, Any] = {}
    for alpha, masks in held_out.items():
        found = record(model, data, masks, label=f"held-out, alpha {alpha:g}", rows=rows, show_bar=show_bar)
        provenance = {**found.provenance, "masks": {**masks.describe(), "alpha": shares}, "packages": packages()}
        true[alpha] = found.outputs.astype(np.float64)
        for name, attribution in named.items():
            predicted[name, alpha] = attribution.predict(found.masks())
            columns = agreement(true[alpha], predicted[name, alpha])
            rows_of_frame += [
                {
                    "method": name,
                    "alpha": alpha,
                    "example": example,
                    **{key: values[i] for key, values in columns.items()},
                }
                for i, example in enumerate(data.names())
            ]
    overlap = {alpha: masks.overlap for alpha, masks in held_out.items()}
    for alpha, count in overlap.items():
        if count:
            log.warning(
                "alpha %g: %d of %d held-out masks were also used for fitting: too few others exist",
                alpha,
                count,
                draws,
            )
    return Scores(pd.DataFrame(rows_of_frame), true, predicted, overlap, draws, provenance)


def held_out_masks(source: Random, attributions: Mapping[str, Attribution]) -> HeldOut:
    """Draws of a design whose masks no attribution was fitted on, as far as there are enough."""
    seen: set[bytes] = set()
    for attribution in attributions.values():
        fitted = design_of(attribution)
        if fitted is not None:
            seen.update(row.tobytes() for row in np.packbits(fitted.masks(0, fitted.draws), axis=1))
    fresh: list[int] = []
    used: list[int] = []
    for draw in range(SCAN * source.draws):
        (used if np.packbits(source.mask(draw)).tobytes() in seen else fresh).append(draw)
        if len(fresh) == source.draws:
            break
    missing = source.draws - len(fresh)
    return HeldOut(source, tuple(sorted(fresh + used[:missing])), missing)


def design_of(attribution: Attribution) -> Design | None:
    """The masks that an attribution was fitted on, made again from its provenance; None if it does not say."""
    match attribution.provenance.get("masks"):
        case {"design": "leave_one_out"}:
            return LeaveOneOut(len(attribution.registry))
        case {
            "design": str(name),
            "alpha": float(alpha),
            "draws": int(draws),
            "seed": int(seed),
            "stream": str(stream),
        }:
            return random_design(name, len(attribution.registry), alpha, draws, seed, stream)
        case _:
            return None


def agreement(
    true: Float64[np.ndarray, "draw example"], predicted: Float64[np.ndarray, "draw example"]
) -> dict[str, Float64[np.ndarray, " example"]]:
    """Correlation, R2 and slope of each example; NaN where either side does not vary.

    R2 is that of the prediction itself, 1 - sum((true - predicted)^2) / sum((true - mean)^2), without refitting; the
    slope is that of the true outputs on the predictions, 1 if the scale is right. Outputs that are not finite are left
    out.
    """
    examples = true.shape[1]
    out = {name: np.full(examples, np.nan) for name in MEASURES}
    for example in range(examples):
        ok = np.isfinite(true[:, example]) & np.isfinite(predicted[:, example])
        y, p = true[ok, example], predicted[ok, example]
        if len(y) < 2 or _constant(y) or _constant(p):
            continue
        out["pearson"][example] = pearson(y[:, None], p[:, None])[0]
        out["spearman"][example] = pearson(stats.rankdata(y)[:, None], stats.rankdata(p)[:, None])[0]
        out["r2"][example] = 1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        out["slope"][example] = np.cov(y, p)[0, 1] / p.var(ddof=1)
    return out


def pearson(
    true: Float64[np.ndarray, "draw example"], predicted: Float64[np.ndarray, "draw example"]
) -> Float64[np.ndarray, " example"]:
    """Pearson correlation over draws, for each example."""
    a, b = true - true.mean(axis=0), predicted - predicted.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def _constant(values: Float64[np.ndarray, " draw"]) -> bool:
    """Whether values differ by no more than rounding."""
    return float(np.ptp(values)) <= 1e-7 * max(1.0, float(np.abs(values).max()))


def _mean(values: Float64[np.ndarray, " example"]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _picks(name: str, count: int) -> np.ndarray:
    """Bootstrap resamples [resample, item] that depend on the name alone."""
    return (raw(0, name, 0, BOOTSTRAPS * count) % count).reshape(BOOTSTRAPS, count)


def _named(attributions: Mapping[str, Attribution] | Attribution) -> dict[str, Attribution]:
    """Attributions by name; one alone goes by its method."""
    if isinstance(attributions, Attribution):
        return {attributions.method: attributions}
    named = dict(attributions) if isinstance(attributions, Mapping) else {}
    if not named or not all(isinstance(one, Attribution) for one in named.values()):
        raise InputError(
            "there is nothing to evaluate: give attributions by name, al.evaluate(model, data, {'COAR': coar, ...})"
        )
    return named


def _check(model: MaskedModel, data: Batch, named: Mapping[str, Attribution], draws: int) -> None:
    if draws < 3:
        raise InputError(f"a correlation needs at least 3 draws, better some hundreds; got {draws}")
    for name, attribution in named.items():
        if attribution.registry != model.registry:
            raise InputError(
                f"attribution '{name}' is of another registry ({len(attribution.registry)} components, the model has "
                f"{len(model.registry)}); evaluate it with the MaskedModel that made it"
            )
        if attribution.weights.shape[0] != len(data):
            raise InputError(
                f"attribution '{name}' is of {attribution.weights.shape[0]} examples, the data has {len(data)}; "
                "evaluate it on the examples that it was made for"
            )
        made_for = attribution.provenance.get("data", {}).get("fingerprint")
        if made_for is not None and made_for != data.fingerprint():
            raise InputError(
                f"attribution '{name}' is of other data: its weights belong to other inputs, labels or scored "
                "positions; evaluate it on the examples that it was made for"
            )
