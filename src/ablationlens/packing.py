"""Packing: how draws and examples share forward passes.

A forward pass holds `rows` rows, each one example under one draw. If all examples fit, a pass holds several whole
draws; otherwise a draw takes several passes. Outputs are bitwise the same for the same packing and threads on one
machine, and equal to 1e-5 for any other; that is why a store records both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError

CPU_TOKENS = 512
"""Tokens of one pass for each thread of a CPU: enough to keep it busy, few enough for its caches (see benchmarks)."""
GPU_TOKENS = 65_536
"""Tokens of one pass on a GPU, halved while they do not fit."""
CPU_ROWS = (8, 256)
"""Fewest and most rows that are chosen on a CPU, whatever the length."""
FREE_SHARE = 0.25
"""Share of a GPU's free memory that the logits of one pass may take."""


@dataclass(frozen=True)
class Packing:
    """How many draws and examples one forward pass holds.

    Attributes:
        draws: whole draws of one pass; 1 if the examples need several passes.
        examples: examples of one pass.
    """

    draws: int
    examples: int

    @property
    def rows(self) -> int:
        return self.draws * self.examples

    def passes(self, draws: int, examples: int) -> int:
        """Forward passes that `draws` draws over `examples` examples take."""
        return -(-draws // self.draws) * -(-examples // self.examples)

    def spans(self, start: int, stop: int, examples: int) -> Iterator[tuple[range, range]]:
        """Draws and examples of each pass, in order."""
        for first in range(start, stop, self.draws):
            for row in range(0, examples, self.examples):
                yield range(first, min(first + self.draws, stop)), range(row, min(row + self.examples, examples))

    def halved(self) -> Packing:
        """Half the rows, for a pass that did not fit.

        Raises:
            InputError: if a single row does not fit.
        """
        if self.draws > 1:
            return Packing(self.draws // 2, self.examples)
        if self.examples > 1:
            return Packing(1, -(-self.examples // 2))
        raise InputError("one example under one mask does not fit into memory; use shorter inputs or a smaller model")


def choose(examples: int, length: int | None, device: torch.device, vocab: int | None = None) -> Packing:
    """The packing for `examples` examples of `length` positions on a device.

    Args:
        examples: rows of the data.
        length: positions of one row, None for inputs without positions (taken as 16).
        device: where the model is.
        vocab: width of the logits, to bound their memory on a GPU.
    """
    positions = length or 16
    if device.type == "cuda":
        rows = max(1, GPU_TOKENS // positions)
        if vocab is not None:
            free, _ = torch.cuda.mem_get_info(device)
            rows = max(1, min(rows, int(free * FREE_SHARE) // (positions * vocab * 4)))
    else:
        rows = min(max(CPU_TOKENS * torch.get_num_threads() // positions, CPU_ROWS[0]), CPU_ROWS[1])
    return of_rows(rows, examples)


def of_rows(rows: int, examples: int) -> Packing:
    """The packing with at most `rows` rows a pass, in equal shares."""
    if not is_integer(rows) or rows < 1:
        raise InputError(f"rows is the number of rows of one forward pass, an integer from 1; got {rows}")
    if examples <= rows:
        return Packing(rows // examples, examples)
    chunks = -(-examples // rows)
    return Packing(1, -(-examples // chunks))
