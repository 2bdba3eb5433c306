"""Scores: what an evaluation found, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from ablationlens.errors import StoreError
from ablationlens.evaluate.agreement import MEASURES, mean, pearson
from ablationlens.evaluate.intervals import resamples
from ablationlens.files import load_arrays, save_arrays

KEYS = ("method", "alpha", "example")


@dataclass(frozen=True)
class Scores:
    """Held-out correlation of one or several attributions.

    Attributes:
        frame: one row per method, alpha and example: pearson, spearman, r2, slope; NaN where undefined.
        true: alpha -> outputs [draw, example] under held-out masks.
        predicted: (method, alpha) -> predictions [draw, example].
        overlap: alpha -> test masks that a fit has seen: 0, or where components are few, most of them.
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
            means = {name: mean(np.asarray(group[name], dtype=np.float64)) for name in MEASURES}
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
            picks = resamples(name, len(defined))
            means = defined[picks].mean(axis=1)
        else:
            example = int(np.flatnonzero(~np.isnan(values))[0])
            true, predicted = self.true[alpha][:, example], self.predicted[method, alpha][:, example]
            ok = np.isfinite(true) & np.isfinite(predicted)
            picks = resamples(name, int(ok.sum()))
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
