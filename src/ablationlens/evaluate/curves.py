"""Faithfulness: curves of outputs against the number of components, and the areas under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Integer
from scipy.integrate import trapezoid

from ablationlens.errors import StoreError
from ablationlens.evaluate.endpoints import gap
from ablationlens.evaluate.intervals import LEVELS, percentiles, shares
from ablationlens.evaluate.rankings import DELETION, DIRECTIONS, INSERTION
from ablationlens.files import load_arrays, save_arrays

AREAS = ("cpr", "cmd", "deletion")
"""Measures of `Faithfulness.table`: higher, lower, lower is better."""
ARRAYS = ("counts", "outputs", "random", "full", "empty")


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness:
    """Outputs with the most important components kept, or ablated, beside random orders.

    Attributes:
        methods: names of the attributions.
        counts: numbers of components that are kept (insertion) or ablated (deletion), from 0 to all.
        examples: names of the examples.
        outputs: [method, direction, count, example]; directions are insertion and deletion.
        random: [order, direction, count, example]: the same for random orders.
        full: output of each example with everything kept.
        empty: output of each example with every component of the registry ablated.
        provenance: how it was made, JSON-able.
    """

    methods: tuple[str, ...]
    counts: Integer[np.ndarray, " count"]
    examples: tuple[str, ...]
    outputs: Float64[np.ndarray, "method 2 count example"]
    random: Float64[np.ndarray, "order 2 count example"]
    full: Float64[np.ndarray, " example"]
    empty: Float64[np.ndarray, " example"]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.3f}".format)

    @property
    def fractions(self) -> Float64[np.ndarray, " count"]:
        """Counts as shares of all components, from 0 to 1."""
        return self.counts / self.counts[-1]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per method, direction, count and example: output and faithfulness.

        Faithfulness is that of the example by itself: NaN where f(all) - f(none) is no more than rounding.
        """
        with np.errstate(invalid="ignore", over="ignore"):
            each = (self.outputs - self.empty) / gap(self.full, self.empty)
        index = pd.MultiIndex.from_product(
            [self.methods, DIRECTIONS, self.counts.tolist(), self.examples],
            names=["method", "direction", "count", "example"],
        )
        values = {"output": self.outputs.ravel(), "faithfulness": each.ravel()}
        return pd.DataFrame(values, index=index).reset_index()

    def curves(self) -> pd.DataFrame:
        """One row per method, direction and count, of the mean output over examples.

        Columns: method, direction, count, fraction, faithfulness, low and high (its 95% bootstrap interval over
        examples, NaN for fewer than two), random_low, random and random_high (smallest, mean and largest of the random
        orders: one more order would lie above, or below, all of them with probability 1 / (1 + orders)).
        """
        tables: list[pd.DataFrame] = []
        for method, name in enumerate(self.methods):
            for direction, word in enumerate(DIRECTIONS):
                resampled = self._resampled(method, direction)
                low, high = _limits(resampled)
                chance = np.stack([self.pooled(one[direction]) for one in self.random])
                columns = {
                    "method": name,
                    "direction": word,
                    "count": self.counts,
                    "fraction": self.fractions,
                    "faithfulness": self.pooled(self.outputs[method, direction]),
                    "low": low,
                    "high": high,
                    "random_low": _over(np.min, chance),
                    "random": _over(np.mean, chance),
                    "random_high": _over(np.max, chance),
                }
                tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def table(self) -> pd.DataFrame:
        """One row per method and area.

        Columns: method, measure ("cpr", "cmd" or "deletion", see `faithfulness`), value, low and high (its 95%
        bootstrap interval over examples, NaN for fewer than two), random_low, random and random_high (smallest, mean
        and largest of the random orders), p (the share of orders as good as this one, counting itself: the level at
        which it is better than chance), left_out (examples with outputs that are not finite).
        """
        rows: list[dict[str, Any]] = []
        for method, name in enumerate(self.methods):
            for measure in AREAS:
                direction = DELETION if measure == "deletion" else INSERTION
                own = self.outputs[method, direction]
                value = float(area(self.pooled(own), self.fractions, measure))
                chance = np.array(
                    [float(area(self.pooled(one[direction]), self.fractions, measure)) for one in self.random]
                )
                low, high = percentiles(area(self._resampled(method, direction), self.fractions, measure))
                as_good = chance >= value if measure == "cpr" else chance <= value
                rows.append(
                    {
                        "method": name,
                        "measure": measure,
                        "value": value,
                        "low": low,
                        "high": high,
                        "random_low": _over(np.min, chance),
                        "random": _over(np.mean, chance),
                        "random_high": _over(np.max, chance),
                        "p": (1 + int(as_good.sum())) / (1 + int(np.isfinite(chance).sum()))
                        if np.isfinite(value)
                        else float("nan"),
                        "left_out": int((~self._counted(own)).sum()),
                    }
                )
        return pd.DataFrame(rows)

    def pooled(self, outputs: Float64[np.ndarray, "count example"]) -> Float64[np.ndarray, " count"]:
        """Faithfulness of the mean output over the examples whose outputs are all finite; NaN where there is no gap."""
        counted = self._counted(outputs)
        if not counted.any():
            return np.full(len(outputs), np.nan)
        full, empty = self.full[counted].mean(keepdims=True), self.empty[counted].mean(keepdims=True)
        return (outputs[:, counted].mean(axis=1) - empty) / gap(full, empty)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        header = {"methods": self.methods, "examples": self.examples, "provenance": self.provenance}
        return save_arrays(path, {name: getattr(self, name) for name in ARRAYS}, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Faithfulness:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        arrays, header = load_arrays(path, "faithfulness curves")
        try:
            return cls(
                methods=tuple(header["methods"]),
                examples=tuple(header["examples"]),
                provenance=header["provenance"],
                **{name: arrays[name] for name in ARRAYS},
            )
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} does not hold faithfulness curves ({error})") from error

    def _counted(self, outputs: Float64[np.ndarray, "count example"]) -> Bool[np.ndarray, " example"]:
        return np.isfinite(outputs).all(axis=0) & np.isfinite(self.full) & np.isfinite(self.empty)

    def _resampled(self, method: int, direction: int) -> Float64[np.ndarray, "resample count"]:
        """Pooled curves of bootstrap resamples of the examples; NaN for fewer than two examples."""
        outputs = self.outputs[method, direction]
        counted = self._counted(outputs)
        if counted.sum() < 2:
            return np.full((1, len(self.counts)), np.nan)
        weights = shares("bootstrap:faithfulness", int(counted.sum()))  # the same resamples for all methods
        full, empty = weights @ self.full[counted], weights @ self.empty[counted]
        return (weights @ outputs[:, counted].T - empty[:, None]) / gap(full, empty)[:, None]


def area(
    faithfulness: Float64[np.ndarray, "*curve count"], fractions: Float64[np.ndarray, " count"], measure: str
) -> Float64[np.ndarray, "*curve"]:
    """Area under curves of faithfulness, or for "cmd" between them and 1, by trapezoids in the share of components."""
    heights = np.abs(1 - faithfulness) if measure == "cmd" else faithfulness
    return np.asarray(trapezoid(heights, fractions, axis=-1))


def _limits(resampled: Float64[np.ndarray, "resample count"]) -> tuple[np.ndarray, np.ndarray]:
    """The 95% interval at each count, of the resamples in which it is defined."""
    defined = resampled[np.isfinite(resampled).all(axis=1)]
    if not len(defined):
        return np.full(resampled.shape[1], np.nan), np.full(resampled.shape[1], np.nan)
    low, high = np.percentile(defined, LEVELS, axis=0)
    return low, high


def _over(function: Any, values: Float64[np.ndarray, " order *count"]) -> Any:
    """A function of the random orders that are defined everywhere; NaN if none is."""
    defined = values[np.isfinite(values.reshape(len(values), -1)).all(axis=1)]
    return function(defined, axis=0) if len(defined) else np.full(values.shape[1:], np.nan)[()]
