"""Random numbers that depend on their address alone: (seed, stream, index), on any machine and in any order.

Philox is a counter-based generator, so draw i is computed without drawing the ones before it. Raw 32-bit integers are
used rather than a library's distributions, whose streams may change between versions.
"""

from __future__ import annotations

import zlib

import numpy as np
from jaxtyping import Float, UInt32

from ablationlens.errors import InputError


def _philox(seed: int, stream: str, index: int) -> np.random.Philox:
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is an integer from 0 to 2**63 - 1; got {seed}")
    return np.random.Philox(key=[seed, zlib.crc32(stream.encode())], counter=[0, 0, index, 0])


def raw(seed: int, stream: str, index: int, count: int) -> UInt32[np.ndarray, " count"]:
    """`count` uniform 32-bit integers at the address (seed, stream, index)."""
    words = _philox(seed, stream, index).random_raw(-(-count // 2))
    return words.astype("<u8").view("<u4")[:count]


def permutation(seed: int, stream: str, index: int, count: int) -> np.ndarray:
    """A random order of range(count) at the address (seed, stream, index)."""
    return np.argsort(raw(seed, stream, index, count), kind="stable")


def normal(seed: int, stream: str, index: int, shape: tuple[int, ...]) -> Float[np.ndarray, ...]:
    """Standard normal float32 numbers at the address (seed, stream, index), by the Box-Muller transform."""
    count = int(np.prod(shape))
    pairs = -(-count // 2)
    words = raw(seed, stream, index, 2 * pairs).astype(np.float64)
    first, second = (words[:pairs] + 1) / 2**32, words[pairs:] / 2**32
    radius = np.sqrt(-2 * np.log(first))
    both = np.concatenate([radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)])
    return both[:count].astype(np.float32).reshape(shape)
