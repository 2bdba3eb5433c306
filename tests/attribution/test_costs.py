"""What draws cost, and what a budget pays for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.attribution.costs import passes_of_paths, paths_for


@pytest.mark.parametrize(("draws", "passes"), [(1, 4), (10, 31), (32, 101), (80, 251), (1000, 3033)])
def test_three_for_each_draw_one_in_eight_beside_them_and_one(draws: int, passes: int) -> None:
    """From 32 draws on, a hard mask for every eighth, at most 32; and the pass that keeps everything."""
    assert passes_of_paths(draws) == passes


@given(budget=st.integers(0, 20_000))
def test_a_budget_pays_for_as_many_draws_as_fit(budget: int) -> None:
    draws = paths_for(budget)
    assert draws == 0 or passes_of_paths(draws) <= budget
    assert passes_of_paths(draws + 1) > budget
