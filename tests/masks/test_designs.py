"""Designs of masks."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.masks.designs import RANDOM_DESIGNS, check_design_name, integer, random_design


def test_bernoulli_keeps_each_component_with_its_probability() -> None:
    draws, components, alpha = 4000, 30, 0.07
    masks = al.Bernoulli(components, alpha, draws, seed=5).masks(0, draws)
    deviation = np.sqrt(alpha * (1 - alpha) / draws)
    assert np.abs(masks.mean(0) - (1 - alpha)).max() < 4 * deviation
    assert abs(masks.mean() - (1 - alpha)) < 4 * deviation / np.sqrt(components)
    correlation = np.corrcoef(masks.T) - np.eye(components)
    assert np.abs(correlation).max() < 5 / np.sqrt(draws)
    assert masks.sum(1).std() > 0.5 * np.sqrt(components * alpha * (1 - alpha))  # sizes vary


@given(components=st.integers(2, 80), alpha=st.floats(0.01, 0.99), seed=st.integers(0, 2**60))
@settings(max_examples=60, deadline=None)
def test_subsets_have_exactly_their_size(components: int, alpha: float, seed: int) -> None:
    size = int(np.floor(alpha * components + 0.5))
    assume(1 <= size < components)
    masks = al.Subset(components, alpha, 8, seed).masks(0, 8)
    assert set((~masks).sum(1).tolist()) == {size}


def test_subsets_are_uniform() -> None:
    masks = al.Subset(6, 0.5, 4000, seed=1).masks(0, 4000)
    counts = {tuple(np.flatnonzero(~mask)): 0 for mask in masks}
    for mask in masks:
        counts[tuple(np.flatnonzero(~mask))] += 1
    assert set(counts) == set(itertools.combinations(range(6), 3))
    assert max(abs(count - 200) for count in counts.values()) < 5 * np.sqrt(200)


@given(components=st.integers(2, 60), alpha=st.floats(0.02, 0.9), cycles=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_balanced_ablates_every_component_equally_often(components: int, alpha: float, cycles: int, seed: int) -> None:
    size = int(np.floor(alpha * components + 0.5))
    assume(1 <= size < components and round(components / size) > 1)
    design = al.Balanced(components, alpha, 1, seed)
    draws = cycles * design.blocks
    counts = (~al.Balanced(components, alpha, draws, seed).masks(0, draws)).sum(0)
    assert counts.tolist() == [cycles] * components
    assert abs(components / design.blocks - alpha * components) <= max(1.0, 0.5 * components * alpha) + 1


def test_leave_one_out_and_all_masks() -> None:
    loo = al.LeaveOneOut(4).masks(0, 5)
    assert loo[0].all()
    assert np.array_equal(loo[1:], ~np.eye(4, dtype=bool))
    every = al.AllMasks(4).masks(0, 16)
    assert {tuple(row) for row in every.tolist()} == set(itertools.product([False, True], repeat=4))
    assert every[0].all()
    assert every[5].tolist() == [False, True, False, True]
    assert len(al.AllMasks(4)) == 16
    with pytest.raises(al.InputError, match="bernoulli"):
        al.AllMasks(21)


@pytest.mark.parametrize("design", list(RANDOM_DESIGNS))
def test_bad_options_are_refused(design: str) -> None:
    for alpha in (0.0, 1.0, -0.1, 1.5, float("nan")):
        with pytest.raises(al.InputError, match="alpha"):
            random_design(design, 100, alpha, 10)
    for draws in (0, -3):
        with pytest.raises(al.InputError, match="draws"):
            random_design(design, 100, 0.5, draws)
    with pytest.raises(al.InputError, match="at least 2 components.*leave_one_out"):
        random_design(design, 1, 0.5, 10)
    with pytest.raises(al.InputError, match="bernoulli, subset, balanced"):
        random_design("gauss", 10, 0.5, 10)


@given(components=st.integers(2, 3000))
@settings(max_examples=50, deadline=None)
def test_an_alpha_that_rounds_to_nothing_says_the_smallest_that_does_not(components: int) -> None:
    import re

    with pytest.raises(al.InputError) as error:
        al.Subset(components, 0.499 / components, 1)
    smallest = float(re.search(r"gives one is ([\d.e-]+)", str(error.value)).group(1))  # type: ignore[union-attr]
    assert smallest < 0.51 / components + 2e-6
    assert (~al.Subset(components, smallest, 1).mask(0)).sum() == 1
    largest = float(re.search(r"largest ([\d.e-]+)", str(error.value)).group(1))  # type: ignore[union-attr]
    assert al.Subset(components, largest, 1).mask(0).sum() == 1


@given(
    design=st.sampled_from(["bernoulli", "subset", "balanced"]),
    draw=st.integers(0, 500),
    seed=st.integers(0, 2**62),
    before=st.integers(0, 7),
    after=st.integers(0, 7),
)
@settings(max_examples=50, deadline=None)
def test_draw_i_is_the_same_for_any_batch(design: str, draw: int, seed: int, before: int, after: int) -> None:
    one = random_design(design, 23, 0.3, 1000, seed)
    start = max(0, draw - before)
    assert np.array_equal(one.masks(start, draw + after + 1)[draw - start], one.mask(draw))


def test_streams_and_seeds_and_designs_differ() -> None:
    masks = [
        random_design(design, 40, 0.3, 20, seed, stream).masks(0, 20)
        for design in RANDOM_DESIGNS
        for seed in (0, 1)
        for stream in ("fit", "evaluate")
    ]
    for i, one in enumerate(masks):
        assert all(not np.array_equal(one, other) for other in masks[:i])


def test_a_design_describes_everything_that_decides_it() -> None:
    described = al.Bernoulli(5, 0.4, 7, 3, "x").describe()
    assert described == {"design": "bernoulli", "alpha": 0.4, "draws": 7, "seed": 3, "stream": "x", "components": 5}
    del described["components"]
    again = random_design(described.pop("design"), 5, **described)
    assert np.array_equal(again.masks(0, 7), al.Bernoulli(5, 0.4, 7, 3, "x").masks(0, 7))


def test_a_balanced_design_that_would_ablate_everything_is_refused() -> None:
    """Above two thirds an order would be one block: every mask the same, all ablated."""
    for alpha in (0.7, 0.9):
        with pytest.raises(al.InputError, match="half of the components at most.*bernoulli"):
            al.Balanced(10, alpha, 5)
    assert (~al.Balanced(10, 0.6, 8).masks(0, 8)).sum(1).tolist() == [5] * 8


@pytest.mark.parametrize("design", list(RANDOM_DESIGNS))
def test_what_a_design_notes_is_json(design: str) -> None:
    """NumPy's numbers are not, and a store could not note them; the type checker of the tests lets few of them in."""
    for alpha in (0.25, np.float64(0.25)):
        described = random_design(design, 20, alpha, 6, 3).describe()
        assert type(described["alpha"]) is float
        assert json.loads(json.dumps(described)) == described
    for seed in (3, np.int64(3), np.uint8(3)):
        assert type(integer("seed", seed)) is int
    for bad in (1e3, None, "0"):
        with pytest.raises(al.InputError, match="seed is an integer"):
            integer("seed", bad)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (5, "bernoulli"),
        (None, "bernoulli"),
        ("random", "bernoulli"),
        (["bernoulli"], "bernoulli"),
        (al.Subset, "subset"),
        (al.Balanced, "balanced"),
        (al.Subset(10, 0.2, 5), "subset"),
    ],
)
def test_what_is_no_name_of_a_design_is_refused_with_the_name_to_type(given: Any, meant: str) -> None:
    with pytest.raises(al.InputError, match=rf"among bernoulli, subset, balanced, got .*; type design='{meant}'"):
        check_design_name(given)
    for name in RANDOM_DESIGNS:
        check_design_name(name)
