"""Agreement of predictions with outputs: against SciPy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablationlens.evaluate.agreement import agreement, mean, pearson


@given(draws=st.integers(3, 60), seed=st.integers(0, 2**32 - 1), noise=st.floats(0.01, 10), shift=st.floats(-1e3, 1e3))
@settings(max_examples=40, deadline=None)
def test_correlations_are_scipys(draws: int, seed: int, noise: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((draws, 3)) + shift
    predicted = 0.5 * true + noise * rng.standard_normal((draws, 3))
    found = agreement(true, predicted)
    for example in range(3):
        y, p = true[:, example], predicted[:, example]
        assert abs(found["pearson"][example] - stats.pearsonr(y, p).statistic) < 1e-9
        assert abs(found["spearman"][example] - stats.spearmanr(y, p).statistic) < 1e-9
        assert abs(found["slope"][example] - stats.linregress(p, y).slope) < 1e-8
        expected = 1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        assert abs(found["r2"][example] - expected) < 1e-8 * max(1, abs(expected))
    assert np.allclose(pearson(true, predicted), found["pearson"])


def test_what_does_not_vary_or_is_not_finite_is_undefined_or_left_out() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.standard_normal((20, 5)), rng.standard_normal((20, 5))
    true[:, 0], predicted[:, 1] = 3.0, -2.0
    true[:, 2] = np.nan
    true[[3, 7], 3], predicted[5, 3] = [np.nan, np.inf], -np.inf
    found = agreement(true, predicted)
    assert np.isnan(found["pearson"]).tolist() == [True, True, True, False, False]
    kept = [i for i in range(20) if i not in (3, 5, 7)]
    assert abs(found["pearson"][3] - stats.pearsonr(true[kept, 3], predicted[kept, 3]).statistic) < 1e-12


def test_a_mean_is_over_what_is_finite() -> None:
    assert mean(np.array([1.0, np.nan, 4.0])) == 2.5
    assert np.isnan(mean(np.array([np.nan, np.nan])))
