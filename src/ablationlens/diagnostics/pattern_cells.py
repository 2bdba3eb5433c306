"""Keep attention patterns of one example while parts are ablated: those that change the most, as memory allows.

It holds `NUMBERS` numbers of patterns without a part in float16, 32 MB, and up to twice as many while a sweep runs;
and the clean patterns of the heads among them, which cannot be more. One pattern is kept whatever its size.

They lie in one array. Kept one by one they would lie between the logits of the passes on the heap, which then finds
no room as large as the next logits: the peak rose by up to half a gigabyte, differently in each process.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.diagnostics.kept_patterns import KeptPatterns
from ablationlens.diagnostics.pattern_change import ROUNDING, PatternChange
from ablationlens.diagnostics.patterns import labels, positions
from ablationlens.errors import InputError
from ablationlens.sweep import Pass

NUMBERS = 2**24
"""Numbers of patterns that are kept: 16,384 patterns of 32 tokens, 256 of 256."""

_Cell = tuple[int, int, int]
"""Which part is ablated, and the place of the layer and the head looked at."""


class PatternCells:
    """The patterns of one example that change the most, collected pass by pass.

    Args:
        patterns: the clean ones.
        data: the examples.
        place: of the example.
        parts: how many will be ablated.
    """

    def __init__(self, patterns: PatternChange, data: Batch, place: int, parts: int) -> None:
        self.patterns = patterns
        self.place = place
        self.example = str(data.names()[place])
        shape = patterns.of(patterns.taps[0], place).shape[1:]
        attention = str(patterns.taps[0].attention)
        (self._rows, self.queries), (self._columns, self.keys) = (
            _real(data, attention, axis, place, count) for axis, count in zip("qk", shape, strict=True)
        )
        self.limit = max(NUMBERS // max(len(self.queries) * len(self.keys), 1), 1)
        every = parts * len(patterns.taps) * patterns.heads
        self._held = np.empty((min(2 * self.limit, every), len(self.queries), len(self.keys)), np.float16)
        self._free = list(range(len(self._held)))
        self._cells: dict[_Cell, tuple[float, int]] = {}  # how much it changes, and its row of what is held
        self._changes = np.zeros((parts, len(patterns.taps), patterns.heads), np.float32)
        self._least = ROUNDING

    def offer(self, one: Pass, change: Float[Tensor, "draw example layer head"]) -> None:
        """Keep what changes the most in a pass, which may come again in smaller ones.

        Args:
            one: the pass.
            change: what `PatternChange.measured` found in it.
        """
        if self.place not in one.examples:
            return
        own = self.place - one.examples.start
        changes = np.nan_to_num(change[:, own].numpy(), nan=0.0)
        self._changes[one.draws.start : one.draws.stop] = changes
        for layer, tap in enumerate(self.patterns.taps):
            draws, heads = np.nonzero(changes[:, layer] > self._least)
            if not len(draws):  # parts of later layers change nothing here
                continue
            most = np.argsort(-changes[draws, layer, heads], kind="stable")[: self.limit]
            draws, heads = draws[most], heads[most]
            found = self._cut(one.by_draw(one.seen[tap])[:, own], torch.from_numpy(draws), torch.from_numpy(heads))
            cells = [(one.draws[draw], layer, head) for draw, head in zip(draws.tolist(), heads.tolist(), strict=True)]
            self._hold(cells, changes[draws, layer, heads].tolist(), found)

    def _hold(self, cells: list[_Cell], changes: list[float], patterns: np.ndarray) -> None:
        """Put patterns, at most as many as are kept, to those that are held."""
        if len(set(cells) - self._cells.keys()) > len(self._free):
            self._prune()
        for cell, change, pattern in zip(cells, changes, patterns, strict=True):
            row = self._cells[cell][1] if cell in self._cells else self._free.pop()
            self._held[row] = pattern
            self._cells[cell] = change, row

    def _cut(self, patterns: Tensor, *index: Tensor) -> np.ndarray:
        """Real positions of some patterns, [chosen, query, key], in float16."""
        chosen = patterns[tuple(one.to(patterns.device) for one in index)].to("cpu", torch.float16).numpy()
        if chosen.shape[1:] == (len(self._rows), len(self._columns)):  # nothing is padding
            return chosen
        return chosen[:, self._rows.numpy()][..., self._columns.numpy()]

    def _prune(self) -> list[_Cell]:
        """Drop what changes the least of what is too much; what is left, the largest change first."""
        order = sorted(self._cells, key=lambda cell: (-self._cells[cell][0], cell))
        if len(order) > self.limit:
            self._least = self._cells[order[self.limit - 1]][0]
        self._free.extend(self._cells.pop(cell)[1] for cell in order[self.limit :])
        return order[: self.limit]

    def kept(self, parts: list[str]) -> KeptPatterns:
        """What was kept, the largest change first.

        Args:
            parts: their names.
        """
        order, taps = self._prune(), self.patterns.taps
        heads = sorted({(layer, head) for _, layer, head in order})
        clean = [self._cut(self.patterns.of(taps[layer], self.place), torch.tensor([head]))[0] for layer, head in heads]
        empty = np.empty((0, len(self.queries), len(self.keys)), np.float16)
        cells = pd.DataFrame(
            {
                "part": [parts[part] for part, _, _ in order],
                "layer": np.array([taps[layer].layer for _, layer, _ in order], dtype=np.int64),
                "head": np.array([head for _, _, head in order], dtype=np.int64),
                "change": np.array([self._cells[cell][0] for cell in order], dtype=np.float64),
            }
        )
        return KeptPatterns(
            self.example,
            self.queries,
            self.keys,
            cells,
            np.stack(clean) if clean else empty,
            tuple((taps[layer].layer, head) for layer, head in heads),
            self._held[[self._cells[cell][1] for cell in order]] if order else empty,
            int((self._changes > ROUNDING).sum()) - len(order),
        )


def _real(data: Batch, attention: str, axis: str, place: int, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """Which positions of an axis are no padding, and their tokens; all, numbered, where they are not the inputs'."""
    try:
        positions(data, attention)
        names = [str(name) for name in labels(data, attention, axis)[place]]
    except InputError:
        names = []
    if len(names) != count:
        names = [str(position) for position in range(count)]
    real = [position for position, name in enumerate(names) if name]
    return torch.tensor(real), tuple(names[position] for position in real)
