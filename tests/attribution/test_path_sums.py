"""Sums of a path gradient on functions whose gradients and coefficients are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

import ablationlens as al
from ablationlens.attribution.path_sums import POOLED_BELOW, PathHalves, PathSums, pools
from tests.conftest import Host, host_of

COMPONENTS = 120


def registry_of(count: int) -> al.Registry:
    """Rows of one site."""
    whole = host_of("torch", "gpt2").adapter.registry("row", layers=[0], modules=["mlp.in"])
    assert len(whole) >= count
    return whole.select(where=lambda component: component.index < count)


class Pairs:
    """f(m) = b . m + c . m^2 + m A m / 2 with A symmetric and hollow.

    Under gates of mean 1 - alpha the least-squares coefficient of gate j is b_j + c_j + (1 - alpha) sum_l A_jl. Without
    c the function is multilinear; with it the gradient at a kept gate is off by c_j.
    """

    def __init__(self, seed: int, strength: float, curvature: float = 0.0) -> None:
        generator = np.random.default_rng(seed)
        upper = np.triu(generator.normal(size=(COMPONENTS, COMPONENTS)), 1) * strength
        self.A, self.b = upper + upper.T, generator.normal(size=COMPONENTS)
        self.c = curvature * generator.normal(size=COMPONENTS)

    def coefficients(self, alpha: float) -> np.ndarray:
        return self.b + self.c + (1 - alpha) * self.A.sum(1)

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        return masks @ self.b + masks**2 @ self.c + (masks @ self.A * masks).sum(1) / 2

    def gradients(self, masks: np.ndarray) -> np.ndarray:
        return self.b + 2 * masks * self.c + masks @ self.A


def sums_of(function: Pairs, design: al.Paths, sums: PathSums | PathHalves | None = None) -> PathSums | PathHalves:
    masks = design.masks(0, design.draws).astype(np.float64)
    sums = PathSums.empty(1, COMPONENTS) if sums is None else sums
    for start in range(0, design.draws, 7):
        block = masks[start : start + 7]
        values, slopes = function(block)[:, None], function.gradients(block)[:, None]
        sums.add(*(torch.from_numpy(one).float() for one in (block, values, slopes)))
    return sums


def test_the_oracle_is_what_scikit_learn_finds() -> None:
    function, alpha = Pairs(0, 0.05, 1.0), 0.2
    masks = al.Bernoulli(COMPONENTS, alpha, 60_000).masks(0, 60_000).astype(float)
    fitted = LinearRegression().fit(masks, function(masks)).coef_
    assert np.abs(fitted - function.coefficients(alpha)).max() < 0.05


@pytest.mark.parametrize("rho", [None, 0.2, 0.1])
def test_many_draws_find_the_least_squares_coefficients(rho: float | None) -> None:
    function, alpha = Pairs(0, 0.05), 0.2
    found = sums_of(function, al.Paths(COMPONENTS, alpha, 20_000, rho=rho)).estimate(registry_of(COMPONENTS))
    truth = function.coefficients(alpha)
    assert np.abs(found.weights[0] - truth).max() < 0.06
    masks = al.Bernoulli(COMPONENTS, alpha, 60_000).masks(0, 60_000).astype(float)
    reference = LinearRegression().fit(masks, function(masks))
    assert abs(found.bias[0] - reference.intercept_) < 0.4  # a sum of 120 coefficients, of size 100


def test_standard_errors_are_the_size_of_the_errors() -> None:
    alpha, errors, within = 0.1, [], []
    for seed in range(8):
        function = Pairs(seed, 0.3, 0.5)
        found = sums_of(function, al.Paths(COMPONENTS, alpha, 100, seed=seed)).estimate(registry_of(COMPONENTS))
        z = (found.weights[0] - function.coefficients(alpha)) / found.errors[0]
        errors.append((z**2).mean())
        within.append((np.abs(z) < 1.96).mean())
    assert 0.7 < np.mean(errors) < 1.4
    assert 0.9 < np.mean(within) < 0.99


def test_strong_gates_have_errors_of_their_own() -> None:
    """One gate in ten is five times as strong, and as noisy: an error shared by all is far too small for these."""
    alpha, errors, within = 0.1, [], []
    for seed in range(8):
        function = Pairs(seed, 0.3, 0.0)
        size = np.where(np.arange(COMPONENTS) % 10 == 0, 5.0, 1.0)
        function.A, function.b = function.A * size * size[:, None], function.b * size
        found = sums_of(function, al.Paths(COMPONENTS, alpha, 150, seed=seed)).estimate(registry_of(COMPONENTS))
        z = ((found.weights[0] - function.coefficients(alpha)) / found.errors[0])[size > 1]
        errors.append((z**2).mean())
        within.append((np.abs(z) < 1.96).mean())
    assert 0.1 < np.mean(errors) < 1
    assert np.mean(within) > 0.9


@pytest.mark.parametrize("alpha", [0.5, 0.75])
def test_where_few_gates_are_ever_kept(alpha: float) -> None:
    """At one half every gate is on every path. Stratified company makes errors too wide there, never too narrow."""
    errors = []
    for seed in range(6):
        function = Pairs(seed, 0.3)
        sums = sums_of(function, al.Paths(COMPONENTS, alpha, 60, seed=seed))
        assert isinstance(sums, PathSums)
        found = sums.estimate(registry_of(COMPONENTS))
        never = ~sums.keeps.numpy().any(axis=0)
        assert never.sum() > 20
        assert np.array_equal(found.weights[:, never], sums.means()[:, never])
        if alpha == 0.5:
            assert all((share == 1).all() for share in found.shares.values())
        errors.append((((found.weights[0] - function.coefficients(alpha)) / found.errors[0]) ** 2).mean())
    assert 0.05 < np.mean(errors) < 1.5


def test_shrinkage_is_closer_to_the_truth_than_path_means_or_kept_gates_alone() -> None:
    alpha, shrunk, of_paths, of_kept = 0.05, 0.0, 0.0, 0.0
    for seed in range(8):
        function = Pairs(seed, 0.5, 0.5)
        sums = sums_of(function, al.Paths(COMPONENTS, alpha, 40, seed=seed))
        truth = function.coefficients(alpha)
        shrunk += ((sums.estimate(registry_of(COMPONENTS)).weights[0] - truth) ** 2).sum()
        of_paths += ((sums.means()[0] - truth) ** 2).sum()
        of_kept += ((sums.shapes()[0] - truth) ** 2).sum()
    assert shrunk < 0.9 * of_paths
    assert shrunk < 0.9 * of_kept


def test_path_means_win_where_kept_gates_are_wrong() -> None:
    function, alpha = Pairs(6, 0.01, 3.0), 0.1
    sums = sums_of(function, al.Paths(COMPONENTS, alpha, 4000))
    found, truth = sums.estimate(registry_of(COMPONENTS)), function.coefficients(alpha)
    assert min(share.min() for share in found.shares.values()) > 0.95
    assert ((found.weights[0] - truth) ** 2).sum() < 0.05 * ((sums.shapes()[0] - truth) ** 2).sum()


def test_an_additive_function_needs_one_cycle() -> None:
    function = Pairs(3, 0.0)
    found = sums_of(function, al.Paths(COMPONENTS, 0.05, 10)).estimate(registry_of(COMPONENTS))
    assert np.abs(found.weights[0] - function.b).max() < 1e-5
    assert np.isnan(found.errors).all()  # no gate was on the path twice
    twice = sums_of(function, al.Paths(COMPONENTS, 0.05, 20)).estimate(registry_of(COMPONENTS))
    assert np.abs(twice.weights[0] - function.b).max() < 1e-5
    assert np.abs(twice.errors).max() < 1e-4
    assert abs(float(twice.bias[0])) < 1e-4


def test_draws_that_are_not_finite_count_nowhere() -> None:
    function, design = Pairs(4, 0.1), al.Paths(COMPONENTS, 0.1, 60)
    masks = torch.from_numpy(design.masks(0, 60))
    values = torch.from_numpy(function(masks.double().numpy())).float()[:, None].repeat(1, 2)
    slopes = torch.from_numpy(function.gradients(masks.double().numpy())).float()[:, None].repeat(1, 2, 1)
    spoiled, broken = values.clone(), slopes.clone()
    spoiled[5, 1] = torch.inf
    broken[17, 1, 3] = torch.nan
    sums = PathSums.empty(2, COMPONENTS)
    sums.add(masks, spoiled, broken)
    found = sums.estimate(registry_of(COMPONENTS))
    assert sums.left_out.tolist() == [0, 2]
    rest = [draw for draw in range(60) if draw not in (5, 17)]
    for example, draws in ((0, list(range(60))), (1, rest)):
        alone = PathSums.empty(1, COMPONENTS)
        alone.add(masks[draws], values[draws, :1], slopes[draws, :1])
        expected = alone.estimate(registry_of(COMPONENTS))
        assert np.allclose(found.weights[example], expected.weights[0], atol=1e-6)
        assert np.isclose(found.bias[example], expected.bias[0], atol=1e-4)


def test_an_example_without_a_finite_draw_has_no_weights() -> None:
    sums = PathSums.empty(2, COMPONENTS)
    masks = torch.from_numpy(al.Paths(COMPONENTS, 0.1, 20).masks(0, 20))
    outputs = torch.tensor([1.0, torch.nan]).repeat(20, 1)
    sums.add(masks, outputs, torch.ones(20, 2, COMPONENTS))
    found = sums.estimate(registry_of(COMPONENTS))
    assert np.isfinite(found.weights[0]).all()
    assert np.isnan(found.weights[1]).all() and np.isnan(found.bias[1])


def test_halves_are_cycles_in_turn_and_add_up_to_all() -> None:
    function, design = Pairs(5, 0.1), al.Paths(COMPONENTS, 0.1, 45)
    halves = PathHalves(1, COMPONENTS, design.groups)
    sums_of(function, design, halves)
    whole = sums_of(function, design)
    assert np.allclose((halves.even + halves.odd).means(), whole.means(), equal_nan=True)
    masks = design.masks(0, 45)
    even = np.arange(45) // design.groups % 2 == 0
    on_path = (masks > 0) & (masks < 1)
    assert np.array_equal(halves.even.hits.numpy()[0], on_path[even].sum(0))
    assert np.array_equal(halves.odd.hits.numpy()[0], on_path[~even].sum(0))


def test_small_sites_share_a_shrinkage_weight(gpt2: Host) -> None:
    registry = gpt2.registry("head")
    assert [name for name, _ in pools(registry)] == ["head of small sites"]
    rows = gpt2.adapter.registry("row")
    named = pools(rows)
    assert len(named) == len([part for part in rows.parts if len(part.indices) >= POOLED_BELOW])
    covered = np.concatenate([np.arange(len(rows))[columns] for _, columns in named])
    assert sorted(covered.tolist()) == list(range(len(rows)))
