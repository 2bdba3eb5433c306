"""What methods return: labelled arrays with the registry that they belong to and a record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ablationlens.errors import InputError, StoreError
from ablationlens.registry import Registry

FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Attribution:
    """How much each component matters for each example, in the units of the output.

    A weight is the effect of *keeping* a component: positive means that it raises the output. A prediction is
    ``bias + mask @ weights``.

    Attributes:
        method: name of the method, for tables and figures.
        weights: ``[example, component]``, with coordinates component (its name), layer, module, kind, index, example.
        bias: ``[example]``: what is predicted when everything is ablated.
        registry: the components, in the order of the weights.
        provenance: how it was made: JSON-able.
        unidentified: components that the draws could not tell apart from others, or never varied.
    """

    method: str
    weights: xr.DataArray
    bias: xr.DataArray
    registry: Registry
    provenance: dict[str, Any] = field(default_factory=dict)
    unidentified: Bool[np.ndarray, " component"] | None = None

    def __repr__(self) -> str:
        examples, components = self.weights.shape
        return f"Attribution({self.method}: {examples:,} examples x {components:,} components)"

    @property
    def components(self) -> tuple[str, ...]:
        return self.registry.names

    def predict(self, masks: Any) -> Float[np.ndarray, "draw example"]:
        """Predicted outputs: bias + masks @ weights.

        A weight that could not be measured (its output was not finite) counts as 0.

        Args:
            masks: [draw, component], or one mask [component]; arrays or tensors.

        Raises:
            InputError: if the masks have another width.
        """
        array = np.atleast_2d(np.asarray(masks, dtype=np.float64))
        if array.ndim != 2 or array.shape[1] != len(self.registry):
            raise InputError(f"masks have shape [draw, {len(self.registry)}]; got {list(array.shape)}")
        return array @ np.nan_to_num(self.weights.values).T + self.bias.values[None, :]

    def table(self) -> pd.DataFrame:
        """Components from the largest mean effect to the smallest: component, layer, module, kind, weight, spread.

        The weight is the mean over examples, the spread the standard deviation over examples.
        """
        frame = self.registry.frame().drop(columns="index")
        with np.errstate(invalid="ignore"):
            frame["weight"] = np.nanmean(self.weights.values, axis=0)
            frame["spread"] = np.nanstd(self.weights.values, axis=0)
        order = np.argsort(-np.abs(frame["weight"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file; nothing in it is ever unpickled."""
        target = Path(path)
        header = {
            "format": str(FORMAT_VERSION),
            "method": self.method,
            "registry": self.registry.to_json(),
            "provenance": json.dumps(self.provenance),
            "examples": json.dumps([str(name) for name in self.weights["example"].values]),
        }
        arrays = {"weights": np.ascontiguousarray(self.weights.values), "bias": np.ascontiguousarray(self.bias.values)}
        if self.unidentified is not None:
            arrays["unidentified"] = self.unidentified.astype(np.uint8)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        save_file(arrays, partial, metadata=header)
        partial.replace(target)
        return target

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Attribution:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is not one of ours or damaged.
        """
        target = Path(path)
        if not target.is_file():
            raise StoreError(f"there is no attribution at {target}; write one with attribution.save('{target}')")
        try:
            with safe_open(target, framework="numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            registry = Registry.from_json(header["registry"])
            flags = arrays.get("unidentified")
            return attribution(
                header["method"],
                arrays["weights"],
                arrays["bias"],
                registry,
                json.loads(header["examples"]),
                provenance=json.loads(header["provenance"]),
                unidentified=None if flags is None else flags.astype(bool),
            )
        except (SafetensorError, KeyError, json.JSONDecodeError, InputError) as error:
            raise StoreError(f"{target} is not a saved attribution, or it is damaged ({error})") from error


def attribution(
    method: str,
    weights: Float[np.ndarray, "example component"],
    bias: Float[np.ndarray, " example"],
    registry: Registry,
    examples: Sequence[str],
    *,
    provenance: dict[str, Any],
    unidentified: Bool[np.ndarray, " component"] | None = None,
) -> Attribution:
    """Label arrays with the registry's coordinates.

    Raises:
        InputError: if shapes and registry do not fit.
    """
    if weights.shape != (len(examples), len(registry)) or bias.shape != (len(examples),):
        raise InputError(
            f"weights have shape [{len(examples)}, {len(registry)}] and bias [{len(examples)}]; "
            f"got {list(weights.shape)} and {list(bias.shape)}"
        )
    frame = registry.frame()
    coordinates = {column: ("component", frame[column].to_numpy()) for column in ("layer", "module", "kind", "index")}
    labelled = xr.DataArray(
        weights,
        dims=("example", "component"),
        coords={"example": list(examples), "component": frame["component"].to_numpy(), **coordinates},
        name="weight",
    )
    return Attribution(
        method,
        labelled,
        xr.DataArray(bias, dims=("example",), coords={"example": list(examples)}, name="bias"),
        registry,
        provenance,
        unidentified,
    )
