"""Paths: soft masks whose every gate is on the path once in a cycle."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ablationlens as al
from ablationlens.masks.paths import STRATA, between_0_and_1, on_path
from ablationlens.randomness import raw

COMPONENTS = st.integers(2, 60)
ALPHAS = st.floats(0.01, 0.5)
SHARES = st.one_of(st.none(), st.floats(0.02, 1.0))
"""rho as a share of the largest that alpha allows; None is the default."""
SEEDS = st.integers(0, 2**60)


def design_of(components: int, alpha: float, share: float | None, seed: int, draws: int = 1) -> al.Paths:
    return al.Paths(components, alpha, draws, seed, rho=None if share is None else share * 2 * alpha)


@given(components=COMPONENTS, alpha=ALPHAS, share=SHARES, seed=SEEDS, cycle=st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_every_gate_is_on_the_path_once_in_a_cycle(
    components: int, alpha: float, share: float | None, seed: int, cycle: int
) -> None:
    design = design_of(components, alpha, share, seed)
    masks = design.masks(cycle * design.groups, (cycle + 1) * design.groups)
    assert masks.shape == (design.groups, components)
    assert on_path(masks).sum(0).tolist() == [1] * components
    sizes = on_path(masks).sum(1)
    assert sizes.max() - sizes.min() <= 1
    assert design.rho is not None
    assert sizes.min() <= design.rho * components + 1e-6 or design.groups == components  # the nearest share from below
    assert (masks >= 0).all()
    assert (masks <= 1).all()
    assert set(masks[~on_path(masks)].tolist()) <= {0.0, 1.0}


@given(components=COMPONENTS, alpha=ALPHAS, share=SHARES)
@settings(max_examples=200, deadline=None)
def test_seen_from_a_gate_on_the_path_the_others_have_their_mean(
    components: int, alpha: float, share: float | None
) -> None:
    """Worked out over the groups: a gate is in one with a chance of its size, beside size - 1 others on the path."""
    design = design_of(components, alpha, share, 0)
    assert 0 <= design.off <= 1
    sizes = on_path(design.masks(0, design.groups)).sum(1)
    mean = sum(
        size / components * ((size - 1) * 0.5 + (components - size) * (1 - design.off)) / (components - 1)
        for size in sizes.tolist()
    )
    assert abs(mean - (1 - alpha)) < 1e-9


@pytest.mark.parametrize(
    ("components", "alpha", "rho"),
    [
        (12, 0.2, None),
        (12, 0.2, 0.2),
        (11, 0.3, None),
        (11, 0.3, 0.1),
        (30, 0.05, None),
        (4, 0.5, 0.5),
        (7, 0.02, None),
    ],
)
def test_the_others_have_their_mean_in_the_draws(components: int, alpha: float, rho: float | None) -> None:
    design = al.Paths(components, alpha, 1, seed=3, rho=rho)
    masks = design.masks(0, 400 * design.groups).astype(np.float64)
    path = on_path(masks).astype(np.float64)
    together = path.T @ masks / path.sum(0)[:, None]  # [on the path, seen from there]
    others = together[~np.eye(components, dtype=bool)]
    spread = masks.std(0).max() / math.sqrt(400)
    assert abs(others.mean() - (1 - alpha)) < 5 * spread / math.sqrt(components)
    assert np.abs(others - (1 - alpha)).max() < 5.5 * spread
    own = together[np.eye(components, dtype=bool)]
    assert np.abs(own - 0.5).max() < 5 / math.sqrt(12 * 400)


def test_more_than_half_is_ablated_on_average_too() -> None:
    """Above one half the path may hold 2 * (1 - alpha) of the gates: more, and the others cannot make up for it."""
    for alpha in (0.6, 0.75, 0.9):
        for rho in (None, 1 - alpha, 2 * (1 - alpha)):
            design = al.Paths(24, alpha, 1, seed=1, rho=rho)
            assert 0 <= design.off <= 1
            masks = design.masks(0, 2000).astype(np.float64)
            path = on_path(masks)
            seen = (path * ((masks.sum(1, keepdims=True) - masks) / 23)).sum() / path.sum()
            assert abs(seen - (1 - alpha)) < 0.01
    with pytest.raises(al.InputError, match="rho"):
        al.Paths(24, 0.75, 1, rho=0.6)


@given(
    components=COMPONENTS,
    alpha=ALPHAS,
    share=SHARES,
    draw=st.integers(0, 300),
    seed=SEEDS,
    before=st.integers(0, 9),
    after=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_draw_i_is_the_same_for_any_batch_and_number_of_draws(
    components: int, alpha: float, share: float | None, draw: int, seed: int, before: int, after: int
) -> None:
    design = design_of(components, alpha, share, seed, 1)
    start = max(0, draw - before)
    block = design.masks(start, draw + after + 1)
    assert np.array_equal(block[draw - start], design.mask(draw))
    assert np.array_equal(design_of(components, alpha, share, seed, 500).mask(draw), design.mask(draw))


def test_gates_on_the_path_are_uniform_and_independent() -> None:
    design = al.Paths(20, 0.2, 1, seed=8)
    masks = design.masks(0, 500 * design.groups)
    values = masks[on_path(masks)].astype(np.float64)
    assert len(values) == 500 * 20
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    pairs = masks[on_path(masks).sum(1) > 1]
    first = np.array([row[on_path(row)][:2] for row in pairs])
    assert abs(np.corrcoef(first.T)[0, 1]) < 5 / math.sqrt(len(first))
    orders = {tuple(np.flatnonzero(row)) for row in on_path(masks)}
    assert len(orders) > 0.95 * len(masks)  # every cycle has an order of its own


@given(components=COMPONENTS, alpha=ALPHAS, share=SHARES, seed=SEEDS, block=st.integers(0, 20), half=st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_gate_takes_one_value_from_each_stratum(
    components: int, alpha: float, share: float | None, seed: int, block: int, half: int
) -> None:
    """In consecutive cycles of even number, and in those of odd number."""
    design = design_of(components, alpha, share, seed)
    cycles = [2 * (STRATA * block + turn) + half for turn in range(STRATA)]
    masks = [design.masks(cycle * design.groups, (cycle + 1) * design.groups) for cycle in cycles]
    values = np.stack([(one * on_path(one)).sum(0) for one in masks])
    assert np.array_equal(np.sort(np.floor(values * STRATA), axis=0), np.arange(STRATA)[:, None].repeat(components, 1))


def test_gates_off_the_path_are_ablated_as_often_as_it_says() -> None:
    design = al.Paths(25, 0.2, 1, seed=2, rho=0.2)
    masks = design.masks(0, 2000)
    away = masks[~on_path(masks)]
    deviation = math.sqrt(design.off * (1 - design.off) / len(away))
    assert design.off > 0.05
    assert abs((away == 0).mean() - design.off) < 5 * deviation
    assert not (al.Paths(40, 0.25, 1, seed=2, rho=0.5).masks(0, 50) == 0).all(1).any()


@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_no_rounding_reaches_an_end(words: list[int]) -> None:
    values = between_0_and_1(np.array([0, 2**32 - 1, *words], dtype=np.uint32))
    assert values.dtype == np.float32
    assert (values > 0).all()
    assert (values < 1).all()
    assert np.abs(values[2:] - np.array(words) / 2**32).max() < 2.0**-20
    for stratum in range(STRATA):  # as `masks` puts them into a part of (0, 1), in float32
        parts = (np.float32(stratum) + values) / np.float32(STRATA)
        assert (parts > stratum / STRATA).all()
        assert (parts < (stratum + 1) / STRATA).all()


def test_raw_integers_cover_the_ends() -> None:
    words = raw(0, "path:gates:fit", 0, 100_000)
    assert words.min() < 2**18
    assert words.max() > 2**32 - 2**18


@given(components=COMPONENTS, alpha=ALPHAS, share=SHARES, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_design_describes_everything_that_decides_it(
    components: int, alpha: float, share: float | None, seed: int
) -> None:
    design = design_of(components, alpha, share, seed, 12)
    described = json.loads(json.dumps(design.describe()))
    assert described["design"] == "paths"
    assert described["groups"] == design.groups
    assert abs(described["off"] - design.off) < 1e-12
    named = ("components", "alpha", "draws", "seed", "stream", "rho")
    again = al.Paths(**{name: described[name] for name in named})
    assert again == design
    assert np.array_equal(again.masks(0, 12), design.masks(0, 12))


def test_seeds_streams_and_shares_differ() -> None:
    designs = [
        al.Paths(30, 0.2, 10, seed, stream, rho=rho)
        for seed in (0, 1)
        for stream in ("fit", "other")
        for rho in (None, 0.2, 0.1)
    ]
    masks = [design.masks(0, 10) for design in designs]
    for number, one in enumerate(masks):
        assert all(not np.array_equal(one, other) for other in masks[:number])


def test_a_tiny_rho_puts_one_gate_on_the_path() -> None:
    """The others are then independent gates, kept with probability 1 - alpha: plain Bernoulli masks."""
    design = al.Paths(9, 0.3, 1, rho=1e-9)
    assert design.groups == 9
    assert on_path(design.masks(0, 90)).sum(1).tolist() == [1] * 90
    assert abs(design.off - 0.3) < 1e-12
    few = al.Paths(8, 0.01, 1)  # 2 * alpha of 8 gates is none
    assert few.groups == 8
    assert abs(few.off - 0.01) < 1e-12


@pytest.mark.parametrize("rho", [0.0, -0.1, 0.41, 1.5, float("nan")])
def test_a_share_that_cannot_be_is_refused(rho: float) -> None:
    with pytest.raises(al.InputError, match=r"at most .* 0\.4"):
        al.Paths(20, 0.2, 5, rho=rho)


def test_bad_options_are_refused() -> None:
    for alpha in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(al.InputError, match="alpha"):
            al.Paths(20, alpha, 5)
    with pytest.raises(al.InputError, match="draws"):
        al.Paths(20, 0.2, 0)
    with pytest.raises(al.InputError, match="seed"):
        al.Paths(20, 0.2, 5, -1)
    with pytest.raises(al.InputError, match="at least 2 components"):
        al.Paths(1, 0.5, 5)
