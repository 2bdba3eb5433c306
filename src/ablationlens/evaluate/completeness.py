"""Completeness: whether the weights of an attribution add up to what all components together do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablationlens.data import Batch
from ablationlens.errors import StoreError
from ablationlens.evaluate.agreement import mean
from ablationlens.evaluate.checks import check_belong, named
from ablationlens.evaluate.endpoints import endpoints, gap
from ablationlens.evaluate.frames import load_frames, save_frames
from ablationlens.evaluate.intervals import interval_of_mean, percentiles, shares
from ablationlens.masked_model import MaskedModel
from ablationlens.results import Attribution


@dataclass(frozen=True, repr=False)
class Completeness:
    """How far attributions are from adding up.

    Attributes:
        frame: one row per method and example: change = f(all) - f(none), weights (their sum), gap = |weights - change|,
            relative = gap / |change| (NaN where the change is no more than rounding), empty = f(none), bias, bias_gap =
            |bias - empty|.
        provenance: how it was made, JSON-able.
    """

    frame: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.4g}".format)

    def table(self) -> pd.DataFrame:
        """One row per method.

        Columns: method, gap (mean over examples), low and high (its 95% bootstrap interval, NaN for fewer than two
        examples), relative (mean gap over mean |change|: the mean of ratios would be ruled by examples whose change
        happens to be small), relative_low and relative_high (its interval), bias_gap (mean), undefined (examples
        without a finite gap).
        """
        rows: list[dict[str, Any]] = []
        for method in dict.fromkeys(self.frame["method"].astype(str)):
            own = self.frame[self.frame["method"] == method]
            gaps, changes, ratios, biases = (
                np.abs(np.asarray(own[name], dtype=np.float64)) for name in ("gap", "change", "relative", "bias_gap")
            )
            finite = np.isfinite(gaps) & np.isfinite(changes)
            low, high = interval_of_mean("bootstrap:completeness", gaps[finite])
            rated = finite & np.isfinite(ratios).any()  # where every change is rounding there is no ratio
            relative, relative_low, relative_high = _ratio(gaps[rated], changes[rated])
            rows.append(
                {
                    "method": method,
                    "gap": mean(gaps[finite]),
                    "low": low,
                    "high": high,
                    "relative": relative,
                    "relative_low": relative_low,
                    "relative_high": relative_high,
                    "bias_gap": mean(biases[np.isfinite(biases)]),
                    "undefined": int((~finite).sum()),
                }
            )
        return pd.DataFrame(rows)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        return save_frames(path, {"completeness": self.frame}, {"provenance": self.provenance})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Completeness:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        frames, header = load_frames(path, "completeness gaps")
        try:
            return cls(frames["completeness"], header["provenance"])
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} does not hold completeness gaps ({error})") from error


def completeness(
    model: MaskedModel,
    data: Batch,
    attributions: Mapping[str, Attribution] | Attribution,
    *,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Completeness:
    """The completeness gap |sum of weights - (f(all) - f(none))| of each example.

    f(none) is the output with every component of the registry ablated. Shapley values and integrated gradients are
    complete by construction; leave-one-out, gradients at one point and COAR are not, and a large gap is no fault of
    COAR: it is fitted where a few components are ablated, and f(none) is far from there. What the gap says is how far
    the weights may be read as shares of a whole. The bias of an attribution is what it predicts for f(none), so it is
    compared with that too.

    It costs two forward passes of every example, whatever the number of attributions.

    Args:
        model: the masked model.
        data: the examples that the attributions are of.
        attributions: one, or several by name.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Gaps in units of the output, and relative to |f(all) - f(none)|. A weight that is not finite counts as 0, as in
        `Attribution.predict`; an example without any finite weight has no gap.

    Raises:
        InputError: if an attribution belongs to another registry or other data.
    """
    found = named(attributions, "al.completeness(model, data, {'COAR': coar, ...})")
    check_belong(model, data, found)
    full, empty, provenance = endpoints(model, data, label="completeness", rows=rows, show_bar=show_bar)
    tables: list[pd.DataFrame] = []
    with np.errstate(invalid="ignore"):
        for name, attribution in found.items():
            weights, bias = attribution.weights.values.astype(np.float64), attribution.bias.values.astype(np.float64)
            known = np.isfinite(weights)
            total = np.where(known.any(axis=1), np.where(known, weights, 0.0).sum(axis=1), np.nan)
            gaps = np.abs(total - (full - empty))
            columns = {
                "method": name,
                "example": list(data.names()),
                "change": full - empty,
                "weights": total,
                "gap": gaps,
                "relative": gaps / np.abs(gap(full, empty)),
                "empty": empty,
                "bias": bias,
                "bias_gap": np.abs(bias - empty),
            }
            tables.append(pd.DataFrame(columns))
    return Completeness(pd.concat(tables, ignore_index=True), provenance)


def _ratio(gaps: np.ndarray, changes: np.ndarray) -> tuple[float, float, float]:
    """Mean gap over mean |change|, and its interval."""
    if not len(gaps):
        return float("nan"), float("nan"), float("nan")
    value = float(gaps.mean() / changes.mean())
    if len(gaps) < 2:
        return value, float("nan"), float("nan")
    picks = shares("bootstrap:completeness", len(gaps))
    below = picks @ changes
    ratios = np.where(below > 0, picks @ gaps / np.where(below > 0, below, 1.0), np.nan)
    return (value, *percentiles(ratios))
