"""attribute: which method it takes, what it spends, and when it stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.attribution.attribute import _rounds, choose
from tests.conftest import HOSTS, Host, host_of


def scalar(logits: torch.Tensor) -> torch.Tensor:
    return logits.flatten(1)[:, ::3].double().sin().sum(1)


@pytest.fixture
def heads(gpt2: Host) -> tuple[al.MaskedModel, al.Batch]:
    return al.MaskedModel(gpt2.adapter, gpt2.registry("head"), output=scalar), gpt2.data(3)


@pytest.fixture
def rows(gpt2: Host) -> tuple[al.MaskedModel, al.Batch]:
    return al.MaskedModel(gpt2.adapter, gpt2.registry("row"), output=scalar), gpt2.data(3)


@pytest.mark.parametrize(
    ("components", "alpha", "budget", "chosen"),
    [
        (16, 0.125, 100, "least squares"),  # two ablated on average
        (16, 0.125, 60, "path gradient"),  # too few draws for it
        (16, 0.25, 100, "path gradient"),
        (16, 0.25, 1000, "least squares"),  # 50 draws a weight
        (16, 0.02, 1000, "path gradient"),  # most draws would ablate nothing
        (4608, 0.05, 30_000, "path gradient"),
        (64_512, 0.025, 200_000, "path gradient"),
    ],
)
def test_the_choice(components: int, alpha: float, budget: int, chosen: str) -> None:
    assert choose(components, alpha, budget) == chosen


@pytest.mark.parametrize("holder", HOSTS)
def test_without_early_stopping_it_is_the_chosen_method_with_all_the_budget(holder: str) -> None:
    host = host_of(holder, "gpt2")
    data = host.data(3)
    many = al.MaskedModel(host.adapter, host.registry("row"), output=scalar)
    found = al.attribute(many, data, alpha=0.05, budget=100, tolerance=None, seed=3)
    assert found.provenance["draws"] == 31
    alone = al.path_gradient(many, data, alpha=0.05, draws=31, seed=3)
    assert np.abs(found.weights.values - alone.weights.values).max() < 1e-5 * np.abs(alone.weights.values).max()
    assert np.allclose(found.bias.values, alone.bias.values, rtol=1e-5)
    assert found.errors is not None and alone.errors is not None
    assert np.allclose(found.errors.values, alone.errors.values, rtol=1e-4, atol=1e-7, equal_nan=True)
    few = al.MaskedModel(host.adapter, host.registry("head"), output=scalar)
    found = al.attribute(few, data, alpha=0.25, budget=101, tolerance=None, seed=3)
    alone = al.coar(few, data, alpha=0.25, draws=100, solver="least_squares", seed=3)
    assert np.allclose(found.weights.values, alone.weights.values, atol=1e-5)
    assert found.errors is None
    assert (found.provenance["chosen"], found.provenance["spent"]) == ("least squares", 101)


def test_it_stops_when_more_would_change_nothing(rows: tuple[al.MaskedModel, al.Batch]) -> None:
    model, data = rows
    whole = al.attribute(model, data, alpha=0.1, budget=2000, tolerance=None, seed=1)
    loose = al.attribute(model, data, alpha=0.1, budget=2000, tolerance=0.1, seed=1)
    tight = al.attribute(model, data, alpha=0.1, budget=2000, tolerance=0.01, seed=1)
    assert loose.provenance["spent"] <= tight.provenance["spent"] < whole.provenance["spent"]
    assert loose.provenance["stopped_early"] and not whole.provenance["stopped_early"]
    assert loose.provenance["expected_loss"] < 0.1 and tight.provenance["expected_loss"] < 0.01
    # what it expects is what happened: the cosine to the weights of many more draws
    limit = al.path_gradient(model, data, alpha=0.1, draws=1200, seed=99).weights.values
    for one in (loose, tight):
        own = one.weights.values
        cosine = (own * limit).sum(1) / np.sqrt((own**2).sum(1) * (limit**2).sum(1))
        assert float((1 - cosine).mean()) < 3 * one.provenance["expected_loss"] + 1e-3


def test_rounds_continue_the_draws(rows: tuple[al.MaskedModel, al.Batch]) -> None:
    """What was drawn before a round counts on: the end is that of one run."""
    model, data = rows
    rounds = al.attribute(model, data, alpha=0.1, budget=500, tolerance=1e-9, seed=1)
    once = al.attribute(model, data, alpha=0.1, budget=500, tolerance=None, seed=1)
    assert rounds.provenance["draws"] == once.provenance["draws"]
    assert not rounds.provenance["stopped_early"]
    assert np.abs(rounds.weights.values - once.weights.values).max() < 1e-5 * np.abs(once.weights.values).max()


def test_least_squares_stops_too_and_its_masks_are_known(heads: tuple[al.MaskedModel, al.Batch]) -> None:
    model, data = heads
    found = al.attribute(model, data, alpha=0.25, budget=5000, tolerance=0.02, seed=1)
    said = found.provenance
    assert (said["chosen"], said["stopped_early"]) == ("least squares", True)
    assert said["spent"] == said["draws"] + 1 < 5000
    assert al.evaluate(model, data, found, alphas=[0.25], draws=50).draws == 50
    again = al.coar(model, data, alpha=0.25, draws=said["draws"], solver="least_squares", seed=1)
    assert np.allclose(found.weights.values, again.weights.values, atol=1e-5)


@pytest.mark.parametrize("total", [1, 33, 80, 1000])
@pytest.mark.parametrize("stops", [True, False])
def test_rounds_cover_the_draws_once(total: int, stops: bool) -> None:
    spans = list(_rounds(total, 40, 20, stops=stops))
    assert spans[0][0] == 0 and spans[-1][1] == total
    assert all(first[1] == second[0] for first, second in itertools.pairwise(spans))
    assert all(start < stop for start, stop in spans)
    assert len(spans) == 1 if not stops else all(stop % 20 == 0 for _, stop in spans[:-1])


def test_the_budget_is_never_exceeded(heads: tuple[al.MaskedModel, al.Batch]) -> None:
    model, data = heads
    for budget in (10, 11, 50, 173):
        for tolerance in (None, 1e-9):
            for alpha in (0.125, 0.3):
                found = al.attribute(model, data, alpha=alpha, budget=budget, tolerance=tolerance)
                assert found.provenance["spent"] <= budget
                assert np.isfinite(found.weights.values).all()


def test_a_budget_pays_for_every_sample_of_a_base(torch_gpt2: Host) -> None:
    decomposition = al.spd.svd(torch_gpt2.adapter, ["q", "v"], 2)
    base = al.spd.Stochastic(decomposition, n_samples=4)
    model = al.MaskedModel(torch_gpt2.adapter, decomposition.registry(torch_gpt2.adapter), output=scalar, base=base)
    data, forwards = torch_gpt2.data(3), 0

    def count(module: torch.nn.Module, given: tuple[torch.Tensor], options: dict[str, torch.Tensor]) -> None:
        nonlocal forwards
        forwards += len(given[0] if given else options["input_ids"])

    hook = torch_gpt2.adapter.model.register_forward_pre_hook(count, with_kwargs=True)
    few = al.attribute(model, data, alpha=0.3, budget=120, tolerance=None)
    paths, forwards = forwards, 0
    many = al.attribute(model, data, alpha=0.1, budget=400, tolerance=None)
    hook.remove()
    assert few.provenance["chosen"] == "path gradient" and many.provenance["chosen"] == "least squares"
    # least squares has no gradients: all that it spends are forward passes
    setting_up = 4 * len(data)  # importances, and looking whether every site fires
    assert 0.9 * 400 * len(data) < forwards <= many.provenance["spent"] * len(data) + setting_up
    assert many.provenance["spent"] <= 400
    assert many.provenance["spent"] == 4 * (many.provenance["draws"] + 1)
    # and a gradient is one forward pass and a backward pass, 3 together
    draws = few.provenance["draws"]
    assert paths + 4 * 2 * draws * len(data) <= few.provenance["spent"] * len(data) + setting_up
    assert 100 < few.provenance["spent"] <= 120
    with pytest.raises(al.InputError, match=r"costs 4 forward passes, so the budget is at least 40; got 39"):
        al.attribute(model, data, alpha=0.3, budget=39)


def test_where_it_stops_does_not_depend_on_the_batch_size(heads: tuple[al.MaskedModel, al.Batch]) -> None:
    model, data = heads
    settings = {"alpha": 0.25, "budget": 2000, "tolerance": 0.02}
    found = [al.attribute(model, data, **settings, rows=rows) for rows in (None, 7, 64)]
    assert found[0].provenance["chosen"] == "least squares"
    assert found[0].provenance["stopped_early"]
    assert len({one.provenance["spent"] for one in found}) == 1
    for one in found[1:]:
        assert np.allclose(one.weights.values, found[0].weights.values, atol=1e-4)


def test_wrong_input(heads: tuple[al.MaskedModel, al.Batch]) -> None:
    model, data = heads
    for options, words in (
        ({"alpha": 0.2, "budget": 5}, "at least 10"),
        ({"alpha": 0.2, "tolerance": 0.0}, "tolerance"),
        ({"alpha": 0.2, "tolerance": 1.5}, "tolerance"),
        ({"alpha": 1.2}, "alpha is the share"),
        ({"alpha": 0.2, "seed": -1}, "seed is an integer"),
    ):
        with pytest.raises(al.InputError, match=words):
            al.attribute(model, data, **options)
