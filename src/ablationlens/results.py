"""What methods return: labelled arrays with the registry that they belong to and a record of how they were made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays
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
        errors: standard errors of the weights, in their shape, for methods that know them.
    """

    method: str
    weights: xr.DataArray
    bias: xr.DataArray
    registry: Registry
    provenance: dict[str, Any] = field(default_factory=dict)
    unidentified: Bool[np.ndarray, " component"] | None = None
    errors: xr.DataArray | None = None

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
        if isinstance(masks, Tensor):
            masks = masks.detach().cpu().double().numpy()
        try:
            array = np.atleast_2d(np.asarray(masks, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"masks are numbers [draw, {len(self.registry)}]; got {type(masks).__name__}") from error
        if array.ndim != 2 or array.shape[1] != len(self.registry):
            raise InputError(f"masks have shape [draw, {len(self.registry)}]; got {list(array.shape)}")
        return array @ np.nan_to_num(self.weights.values).T + self.bias.values[None, :]

    def table(self) -> pd.DataFrame:
        """Components from the largest mean effect to the smallest: component, layer, module, kind, weight, spread.

        The weight is the mean over examples, the spread the standard deviation over examples. Methods that know their
        standard errors add a column: the error of the mean.
        """
        frame = self.registry.frame().drop(columns="index")
        with warnings.catch_warnings():  # a component without a finite weight has neither mean nor spread
            warnings.simplefilter("ignore", RuntimeWarning)
            frame["weight"] = np.nanmean(self.weights.values, axis=0)
            frame["spread"] = np.nanstd(self.weights.values, axis=0)
            if self.errors is not None:
                squares = self.errors.values**2
                frame["error"] = np.sqrt(np.nansum(squares, axis=0)) / np.isfinite(squares).sum(axis=0)
        order = np.argsort(-np.abs(frame["weight"].to_numpy()), kind="stable")
        return frame.iloc[order].reset_index(drop=True)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file; nothing in it is ever unpickled."""
        header = {
            "format": FORMAT_VERSION,
            "method": self.method,
            "registry": self.registry.to_json(),
            "provenance": self.provenance,
            "examples": [str(name) for name in self.weights["example"].values],
        }
        arrays = {"weights": self.weights.values, "bias": self.bias.values}
        if self.unidentified is not None:
            arrays["unidentified"] = self.unidentified.astype(np.uint8)
        if self.errors is not None:
            arrays["errors"] = self.errors.values
        return save_arrays(path, arrays, header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Attribution:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is not one of ours or damaged.
        """
        arrays, header = load_arrays(path, "an attribution")
        try:
            if header["format"] != FORMAT_VERSION:
                raise StoreError(f"{path} has format {header['format']}; this version reads format {FORMAT_VERSION}")
            flags = arrays.get("unidentified")
            return attribution(
                header["method"],
                arrays["weights"],
                arrays["bias"],
                Registry.from_json(header["registry"], allow_absent=True),  # tables and figures need no basis
                header["examples"],
                provenance=header["provenance"],
                unidentified=None if flags is None else flags.astype(bool),
                errors=arrays.get("errors"),
            )
        except (KeyError, InputError) as error:
            raise StoreError(f"{path} does not hold an attribution ({error})") from error


def attribution(
    method: str,
    weights: Float[np.ndarray, "example component"],
    bias: Float[np.ndarray, " example"],
    registry: Registry,
    examples: Sequence[str],
    *,
    provenance: dict[str, Any],
    unidentified: Bool[np.ndarray, " component"] | None = None,
    errors: Float[np.ndarray, "example component"] | None = None,
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
        None if errors is None else labelled.copy(data=errors).rename("error"),
    )
