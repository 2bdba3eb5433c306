"""What every study returns: the values of each example, a table of them with intervals, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd

from ablationlens.errors import StoreError
from ablationlens.evaluate.frames import load_frames, save_frames

AnyStudy = TypeVar("AnyStudy", bound="Study")


@dataclass(frozen=True, repr=False)
class Study:
    """What a study found.

    Attributes:
        frame: tidy: one row per setting and example.
        summary: one row per setting, with 95% bootstrap intervals over examples (over draws for a single example).
        provenance: how it was made, JSON-able; ``cost`` holds its forward rows, a gradient counted as 3.
    """

    frame: pd.DataFrame
    summary: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    home: ClassVar[str] = "al.studies"

    def __repr__(self) -> str:
        return self.summary.to_string(index=False, float_format="{:.3f}".format)

    def table(self) -> pd.DataFrame:
        """One row per setting; its columns are described by the function that made the study."""
        return self.summary.copy()

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file.

        Raises:
            StoreError: if it cannot be written.
        """
        header = {"study": type(self).__name__, "provenance": self.provenance}
        return save_frames(path, {"frame": self.frame, "summary": self.summary}, header)

    @classmethod
    def load(cls: type[AnyStudy], path: str | PathLike[str]) -> AnyStudy:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, it is damaged, or it holds something else.
        """
        frames, header = load_frames(path, "a study")
        try:
            held, found = header["study"], cls(frames["frame"], frames["summary"], header["provenance"])
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} does not hold a study ({error})") from error
        if held != cls.__name__:
            raise StoreError(f"{path} holds another study: {_called(held)}.load({str(path)!r})")
        return found


def _called(name: str) -> str:
    """What a user calls the study of this name."""
    known = {one.__name__: one.home for one in Study.__subclasses__()}
    return f"{known.get(name, Study.home)}.{name}"
