"""Attention patterns of one example, kept from a sweep: clean, and without single parts of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float16

from ablationlens.errors import InputError


@dataclass(frozen=True)
class KeptPatterns:
    """The patterns of one example that change the most without single parts.

    A cell is a head of a layer without a part. Values are float16, which is within 0.0003 of what attention gave.

    Attributes:
        example: its name.
        queries: its real tokens as queries, as text where the data has a tokenizer.
        keys: the same as keys.
        cells: one row per cell, the largest change first: part, layer, head, change, which is the mean over queries of
            the total-variation distance to the clean pattern, in this example.
        clean: clean patterns of the heads in `heads`.
        heads: (layer, head) of each of them.
        without: the pattern of each cell.
        dropped: cells that change too, by less than any of these, and were too many to keep. A cell that is not here
            does not change where none was dropped.
    """

    example: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    cells: pd.DataFrame
    clean: Float16[np.ndarray, "kept_head query key"]
    heads: tuple[tuple[int, int], ...]
    without: Float16[np.ndarray, "cell query key"]
    dropped: int

    def __repr__(self) -> str:
        return f"KeptPatterns({len(self.cells):,} cells of {self.example!r}, {self.dropped:,} dropped)"

    def pair(self, row: int) -> tuple[Float16[np.ndarray, "query key"], Float16[np.ndarray, "query key"]]:
        """Clean pattern and pattern without the part, of a row of `cells`."""
        layer, head = (int(self.cells[name].iloc[row]) for name in ("layer", "head"))
        return self.clean[self.heads.index((layer, head))], self.without[row]

    def pattern(
        self, part: str | None = None, *, layer: SupportsIndex | None = None, head: SupportsIndex | None = None
    ) -> xr.DataArray:
        """One cell, as `attention_patterns` returns patterns: of two masks, one example, one layer and one head.

        Args:
            part: which part is ablated, by its name. Of what is left out, that with the largest change.
            layer: of the head.
            head: in its layer.

        Returns:
            [mask, example, layer, head, query, key], float32, with masks "clean" and "without L0.head 3".

        Raises:
            InputError: if the cell is not kept, which says whether it changes.
        """
        place = self._row(part, layer, head)
        row = self.cells.iloc[place]
        both = np.stack(self.pair(place)).astype(np.float32)
        return xr.DataArray(
            both[:, None, None, None],
            dims=("mask", "example", "layer", "head", "query", "key"),
            coords={
                "mask": ["clean", f"without {row['part']}"],
                "example": [self.example],
                "layer": [int(row["layer"])],
                "head": [int(row["head"])],
                "query_token": (("example", "query"), [list(self.queries)]),
                "key_token": (("example", "key"), [list(self.keys)]),
            },
            name="attention",
        )

    def _row(self, part: str | None, layer: SupportsIndex | None, head: SupportsIndex | None) -> int:
        """The first row of `cells` that is asked for."""
        cells = self.cells
        found = np.ones(len(cells), dtype=bool)
        for name, value in (("part", part), ("layer", layer), ("head", head)):
            if value is not None:
                found &= (cells[name] == value).to_numpy()
        if not found.any():
            raise InputError(self._missing(part, layer, head))
        return int(found.argmax())

    def _missing(self, part: str | None, layer: SupportsIndex | None, head: SupportsIndex | None) -> str:
        named = [word for word, value in ((f"L{layer}", layer), (f"head {head}", head)) if value is not None]
        what = f"the pattern of {'.'.join(named)}" if named else "no pattern"
        where = f"without {part} in {self.example!r}" if part is not None else f"in {self.example!r}"
        if not self.dropped:
            return f"{what} {'does not change' if named else 'changes'} {where}: table.kept.cells has all that do"
        return (
            f"{what} {'is not' if named else 'is'} kept {where}, only the {len(self.cells):,} that change the most "
            f"(table.kept.cells). al.attention_patterns(model, data, {part or 'L0.head 3'!r}) reads any"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs beside `header`."""
        columns = {f"kept_{name}": self.cells[name].to_numpy() for name in ("layer", "head", "change")}
        heads = np.array(self.heads, dtype=np.int64).reshape(-1, 2)
        return {**columns, "kept_clean": self.clean, "kept_without": self.without, "kept_heads": heads}

    def header(self) -> dict[str, Any]:
        """What is no array, JSON-able."""
        return {
            "example": self.example,
            "queries": list(self.queries),
            "keys": list(self.keys),
            "parts": self.cells["part"].tolist(),
            "dropped": self.dropped,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> KeptPatterns:
        """What `arrays` and `header` describe.

        Raises:
            KeyError, ValueError: if something is missing, or does not fit.
        """
        columns = {name: arrays[f"kept_{name}"] for name in ("layer", "head", "change")}
        cells = pd.DataFrame({"part": header["parts"], **columns})
        heads = tuple((int(layer), int(head)) for layer, head in arrays["kept_heads"])
        for what, count, patterns in (("cells", len(cells), "kept_without"), ("heads", len(heads), "kept_clean")):
            if len(arrays[patterns]) != count:
                raise ValueError(f"{count} {what} and {len(arrays[patterns])} patterns of them")
        return cls(
            header["example"],
            tuple(header["queries"]),
            tuple(header["keys"]),
            cells,
            arrays["kept_clean"],
            heads,
            arrays["kept_without"],
            int(header["dropped"]),
        )
