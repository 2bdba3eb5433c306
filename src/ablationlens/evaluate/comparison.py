"""Comparison: what `compare` found, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablationlens.errors import InputError, StoreError
from ablationlens.evaluate.agreement import mean
from ablationlens.evaluate.frames import load_frames, save_frames
from ablationlens.evaluate.intervals import interval_of_mean

KEYS = ("a", "b", "example")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Agreement of attributions, pair by pair.

    Attributes:
        frame: one row per pair and example: a, b, example, then one column per measure. Rows with a = b are a method
            and its second seed.
        methods: names, in the order in which they were given.
        tops: sizes of the top.
        components: how many weights were compared.
        provenance: what was compared, JSON-able; ``differ`` names settings that are not the same for all.
    """

    frame: pd.DataFrame
    methods: tuple[str, ...]
    tops: tuple[int, ...]
    components: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        text = self.matrix("spearman").to_string(float_format="{:.3f}".format, na_rep="-")
        return f"Spearman's rank correlation (diagonal: the same method, another seed)\n{text}"

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the columns of `frame` that hold measures."""
        return ("spearman", "pearson", "cosine", *(f"top_{k}{end}" for k in self.tops for end in ("", "_signed")))

    def table(self, measure: str | None = None) -> pd.DataFrame:
        """One row per pair and measure.

        Columns: a, b, measure, mean (over examples), low and high (its 95% bootstrap interval over examples, NaN for a
        single example), ceiling_a and ceiling_b (agreement of each with its own second seed; NaN where none was given:
        1 for methods without randomness), chance (what unrelated weights would have), undefined (examples in which one
        of the two does not vary). Rows with a = b are a method and its second seed.

        Args:
            measure: only this one.

        Raises:
            InputError: for a measure that there is not.
        """
        measures = self.measures if measure is None else (self._known(measure),)
        rows: list[dict[str, Any]] = []
        for name in measures:
            ceilings = {a: self._mean(a, a, name) for a in self.methods}
            for a, b in self._pairs():
                values = self._values(a, b, name)
                low, high = interval_of_mean(f"bootstrap:{a}:{b}", values)
                rows.append(
                    {
                        "a": a,
                        "b": b,
                        "measure": name,
                        "mean": mean(values),
                        "low": low,
                        "high": high,
                        "ceiling_a": ceilings[a],
                        "ceiling_b": ceilings[b],
                        "chance": self._chance(name),
                        "undefined": int(np.isnan(values).sum()),
                    }
                )
        return pd.DataFrame(rows)

    def matrix(self, measure: str = "spearman") -> pd.DataFrame:
        """Mean of one measure over examples, methods down and across.

        The diagonal is the ceiling: the method and its second seed; NaN where none was given.

        Raises:
            InputError: for a measure that there is not.
        """
        self._known(measure)
        size = len(self.methods)
        values = np.full((size, size), np.nan)
        for i, a in enumerate(self.methods):
            for j, b in enumerate(self.methods):
                values[i, j] = self._mean(a, b, measure) if i <= j else values[j, i]
        return pd.DataFrame(values, index=list(self.methods), columns=list(self.methods))

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        header = {
            "methods": self.methods,
            "tops": self.tops,
            "components": self.components,
            "provenance": self.provenance,
        }
        return save_frames(path, {"comparison": self.frame}, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Comparison:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        frames, header = load_frames(path, "a comparison")
        try:
            frame, methods, tops = frames["comparison"], tuple(header["methods"]), tuple(header["tops"])
            return cls(frame, methods, tops, header["components"], header["provenance"])
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} does not hold a comparison ({error})") from error

    def _known(self, measure: str) -> str:
        if measure not in self.measures:
            raise InputError(f"no measure {measure!r}: use one of {', '.join(map(repr, self.measures))}")
        return measure

    def _pairs(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys(zip(self.frame["a"].astype(str), self.frame["b"].astype(str), strict=True)))

    def _values(self, a: str, b: str, measure: str) -> np.ndarray:
        rows = self.frame[(self.frame["a"] == a) & (self.frame["b"] == b)]
        return np.asarray(rows[measure], dtype=np.float64)

    def _mean(self, a: str, b: str, measure: str) -> float:
        return mean(self._values(a, b, measure))

    def _chance(self, measure: str) -> float:
        if measure.startswith("top_"):
            return int(measure.split("_")[1]) / self.components
        return math.nan if measure == "cosine" else 0.0
