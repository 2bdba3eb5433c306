"""How attributions are kept in files: one safetensors file each, nothing in which is ever unpickled."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays
from ablationlens.registry import Registry

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Saved:
    """What a file holds, before it is known to fit together."""

    method: str
    weights: np.ndarray
    bias: np.ndarray
    registry: Registry
    examples: list[str]
    provenance: dict[str, Any]
    unidentified: np.ndarray | None
    errors: np.ndarray | None


def write(
    path: str | PathLike[str],
    method: str,
    weights: xr.DataArray,
    bias: xr.DataArray,
    registry: Registry,
    provenance: dict[str, Any],
    *,
    unidentified: np.ndarray | None = None,
    errors: xr.DataArray | None = None,
) -> Path:
    """Write one file."""
    header = {
        "format": FORMAT_VERSION,
        "method": method,
        "registry": registry.to_json(),
        "provenance": provenance,
        "examples": [str(name) for name in weights["example"].values],
    }
    arrays = {"weights": weights.values, "bias": bias.values}
    if unidentified is not None:
        arrays["unidentified"] = unidentified.astype(np.uint8)
    if errors is not None:
        arrays["errors"] = errors.values
    return save_arrays(path, arrays, header)


@contextmanager
def opened(path: str | PathLike[str]) -> Generator[Saved]:
    """Read one file; what is found wrong while an attribution is made from it is the file's fault.

    Raises:
        StoreError: if there is no such file, or it is not one of ours or damaged.
    """
    arrays, header = load_arrays(path, "an attribution")
    try:
        if header["format"] != FORMAT_VERSION:
            raise StoreError(f"{path} has format {header['format']}; this version reads format {FORMAT_VERSION}")
        flags = arrays.get("unidentified")
        yield Saved(
            header["method"],
            arrays["weights"],
            arrays["bias"],
            Registry.from_json(header["registry"], allow_absent=True),  # tables and figures need no basis
            header["examples"],
            header["provenance"],
            None if flags is None else flags.astype(bool),
            arrays.get("errors"),
        )
    except (KeyError, InputError) as error:
        raise StoreError(f"{path} does not hold an attribution ({error})") from error
