"""The level of a path gradient: what it costs, and that predictions are right on average under hard masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.attribution.costs import passes_of_paths, paths_for
from ablationlens.attribution.level import Level, level_draws
from tests.conftest import HOSTS, Host, host_of
from tests.passes import before_each_pass


def curved(logits: torch.Tensor) -> torch.Tensor:
    """Far from linear in the gates, so that partial masks have a level of their own."""
    return (logits.flatten(1)[:, ::3].double() ** 2).sum(1)


@pytest.mark.parametrize("draws", [1, 31, 32, 63, 64, 255, 256, 100_000])
def test_hard_draws_are_a_small_part(draws: int) -> None:
    hard = level_draws(draws)
    assert hard == 0 if draws < 32 else 4 <= hard <= 32
    assert hard <= draws / 8


@pytest.mark.parametrize("budget", range(4, 140, 5))
def test_a_budget_pays_for_as_many_draws_as_it_can(budget: int) -> None:
    draws = paths_for(budget)
    assert draws >= 1
    assert passes_of_paths(draws) <= budget < passes_of_paths(draws + 1)


@pytest.mark.parametrize("draws", [20, 40])
def test_passes_are_those_that_are_made(small: Host, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small.data(3)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=curved)
    rows: list[int] = []

    def count(batch: al.Batch) -> None:
        rows.append(len(batch) * (3 if torch.is_grad_enabled() else 1))

    before_each_pass(small.adapter, monkeypatch, count)
    al.path_gradient(model, data, alpha=0.1, draws=draws)
    assert sum(rows) == 3 * passes_of_paths(draws)


@pytest.mark.parametrize("holder", HOSTS)
def test_predictions_are_right_on_average_where_partial_masks_are_not(holder: str) -> None:
    host = host_of(holder, "gpt2")
    data, registry = host.data(3), host.registry("row")
    model = al.MaskedModel(host.adapter, registry, output=curved)
    fresh = al.Bernoulli(len(registry), 0.2, 600, seed=9)
    true = model.sweep(fresh, data).double().numpy()
    found = al.path_gradient(model, data, alpha=0.2, draws=256)
    assert found.provenance["level_draws"] == 32
    left = true - found.predict(fresh.masks(0, 600))
    spread = left.std(0)
    # an error of the mean of 32 draws and of one of 600
    assert (np.abs(left.mean(0)) < 4 * spread / np.sqrt(32)).all()
    soft = torch.from_numpy(al.Paths(len(registry), 0.2, 256).masks(0, 256))
    of_partial = (model.sweep(soft, data).double().numpy() - found.predict(soft.numpy())).mean(0)
    assert np.abs(left.mean(0)).mean() < 0.5 * np.abs(left.mean(0) - of_partial).mean()


def test_attribute_has_the_same_level(small: Host) -> None:
    data = small.data(3)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=curved)
    whole = al.attribute(model, data, alpha=0.1, budget=130, tolerance=None, seed=2)
    alone = al.path_gradient(model, data, alpha=0.1, draws=whole.provenance["draws"], seed=2)
    assert whole.provenance["level_draws"] == alone.provenance["level_draws"] == 5
    assert np.allclose(whole.bias.values, alone.bias.values, rtol=1e-5)
    assert whole.provenance["spent"] == passes_of_paths(41) <= 130


def test_packing_changes_nothing(small: Host) -> None:
    data = small.data(3)
    model = al.MaskedModel(small.adapter, small.registry("row"), output=curved)
    design = al.Paths(len(model.registry), 0.1, 100, seed=3)
    levels = [Level.measured(model, data, design, rows) for rows in (2, 64, None)]
    assert len(levels[0].masks) == 12
    for one in levels[1:]:
        assert np.array_equal(one.masks, levels[0].masks)
        assert np.allclose(one.outputs, levels[0].outputs, rtol=1e-5)
    assert abs(levels[0].masks.mean() - 0.9) < 0.04  # three standard deviations of 12 x 33 gates


def test_outputs_that_are_not_finite_count_nowhere() -> None:
    masks = np.array([[True, False], [True, True], [False, True], [False, False], [True, True]])
    outputs = np.array([[1.0, np.nan], [3.0, np.inf], [5.0, 4.0], [2.0, 4.0], [np.nan, 4.0]])
    weights = np.array([[1.0, 2.0], [1.0, 1.0]])
    level = Level(masks, outputs)
    assert level.left_out == 3
    found = level.bias(weights, otherwise=np.array([7.0, 8.0]))
    assert found.tolist() == [((1 - 1) + (3 - 3) + (5 - 2) + 2) / 4, 8.0]  # three draws are too few


@pytest.mark.parametrize("alpha", [1e-6, 1 - 1e-12])
def test_nearly_nothing_and_nearly_everything_ablated(small: Host, alpha: float) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), output=curved)
    level = Level.measured(model, small.data(2), al.Paths(len(model.registry), alpha, 64))
    assert level.masks.mean() == (alpha < 0.5)


def test_an_additive_output_has_an_exact_bias() -> None:
    """The oracle: what is left with everything ablated."""
    layer = torch.nn.Linear(6, 5).double()
    adapter = al.adapt(layer, example=torch.zeros(1, 6, dtype=torch.float64))
    model = al.MaskedModel(adapter, adapter.registry("row"), output=lambda y: y.sum(1))
    data = al.batch(torch.randn(3, 6, dtype=torch.float64))
    found = al.path_gradient(model, data, alpha=0.4, draws=40)
    none = model.sweep(torch.zeros(1, 5), data)[0].double().numpy()
    assert found.provenance["level_draws"] == 5
    assert np.abs(found.bias.values - none).max() < 1e-5
