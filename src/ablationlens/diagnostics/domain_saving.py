"""How a study of domains is kept: one safetensors file, nothing in which is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from ablationlens.errors import InputError, StoreError
from ablationlens.files import load_arrays, save_arrays
from ablationlens.registry import Registry
from ablationlens.results import Attribution
from ablationlens.results.by_component import attribution

FORMAT_VERSION = 1


def save(
    path: str | PathLike[str], found: Mapping[str, Attribution], held_out: pd.DataFrame | None, provenance: Any
) -> Path:
    """Write the attributions of domains, which share a registry.

    Raises:
        StoreError: if it cannot be written.
    """
    arrays = {}
    for i, one in enumerate(found.values()):
        arrays |= {f"{i}.weights": one.weights.values, f"{i}.bias": one.bias.values}
        if one.errors is not None:
            arrays[f"{i}.errors"] = one.errors.values
        if one.unidentified is not None:
            arrays[f"{i}.unidentified"] = one.unidentified.astype("uint8")
    header = {
        "format": FORMAT_VERSION,
        "registry": next(iter(found.values())).registry.to_json(),
        "domains": [
            [name, one.method, one.weights["example"].values.tolist(), one.provenance] for name, one in found.items()
        ],
        "held_out": None if held_out is None else held_out.to_dict("list"),
        "provenance": provenance,
    }
    return save_arrays(path, arrays, header)


def load(path: str | PathLike[str]) -> tuple[dict[str, Attribution], pd.DataFrame | None, dict[str, Any]]:
    """Read what `save` wrote.

    Raises:
        StoreError: if there is no such file, it is damaged, or it holds something else.
    """
    arrays, header = load_arrays(path, "a study of domains")
    try:
        if header["format"] != FORMAT_VERSION:
            raise StoreError(f"{path} has format {header['format']}; this version reads format {FORMAT_VERSION}")
        registry = Registry.from_json(header["registry"], allow_absent=True)  # tables and figures need no basis
        found: dict[str, Attribution] = {}
        for i, (name, method, examples, provenance) in enumerate(header["domains"]):
            flags = arrays.get(f"{i}.unidentified")
            found[name] = attribution(
                method,
                arrays[f"{i}.weights"],
                arrays[f"{i}.bias"],
                registry,
                examples,
                provenance=provenance,
                unidentified=None if flags is None else flags.astype(bool),
                errors=arrays.get(f"{i}.errors"),
            )
        held_out = None if header["held_out"] is None else pd.DataFrame(header["held_out"])
        return found, held_out, header["provenance"]
    except (KeyError, ValueError, TypeError, InputError) as error:
        raise StoreError(f"{path} does not hold a study of domains ({error})") from error
