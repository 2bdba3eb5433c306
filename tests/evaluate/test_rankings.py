"""Rankings and their masks, by hand and as sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablationlens.evaluate.rankings import (
    DELETION,
    INSERTION,
    Ranked,
    RankedByExample,
    kept_top,
    random_rankings,
    random_rankings_by_example,
    ranked,
)
from ablationlens.results import Attribution
from tests.evaluate.games import game, scales, weighted

UP = np.ones(1)


def with_weights(*rows: list[float]) -> Attribution:
    return weighted(game(np.ones(len(rows[0]))), scales(*range(1, len(rows) + 1)), np.array(rows))


def test_signed_and_absolute_orders() -> None:
    one = with_weights([1.0, -5.0, 3.0, 2.0])
    assert ranked(one, "signed", "mean", 0, UP)[0].tolist() == [2, 3, 0, 1]
    assert ranked(one, "absolute", "mean", 0, UP)[0].tolist() == [1, 2, 3, 0]


def test_what_makes_a_falling_output_comes_first() -> None:
    one = with_weights([1.0, -5.0, 3.0, 2.0])
    assert ranked(one, "signed", "mean", 0, -UP)[0].tolist() == [1, 0, 3, 2]


def test_of_the_mean_or_of_each_example() -> None:
    both = with_weights([1.0, 0.0, -9.0], [1.0, 3.0, 0.0])
    assert ranked(both, "signed", "mean", 0, UP)[0].tolist() == [1, 0, 2]
    assert ranked(both, "signed", "example", 0, np.ones(2)).tolist() == [[0, 1, 2], [1, 0, 2]]


def test_what_is_not_finite_counts_as_nothing() -> None:
    one = with_weights([np.nan, -1.0, 2.0], [np.nan, np.inf, 4.0])
    assert ranked(one, "signed", "mean", 0, UP)[0].tolist() == [2, 0, 1]


def test_equal_weights_are_in_no_order_of_the_registry() -> None:
    one = with_weights([0.0] * 40)
    orders = [tuple(ranked(one, "signed", "mean", seed, UP)[0].tolist()) for seed in (0, 1)]
    assert sorted(orders[0]) == list(range(40))
    assert len({*orders, tuple(range(40))}) == 3


def test_random_orders_are_of_their_number_alone() -> None:
    few, more = random_rankings(30, 2, 7), random_rankings(30, 5, 7)
    assert np.array_equal(few, more[:2])
    assert len({tuple(row) for row in more}) == 5
    assert all(sorted(row) == list(range(30)) for row in more)
    own = random_rankings_by_example(30, 2, 3, 7)
    assert own.shape == (2, 3, 30)
    assert len({tuple(row) for row in own.reshape(-1, 30)}) == 6


@given(size=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=40, deadline=None)
def test_masks_keep_the_top_or_all_but_the_top(size: int, seed: int, data: st.DataObject) -> None:
    order = np.random.default_rng(seed).permutation(size)
    count = data.draw(st.integers(0, size))
    top = set(order[:count].tolist())
    assert set(np.flatnonzero(kept_top(order, count, INSERTION)).tolist()) == top
    assert set(np.flatnonzero(~kept_top(order, count, DELETION)).tolist()) == top


@pytest.mark.parametrize("by_example", [False, True])
def test_designs_go_through_counts_then_directions_then_rankings(by_example: bool) -> None:
    orders, counts = np.array([[2, 0, 1], [1, 2, 0]]), (1, 2)
    design = RankedByExample(orders[:, None].repeat(2, axis=1), counts) if by_example else Ranked(orders, counts)
    assert design.draws == 8
    masks = design.masks(0, 8)
    expected = [[0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 1], [1, 0, 1], [1, 0, 0]]
    for example in range(2) if by_example else (slice(None),):
        found = masks[:, example] if by_example else masks
        assert found.astype(int).tolist() == expected
    assert np.array_equal(design.masks(3, 5), masks[3:5])
