"""What is said before a study starts, and settings that are refused before anything is run."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.evaluate.studies.cost import check_draws, check_masks, check_named, distinct, state_cost, usable
from tests.conftest import Host


@pytest.fixture
def model(torch_gpt2: Host) -> al.MaskedModel:
    return al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"))


def test_known_costs_are_added_up(model: al.MaskedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        cost = state_cost(model, "fit alpha", {"2 fits": 3000, "100 held-out masks": 400})
    assert cost == {"parts": {"2 fits": 3000, "100 held-out masks": 400}, "forward_rows": 3400}
    assert "study of the fit alpha: 2 fits (3,000) + 100 held-out masks (400) = 3,400 forward rows" in caplog.text
    assert "a gradient counted as 3" in caplog.text


def test_an_unknown_cost_is_said_to_be(model: al.MaskedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        cost = state_cost(model, "domains", {"fits": None, "masks": 400})
    assert cost == {"parts": {"fits": None, "masks": 400}, "forward_rows": None}
    assert "fits (cost unknown) + masks (400) = at least 400 forward rows" in caplog.text


def test_a_base_costs_its_samples_and_what_it_searches(torch_gpt2: Host) -> None:
    decomposition = al.spd.svd(torch_gpt2.adapter, ["q"], 2)
    registry = decomposition.registry(torch_gpt2.adapter)
    for base, each in (
        (al.spd.Deterministic(decomposition), 1),
        (al.spd.Stochastic(decomposition, n_samples=4), 4),
        (al.spd.PGD(decomposition, steps=5, reoptimise=True, reoptimise_steps=2), 3 * 2 + 2),
    ):
        model = al.MaskedModel(torch_gpt2.adapter, registry, base=base)
        cost = state_cost(model, "domains", {"fits": 300, "masks": 400})
        assert cost == {"parts": {"fits": 300 * each, "masks": 400 * each}, "forward_rows": 700 * each}


@given(components=st.integers(2, 3000), alpha=st.floats(0.001, 0.999))
def test_usable_fractions_are_those_of_which_masks_can_be_drawn(components: int, alpha: float) -> None:
    try:
        al.Bernoulli(components, alpha, 3)
    except al.InputError:
        assert usable([alpha], components) == (0.5,)
    else:
        assert usable([alpha], components) == (alpha,)


def test_usable_fractions_keep_their_order() -> None:
    assert usable([0.5, 0.01, 0.1], 20) == (0.5, 0.1)


def test_masks_that_cannot_be_drawn_are_refused() -> None:
    check_masks([0.1, 0.5], 20, 3, 0)
    check_draws(1, 1)
    for call, match in [
        (lambda: check_masks([0.1], 20, 2, 0), "at least 3, better hundreds; got 2"),
        (lambda: check_masks([0.1, 0.001], 20, 3, 0), "ablates 0.02 of 20 components"),
        (lambda: check_masks([0.1], 20, 3, -1), "seed is an integer"),
        (lambda: check_draws(0, 1), "at least 1"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()


def test_numbers_are_different_ones() -> None:
    assert distinct("alphas", [0.2, 0.1], "[0.1]") == (0.2, 0.1)
    assert distinct("sizes", [25, 10], "[10]") == (25.0, 10.0)
    for bad in ([], [0.1, 0.1]):
        with pytest.raises(al.InputError, match=r"alphas are different numbers, at least one, such as alphas=\[0.1\]"):
            distinct("alphas", bad, "[0.1]")


def test_names_are_needed() -> None:
    check_named("outputs", {"a": 1}, "{'a': 1}")
    with pytest.raises(al.InputError, match=r"outputs go by name, outputs=\{'a': 1\}; got \{\}"):
        check_named("outputs", {}, "{'a': 1}")
