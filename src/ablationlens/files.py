"""Files: written whole or not at all, arrays with a header of JSON, nothing ever unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ablationlens.errors import InputError, StoreError

PARTIAL = ".partial"
"""Ending of a file that is being written."""


@contextmanager
def open_atomically(path: Path) -> Generator[Any]:
    """Open a file for writing that appears under its name only when it is complete."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with open_atomically(path) as file:
        file.write(content)


def as_path(path: Any, example: str) -> Path:
    """The path of a file.

    Args:
        path: as the user gave it.
        example: of such a file, for the message.

    Raises:
        InputError: if it is none.
    """
    if not isinstance(path, str | PathLike) or not str(path):
        raise InputError(f"a path is that of a file, such as '{example}'; got {path!r:.60}")
    return Path(path)


def as_directory(path: Any, what: str, example: str) -> Path:
    """The path of a directory, which need not be there.

    Args:
        path: as the user gave it.
        what: it is for, such as "a store".
        example: of such a directory, for the message.

    Raises:
        InputError: if it is none.
    """
    if not isinstance(path, str | PathLike) or not str(path):
        raise InputError(f"{what} is a directory, by its path, such as '{example}'; got {path!r:.60}")
    return Path(path)


def save_arrays(path: str | PathLike[str], arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> Path:
    """Write arrays and a JSON-able header to one safetensors file; folders are made.

    Raises:
        InputError: if the path is none.
        StoreError: if the disk is full or refuses; a file that was there stays as it was.
    """
    target = as_path(path, "result.safetensors")
    text = {key: json.dumps(value, default=_plain) for key, value in header.items()}
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=text)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written ({error.strerror or error}); free some space or choose another path"
        ) from error
    return target


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's own, so that a setting of either kind can be written down."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to JSON")


def load_arrays(path: str | PathLike[str], what: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Args:
        path: the file.
        what: what it should hold, for messages: "an attribution".

    Raises:
        InputError: if the path is none.
        StoreError: if there is no such file, or it is damaged or something else.
    """
    target = as_path(path, "result.safetensors")
    if not target.is_file():
        raise StoreError(f"there is no file {target} to read {what} from; write one with .save('{target}')")
    try:
        with safe_open(target, framework="numpy") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (not a mapping)
    except (SafetensorError, ValueError, TypeError, OSError) as error:  # TypeError: a dtype that NumPy has not
        raise StoreError(f"{target} does not hold {what}, or it is damaged ({error}); make it again") from error
