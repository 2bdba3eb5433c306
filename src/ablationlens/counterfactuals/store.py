"""Store: outputs on disk, written block by block so that a run killed at any moment goes on where it was.

A store is a directory:

    run.json            what was run (compared before a resume), packing and threads, versions of packages
    blocks/000123.npz   outputs [draw, example] of one block of draws, float32, with the checksums of the zip format

Every file is written under another name and then renamed, so a file is whole or not there. Nothing is unpickled.
"""

from __future__ import annotations

import errno
import json
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ablationlens.errors import StoreError
from ablationlens.files import PARTIAL, open_atomically, write_atomically

FORMAT_VERSION = 1
RUN = "run.json"
BLOCKS = "blocks"


@dataclass(frozen=True)
class Settings:
    """What makes outputs bitwise repeatable: chosen by the first run, used again by those that resume it.

    Attributes:
        block: draws of one block.
        draws_per_pass: whole draws of one forward pass.
        examples_per_pass: examples of one forward pass.
        threads: threads of the computation.
    """

    block: int
    draws_per_pass: int
    examples_per_pass: int
    threads: int


class Store:
    """A run's outputs on disk.

    Args:
        path: the directory; made if it is not there.
        identity: everything that decides the outputs, JSON-able.
        settings: used if the store is new; a store that is there keeps its own.
        record: further facts to note, not compared.

    Raises:
        StoreError: if the directory belongs to another run or to something else, or cannot be read.
    """

    def __init__(
        self, path: str | Path, identity: dict[str, Any], settings: Settings, record: dict[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        if (self.path / RUN).is_file():
            known = read_run(self.path)
            _refuse_other(self.path, known["identity"], json.loads(json.dumps(identity)))
            self.record: dict[str, Any] = known["record"]
            self.settings = Settings(**known["settings"])
            self.resumed = True
        else:
            if self.path.is_dir() and any(
                left for left in self.path.rglob("*") if left.name not in (BLOCKS, RUN + PARTIAL)
            ):
                # (an empty blocks folder and a partial run.json are what a kill at the very start leaves)
                raise StoreError(f"{self.path} is not empty and holds no run; choose a new directory for the store")
            self.record = record or {}
            self.settings = settings
            self.resumed = False
            run = {
                "format": FORMAT_VERSION,
                "identity": identity,
                "settings": vars(settings),
                "record": self.record,
            }
            with self._writing():
                (self.path / BLOCKS).mkdir(parents=True, exist_ok=True)
                write_atomically(self.path / RUN, json.dumps(run, indent=1).encode())
        with self._writing():
            (self.path / BLOCKS).mkdir(exist_ok=True)
            for left_over in (self.path / BLOCKS).glob(f"*{PARTIAL}"):
                left_over.unlink()

    def repack(self, draws_per_pass: int, examples_per_pass: int) -> Settings:
        """Note another packing, for a run whose passes did not fit: the blocks that are left are computed with it."""
        self.settings = replace(self.settings, draws_per_pass=draws_per_pass, examples_per_pass=examples_per_pass)
        run = read_run(self.path)
        with self._writing():
            write_atomically(self.path / RUN, json.dumps({**run, "settings": vars(self.settings)}, indent=1).encode())
        return self.settings

    def block_path(self, block: int) -> Path:
        return self.path / BLOCKS / f"{block:06d}.npz"

    def read(self, block: int, draws: int, examples: int) -> Float32[np.ndarray, "draw example"] | None:
        """Outputs of a block, or None if it is not done, or was done for fewer draws.

        Raises:
            StoreError: if the file is damaged.
        """
        path = self.block_path(block)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                outputs = np.asarray(file["outputs"])
        except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
            raise StoreError(
                f"{path} is damaged ({error}); delete that file and run again: only its draws are computed anew"
            ) from error
        if outputs.dtype != np.float32 or outputs.ndim != 2 or outputs.shape[1] != examples:
            raise StoreError(
                f"{path} should hold float32 outputs [draw, {examples}]; it holds {outputs.dtype} "
                f"{list(outputs.shape)}; delete that file and run again"
            )
        return outputs[:draws] if len(outputs) >= draws else None

    def write(self, block: int, outputs: Float32[np.ndarray, "draw example"]) -> None:
        """Write the outputs of a block, whole or not at all.

        Raises:
            StoreError: if the disk is full or refuses; what was done is kept.
        """
        path = self.block_path(block)
        with self._writing(), open_atomically(path) as file:
            np.savez(file, outputs=outputs)

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                why, then = "the disk is full", "free some space"
            else:
                why = f"the store cannot be written ({error.strerror or error})"
                then = "make it writable (or choose another directory)"
            raise StoreError(
                f"{why}: {self.path}. What was done is kept; {then} and run the same call again to go on"
            ) from error


def read_run(path: Path) -> dict[str, Any]:
    """The run.json of a store.

    Raises:
        StoreError: if it cannot be read, or is of another format.
    """
    try:
        run = json.loads((path / RUN).read_text())
        if run["format"] != FORMAT_VERSION:
            raise StoreError(f"{path} has format {run['format']}; this version reads format {FORMAT_VERSION}")
        Settings(**run["settings"])
        if not isinstance(run["identity"], dict) or not isinstance(run["record"], dict):
            raise StoreError(f"{path / RUN} is not the record of a run; choose a new directory for the store")
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path / RUN} cannot be read ({type(error).__name__}: {error}); choose a new directory for the store"
        ) from error
    return run


def _refuse_other(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = list(_differences(stored, wanted))
    if differences:
        shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
        raise StoreError(f"the store {path} belongs to another run: {shown}. Choose another directory for this one")


def _differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*stored, *wanted]):
            yield from _differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    elif stored != wanted:
        yield f"{where} is {_short(stored)} in the store and {_short(wanted)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}...{text[-6:]}"
