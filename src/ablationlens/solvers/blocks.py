"""Large arrays are read in blocks: float64 copies of the masks stay small beside the Gram."""

from __future__ import annotations

from collections.abc import Iterator

BLOCK_BYTES = 2**26
"""Size of the float64 copy of a block of masks: large enough for fast products, small beside the Gram."""


def slices(start: int, stop: int, width: int) -> Iterator[slice]:
    """From start to stop, as many rows of this width at a time as make a block in float64, and at least 64."""
    step = max(64, BLOCK_BYTES // (8 * width))
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))
