"""Keep attention patterns of one example while parts are ablated: those that change the most, as memory allows.

It holds `NUMBERS` numbers of patterns without a part in float16, 32 MB, and up to twice as many while a sweep runs;
and the clean patterns of the heads among them, which cannot be more. One pattern is kept whatever its size.
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
        self._cells: dict[tuple[int, int, int], tuple[float, np.ndarray]] = {}
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
            found = self._cut(one.by_draw(one.seen[tap])[:, own], torch.from_numpy(draws), torch.from_numpy(heads))
            for draw, head, pattern in zip(draws.tolist(), heads.tolist(), found, strict=True):
                # a copy: a view would hold all that were found with it
                self._cells[one.draws[draw], layer, head] = float(changes[draw, layer, head]), pattern.copy()
            if len(self._cells) > 2 * self.limit:
                self._prune()

    def _cut(self, patterns: Tensor, *index: Tensor) -> np.ndarray:
        """Real positions of some patterns, [chosen, query, key], in float16."""
        chosen = patterns[tuple(one.to(patterns.device) for one in index)].to("cpu", torch.float16).numpy()
        if chosen.shape[1:] == (len(self._rows), len(self._columns)):  # nothing is padding
            return chosen
        return chosen[:, self._rows.numpy()][..., self._columns.numpy()]

    def _prune(self) -> list[tuple[int, int, int]]:
        """Drop what changes the least of what is too much; what is left, the largest change first."""
        order = sorted(self._cells, key=lambda cell: (-self._cells[cell][0], cell))
        if len(order) > self.limit:
            self._least = self._cells[order[self.limit - 1]][0]
        self._cells = {cell: self._cells[cell] for cell in order[: self.limit]}
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
            np.stack([self._cells[cell][1] for cell in order]) if order else empty,
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
