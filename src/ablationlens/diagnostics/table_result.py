"""One row per part of a model: what ablating it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Int, Shaped

from ablationlens.data.checks import is_integer
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.diagnostics.kept_patterns import KeptPatterns
from ablationlens.diagnostics.means import over_examples
from ablationlens.diagnostics.named import place_of
from ablationlens.diagnostics.pattern_change import ROUNDING
from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays

VALUES = (*MEASURES, "effect")


@dataclass(frozen=True, repr=False)
class AblationTable:
    """What ablating each part alone changes.

    Attributes:
        parts: one row per part: part, the coordinates that it is made by, components (how many).
        layers: the first layer of each part.
        values: [part, example]: the measures of `drift`, means over positions, and effect, f(all) - f(ablated).
        patterns: [part, layer, head]: mean total-variation distance between the attention pattern under ablation and
            the clean one, from 0 to 1; NaN where a layer has fewer heads. None if patterns were not read.
        provenance: how it was made, JSON-able.
        kept: the attention patterns of one example without single parts, those that change the most; None if none were
            kept. See `pattern` and `al.plots.pattern_without`.
    """

    parts: pd.DataFrame
    layers: Int[np.ndarray, " part"]
    values: xr.Dataset
    patterns: xr.DataArray | None
    provenance: dict[str, Any] = field(default_factory=dict)
    kept: KeptPatterns | None = None

    def __repr__(self) -> str:
        return self.frame.to_string(index=False, float_format="{:.4g}".format)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per part.

        Columns: part, its coordinates, components; kl, reverse_kl, js, top1_changed, log_probability_change,
        rank_change and effect, means over examples, each with its standard error over examples (``kl_se``; NaN with one
        example); if patterns were read, pattern, the largest change of a head in the part's first layer or a later one,
        and pattern_at, which one: NaN and "" where nothing later has a pattern.
        """
        columns: dict[str, Any] = {name: self.parts[name] for name in self.parts.columns}
        for name in VALUES:
            columns[name], columns[f"{name}_se"] = over_examples(self.values[name].values)
        if self.patterns is not None:
            columns["pattern"], columns["pattern_at"] = zip(*map(self._largest, range(len(self.parts))), strict=True)
        return pd.DataFrame(columns)

    def table(self) -> pd.DataFrame:
        """The same as `frame`, as other results have it."""
        return self.frame

    def _largest(self, part: int) -> tuple[float, str]:
        """The largest change of a pattern that the part can reach, and of which head."""
        assert self.patterns is not None
        layers = self.patterns["layer"].values
        own, values = layers[:, None] == self.layers[part], self.patterns.values[part]
        # what a head finds comes after its pattern, so in its own layer there is nothing; queries and keys are before
        here = bool((np.nan_to_num(values) * own > ROUNDING).any())
        changes = np.where((layers[:, None] > self.layers[part]) | (own & here), values, np.nan)
        if np.isnan(changes).all():
            return float("nan"), ""
        layer, head = np.unravel_index(np.nanargmax(changes), changes.shape)
        return float(changes[layer, head]), f"L{layers[layer]}.head {head}"

    def pattern(
        self,
        part: SupportsIndex | str | None = None,
        *,
        layer: SupportsIndex | None = None,
        head: SupportsIndex | None = None,
    ) -> xr.DataArray:
        """The attention pattern of a head without a part, beside the clean one; of the example that was kept.

        Args:
            part: by name or place. Of what is left out, that which changes the most.
            layer: of the head.
            head: in its layer.

        Returns:
            [mask, example, layer, head, query, key], float32, as `attention_patterns` returns patterns: masks "clean"
            and "without L0.head 3", and one example, layer and head.

        Raises:
            InputError: if no patterns were kept, there is no such part, layer or head, or this pattern is not kept: it
                does not change, or less than those that are; the message says which.
        """
        if self.kept is None or self.patterns is None:
            raise InputError(
                "this table has kept no patterns: al.ablation_table(model, data, patterns=True, example=0)"
            )
        name = (
            None if part is None else str(self.parts["part"].iloc[place_of(part, self.parts["part"].tolist(), "part")])
        )
        for axis, value in (("layer", layer), ("head", head)):
            known = self.patterns[axis].values.tolist()
            if value is not None and not (is_integer(value) and value in known):
                raise InputError(f"no {axis} {value!r}: this table has {', '.join(map(str, known))}")
        return self.kept.pattern(name, layer=layer, head=head)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file."""
        arrays = {name: self.values[name].values for name in VALUES} | {"layers": self.layers}
        if self.patterns is not None:
            arrays |= {"patterns": self.patterns.values, "pattern_layers": self.patterns["layer"].values}
        header = {
            "parts": {str(name): self.parts[name].tolist() for name in self.parts.columns},
            "examples": self.values["example"].values.tolist(),
            "provenance": self.provenance,
        }
        if self.kept is not None:
            arrays |= self.kept.arrays()
            header["kept"] = self.kept.header()
        return save_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> AblationTable:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        arrays, header = load_arrays(path, "an ablation table")
        try:
            parts = pd.DataFrame(header["parts"])
            names = parts["part"].tolist()
            values = value_set([arrays[name] for name in VALUES], names, header["examples"])
            patterns = None
            if "patterns" in arrays:
                patterns = pattern_array(arrays["patterns"], names, arrays["pattern_layers"].tolist())
            kept = KeptPatterns.from_arrays(arrays, header["kept"]) if "kept" in header else None
            return cls(parts, arrays["layers"], values, patterns, header["provenance"], kept)
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(f"{path} does not hold an ablation table ({error})") from error


def value_set(
    values: Sequence[Shaped[np.ndarray, "part example"]], parts: Sequence[str], examples: Sequence[str]
) -> xr.Dataset:
    """Values [part, example] with names on their axes."""
    variables = {name: (("part", "example"), array) for name, array in zip(VALUES, values, strict=True)}
    return xr.Dataset(variables, coords={"part": list(parts), "example": list(examples)})


def pattern_array(
    change: Shaped[np.ndarray, "part layer head"], parts: Sequence[str], layers: Sequence[int]
) -> xr.DataArray:
    """Pattern changes with names on their axes."""
    coordinates = {"part": list(parts), "layer": list(layers), "head": np.arange(change.shape[2])}
    return xr.DataArray(change, dims=("part", "layer", "head"), coords=coordinates, name="pattern change")
