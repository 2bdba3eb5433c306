"""Tiny runs of the command line: what their fixtures are, which live in `tiny_runs_fixtures`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import ablationlens as al
from tests import models

WORDS = ["[UNK]", *(f"w{number}" for number in range(models.VOCAB - 1))]
TEXTS = ["w1 w2 w3 w4 w5", "w6 w7 w8 w9 w1", "w2 w2 w4 w4 w6"]


class WriteConfig(Protocol):
    """Write a configuration of a small run, with some fields changed, or left out (None)."""

    def __call__(self, **fields: Any) -> Path: ...


class Command(Protocol):
    """Call the command line: exit code, output stream, error stream."""

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


class Refused(Protocol):
    """Call it with wrong input: the one line that it is refused with."""

    def __call__(self, *arguments: str | Path) -> str: ...


def environment() -> dict[str, str]:
    """Of a process that finds the library where this one does, and computes with one thread as the tests do."""
    source = str(Path(al.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
