"""What both kinds of attribution do with arrays: label them, read masks, and sum up examples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float64, Shaped
from torch import Tensor

from ablationlens.errors import InputError
from ablationlens.registry import Registry


def labelled(
    weights: Shaped[np.ndarray, " example *cell"], registry: Registry, examples: Sequence[str], dims: tuple[str, ...]
) -> xr.DataArray:
    """Weights with the registry's coordinates; positions are counted from 0."""
    frame = registry.frame()
    coordinates: dict[str, Any] = {
        column: ("component", frame[column].to_numpy()) for column in ("layer", "module", "kind", "index")
    }
    if "position" in dims:
        coordinates["position"] = np.arange(weights.shape[dims.index("position")])
    named = {"example": list(examples), "component": frame["component"].to_numpy()}
    return xr.DataArray(weights, dims=dims, coords={**named, **coordinates}, name="weight")


def labelled_bias(bias: Shaped[np.ndarray, " example"], examples: Sequence[str]) -> xr.DataArray:
    return xr.DataArray(bias, dims=("example",), coords={"example": list(examples)}, name="bias")


def numbers(masks: Any, shape: str) -> np.ndarray:
    """Masks as an array, whether they were an array, a tensor or nested lists.

    Args:
        masks: what the user gave.
        shape: the shape that is expected, for the message.

    Raises:
        InputError: if they are no numbers.
    """
    if isinstance(masks, Tensor):
        masks = masks.detach().cpu().double().numpy()
    try:
        return np.asarray(masks, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"masks are numbers {shape}; got {type(masks).__name__}") from error


def over_examples(
    weights: Shaped[np.ndarray, " example *cell"], errors: Shaped[np.ndarray, " example *cell"] | None
) -> dict[str, Float64[np.ndarray, " flat"]]:
    """Mean and standard deviation over examples, and the standard error of the mean where errors are known."""
    with warnings.catch_warnings():  # a component without a finite weight has neither mean nor spread
        warnings.simplefilter("ignore", RuntimeWarning)
        found = {"weight": np.nanmean(weights, axis=0), "spread": np.nanstd(weights, axis=0)}
        if errors is not None:
            squares = errors**2
            found["error"] = np.sqrt(np.nansum(squares, axis=0)) / np.isfinite(squares).sum(axis=0)
    return {name: values.ravel().astype(np.float64) for name, values in found.items()}


def strongest_first(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows from the largest mean effect to the smallest."""
    order = np.argsort(-np.abs(frame["weight"].to_numpy()), kind="stable")
    return frame.iloc[order].reset_index(drop=True)
