"""Bootstrap intervals: against SciPy's, and where they say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablationlens.evaluate.intervals import BOOTSTRAPS, interval_of_mean, percentiles, resamples, shares


@pytest.mark.parametrize("count", [5, 40])
def test_an_interval_is_scipys_but_for_its_random_numbers(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    low, high = interval_of_mean("some name", values)
    several = [
        stats.bootstrap((values,), np.mean, method="percentile", n_resamples=BOOTSTRAPS, rng=seed).confidence_interval
        for seed in range(8)
    ]
    spread = 4 * max(np.std([one.low for one in several]), np.std([one.high for one in several]))
    assert low == pytest.approx(np.mean([one.low for one in several]), abs=spread)
    assert high == pytest.approx(np.mean([one.high for one in several]), abs=spread)
    assert spread < 0.2 * (high - low)  # so that the comparison says something


def test_it_depends_on_the_name_alone() -> None:
    values = np.arange(6.0)
    assert interval_of_mean("a", values) == interval_of_mean("a", values)
    assert interval_of_mean("a", values) != interval_of_mean("b", values)


def test_what_is_not_finite_is_left_out() -> None:
    values = np.array([1.0, np.nan, 2.0, np.inf, 5.0])
    assert interval_of_mean("a", values) == interval_of_mean("a", np.array([1.0, 2.0, 5.0]))


@pytest.mark.parametrize("values", [[], [3.0], [3.0, math.nan]])
def test_fewer_than_two_examples_have_no_interval(values: list[float]) -> None:
    assert all(math.isnan(end) for end in interval_of_mean("a", np.array(values)))


def test_shares_count_each_example_as_often_as_it_was_drawn() -> None:
    found = shares("a", 4)
    assert np.allclose(found.sum(1), 1)
    values = np.array([1.0, 10.0, 100.0, 1000.0])
    np.testing.assert_allclose(found @ values, values[resamples("a", 4)].mean(1))


def test_percentiles_leave_out_what_is_undefined() -> None:
    values = np.linspace(0, 1, 1001)
    assert percentiles(values) == pytest.approx((0.025, 0.975))
    assert percentiles(np.append(values, [np.nan, np.inf])) == pytest.approx((0.025, 0.975))
    assert all(math.isnan(end) for end in percentiles(np.array([np.nan])))


def test_resamples_depend_on_the_name_alone_and_draw_every_item_as_often() -> None:
    found = resamples("some name", 7)
    assert found.shape == (BOOTSTRAPS, 7)
    assert np.array_equal(found, resamples("some name", 7))
    assert not np.array_equal(found, resamples("another", 7))
    assert stats.chisquare(np.bincount(found.ravel(), minlength=7)).pvalue > 1e-4
