"""What two halves say of the whole, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.attribution.halves import loss_of_paths, loss_of_regression

COMPONENTS = 2000


def noisy(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return truth + noise * np.random.default_rng(seed).normal(size=truth.shape)


def true_loss(estimate: np.ndarray, truth: np.ndarray) -> float:
    cosine = (estimate * truth).sum(1) / np.sqrt((estimate**2).sum(1) * (truth**2).sum(1))
    return float((1 - cosine).mean())


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.5])
def test_halves_of_a_regression_foretell_the_loss_of_the_whole(noise: float) -> None:
    truth = np.random.default_rng(0).normal(size=(3, COMPONENTS))
    first, second = noisy(truth, noise, 1), noisy(truth, noise, 2)
    whole = (first + second) / 2
    assert loss_of_regression(first, second) == pytest.approx(true_loss(whole, truth), rel=0.15, abs=2e-4)


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.5])
def test_halves_of_paths_foretell_the_loss_of_the_whole(noise: float) -> None:
    truth = np.random.default_rng(0).normal(size=(3, COMPONENTS))
    first, second = noisy(truth, noise, 1), noisy(truth, noise, 2)
    found = loss_of_paths((first, second), (first, second))
    assert found == pytest.approx(true_loss((first + second) / 2, truth), rel=0.25, abs=5e-4)


def test_a_bias_that_the_halves_share_is_seen() -> None:
    """Both estimates agree perfectly, on something else than their path means say."""
    truth = np.random.default_rng(0).normal(size=(2, COMPONENTS))
    wrong = truth + 0.7 * np.random.default_rng(9).normal(size=truth.shape)
    means = noisy(truth, 0.3, 1), noisy(truth, 0.3, 2)
    assert loss_of_regression(wrong, wrong) == pytest.approx(0.0, abs=1e-12)
    assert loss_of_paths((wrong, wrong), means) > 0.4 * true_loss(wrong, truth) > 0.05


def test_halves_without_anything_in_common_lose_everything() -> None:
    first, second = (np.random.default_rng(seed).normal(size=(1, COMPONENTS)) for seed in (1, 2))
    assert loss_of_regression(first, -first) == 1.0
    assert loss_of_regression(first, second) > 0.5
    assert loss_of_paths((first, second), (first, -first)) == 1.0
    assert loss_of_regression(np.zeros((1, 3)), np.zeros((1, 3))) == 1.0


def test_examples_without_a_weight_do_not_count() -> None:
    """One text whose output never changes, and one without a finite output, must not keep the others from stopping."""
    truth = np.random.default_rng(0).normal(size=(4, COMPONENTS))
    truth[1] = 0.0
    first, second = (
        truth + 0.3 * (truth != 0) * np.random.default_rng(seed).normal(size=truth.shape) for seed in (1, 2)
    )
    first[2] = second[2] = np.nan
    both = (first[[0, 3]], second[[0, 3]])
    assert loss_of_regression(first, second) == pytest.approx(loss_of_regression(*both))
    assert loss_of_paths((first, second), (first, second)) == pytest.approx(loss_of_paths(both, both))
    unseen = np.full_like(first, np.nan)
    assert loss_of_paths((first, second), (unseen, unseen)) == 1.0


def test_gates_without_a_path_are_left_out() -> None:
    truth = np.random.default_rng(0).normal(size=(1, COMPONENTS))
    means = noisy(truth, 0.5, 1), noisy(truth, 0.5, 2)
    holes = means[0].copy()
    holes[:, ::3] = np.nan
    found = loss_of_paths(means, (holes, means[1]))
    rest = np.arange(COMPONENTS) % 3 != 0
    cut = (means[0][:, rest], means[1][:, rest])
    assert found == pytest.approx(loss_of_paths(cut, cut))
