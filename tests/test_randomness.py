"""Random numbers depend on their address alone."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ablationlens as al
from ablationlens import randomness


def test_raw_values_are_pinned() -> None:
    """A change of these numbers changes every published run."""
    assert randomness.raw(7, "fit", 3, 5).tolist() == [882205681, 529981465, 1355260954, 3737363528, 1473582595]
    assert randomness.raw(0, "", 0, 2).tolist() == [149215387, 49592932]
    assert randomness.permutation(1, "a", 2, 8).tolist() == [0, 5, 1, 4, 6, 2, 3, 7]
    expected = [-0.3826671242713928, 0.1374301016330719, -2.5631587505340576]
    assert np.allclose(randomness.normal(1, "a", 2, (3,)), expected, atol=1e-6)


def test_raw_is_numpys_philox() -> None:
    words = np.random.Philox(key=[9, zlib.crc32(b"s")], counter=[0, 0, 4, 0]).random_raw(3)
    expected = [int(word) >> shift & 0xFFFFFFFF for word in words for shift in (0, 32)]
    assert randomness.raw(9, "s", 4, 6).tolist() == expected


@given(
    seed=st.integers(0, 2**63 - 1),
    stream=st.text(max_size=8),
    index=st.integers(0, 2**40),
    count=st.integers(0, 40),
    fewer=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_values_do_not_depend_on_what_else_is_drawn(seed: int, stream: str, index: int, count: int, fewer: int) -> None:
    few = randomness.raw(seed, stream, index, min(count, fewer))
    many = randomness.raw(seed, stream, index, count)
    assert np.array_equal(many[: len(few)], few)
    order = randomness.permutation(seed, stream, index, count)
    assert sorted(order.tolist()) == list(range(count))


def test_neighbouring_addresses_share_nothing() -> None:
    """2,000 words each: any overlap of the counters would repeat some."""
    words = [
        randomness.raw(seed, stream, index, 2000) for seed in (0, 1) for stream in ("a", "b") for index in (0, 1, 2)
    ]
    for i, one in enumerate(words):
        for other in words[:i]:
            assert len(np.intersect1d(one, other)) < 5
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_numbers_are_uniform_and_normal() -> None:
    uniform = randomness.raw(3, "x", 0, 20_000) / 2**32
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    normal = randomness.normal(3, "x", 0, (100, 201))
    assert normal.dtype == np.float32
    assert normal.shape == (100, 201)
    assert np.isfinite(normal).all()
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-4
    firsts = [int(randomness.permutation(3, "x", i, 5)[0]) for i in range(3000)]
    assert stats.chisquare(np.bincount(firsts, minlength=5)).pvalue > 1e-4


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(al.InputError, match="seed"):
        randomness.raw(seed, "x", 0, 1)
