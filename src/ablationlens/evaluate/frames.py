"""Results that are a table with a record of how it was made, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablationlens.errors import StoreError
from ablationlens.files import load_arrays, save_arrays


def save_frames(path: str | PathLike[str], frames: Mapping[str, pd.DataFrame], header: Mapping[str, Any]) -> Path:
    """Write tables of numbers and words, and a JSON-able header, to one safetensors file.

    Raises:
        StoreError: if it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    columns: dict[str, list[list[Any]]] = {}
    for name, frame in frames.items():
        columns[name] = []
        for column in frame.columns:
            values = frame[column].to_numpy()
            if values.dtype.kind in "fiu":
                arrays[f"{name}.{column}"] = values
                columns[name].append([str(column), None])
            else:
                columns[name].append([str(column), [str(value) for value in values]])
    return save_arrays(path, arrays, {"columns": columns, "header": dict(header)})


def load_frames(path: str | PathLike[str], what: str) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read what `save_frames` wrote.

    Args:
        path: the file.
        what: what it should hold, for messages: "a comparison".

    Raises:
        StoreError: if there is no such file, or it is damaged or something else.
    """
    arrays, header = load_arrays(path, what)
    try:
        frames = {
            name: pd.DataFrame(
                {column: arrays[f"{name}.{column}"] if words is None else words for column, words in columns}
            )
            for name, columns in header["columns"].items()
        }
        return frames, header["header"]
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{path} does not hold {what} ({error})") from error
