"""What the way in which an attribution was made leaves open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.report.made import made
from ablationlens.results import Attribution, attribution
from tests.evaluate.games import game, scales

COUNT = 40
MODEL, DATA = game(np.ones(COUNT)), scales(1, 2)


def of(errors: np.ndarray | None = None, unidentified: np.ndarray | None = None, **provenance: Any) -> Attribution:
    """Weights 1, 2, ..., 40 for two examples."""
    weights = np.tile(np.arange(1.0, COUNT + 1), (2, 1))
    return attribution(
        "made",
        weights,
        np.zeros(2),
        MODEL.registry,
        DATA.names(),
        provenance=provenance,
        errors=errors,
        unidentified=unidentified,
    )


def findings(one: Attribution) -> dict[str, str]:
    return {finding.text: finding.level for finding in made(one)}


def level_of(one: Attribution, words: str) -> str:
    (level,) = [level for text, level in findings(one).items() if words in text]
    return level


def test_without_a_record_nothing_is_said() -> None:
    assert findings(of()) == {}


def test_what_is_missing_is_a_reason_for_care() -> None:
    one = of(
        quarantined_outputs=1,
        fit={"examples_without_fit": 2},
        unidentified=np.arange(COUNT) < 3,
    )
    assert findings(one).keys() == {
        "Not finite, and left out: 1 output.",
        "Without weights, because too few outputs were finite: 2 examples.",
        "3 of 40 components cannot be told apart by the draws that were made; their weights say nothing by themselves. "
        "More draws would identify them.",
    }
    assert set(findings(one).values()) == {"caution"}
    assert findings(of(quarantined_outputs=0, examples_without_fit=0, unidentified=np.zeros(COUNT, bool))) == {}


BUDGET = {"chosen": "path gradient", "spent": 1200, "budget": 3000, "stopped_early": True}


def test_a_budget() -> None:
    start = "al.attribute chose path gradient and spent 1,200 of 3,000 forward passes"
    assert findings(of(**BUDGET, expected_loss=0.004)) == {
        f"{start}, and stopped early; by its two halves, sampling costs about 0.004 of correlation.": "good"
    }
    late = {**BUDGET, "stopped_early": False}
    assert findings(of(**late, expected_loss=0.02)) == {
        f"{start}; by its two halves, sampling costs about 0.02 of correlation.": "note"
    }
    for unknown in ({}, {"expected_loss": float("nan")}):  # not measured is not good
        assert findings(of(**late, **unknown)) == {f"{start}.": "note"}


@pytest.mark.parametrize(
    ("draws", "level", "words"),
    [
        (19, "caution", "every gate was on the path in about 2: too few for path means"),
        (20, "note", "every gate was on the path in about 2. More draws would sharpen the weights."),
        (99, "note", "More draws"),
        (100, "good", "100 draws, a forward and a backward pass each; every gate was on the path in about 10."),
    ],
)
def test_draws_of_a_path_gradient(draws: int, level: str, words: str) -> None:
    one = of(method="path gradient", draws=draws, masks={"design": "paths", "groups": 10})
    assert level_of(one, words) == level
    assert len(findings(one)) == 1


def test_how_far_path_means_count() -> None:
    shares = {"L0.attn.q": 0.9, "L1.mlp.in": 0.25}
    one = of(method="path gradient", draws=100, masks={"design": "paths", "groups": 10}, shrinkage=shares)
    assert level_of(one, "Path means count for 25% at the least (L1.mlp.in)") == "note"
    most = replace(one, provenance={**one.provenance, "shrinkage": {"L0.attn.q": 0.5}})
    assert level_of(most, "Path means count for 50% at the least") == "good"
    few = replace(one, provenance={**one.provenance, "draws": 19})
    assert not any("Path means count" in text for text in findings(few))


def test_a_real_path_gradient_says_what_it_did() -> None:
    found = al.path_gradient(MODEL, DATA, alpha=0.1, draws=50)
    assert (
        level_of(found, "50 draws, a forward and a backward pass each; every gate was on the path in about 10")
        == "good"
    )
    assert level_of(found, "Path means count") in ("good", "note")


def test_draws_of_a_regression() -> None:
    masks = {"design": "bernoulli", "alpha": 0.1}
    enough = of(draws=80, rank=40, condition=33.42, masks=masks)
    text = "80 draws for 40 components (2.0 for each); estimated condition number 33.4."
    assert findings(enough) == {text: "good"}
    few = of(draws=79, rank=30, masks=masks)
    assert findings(few) == {
        "The masks have rank 30 for 40 components.": "note",
        "79 draws for 40 components (2.0 for each). More draws would sharpen the weights.": "note",
    }
    flagged = of(draws=79, rank=30, masks=masks, unidentified=np.arange(COUNT) < 10)
    assert not any("rank" in text for text in findings(flagged))  # that they cannot be told apart says more


def test_methods_of_gradients() -> None:
    for method in ("gradient x parameter", "attribution patching"):
        assert level_of(of(method=method), "read off a single gradient") == "note"
    diagonal = of(method="integrated gradients", draws=16, masks={"design": "diagonal"})
    assert level_of(diagonal, "Its gradients are taken at 16 points between") == "note"
    assert findings(of(method="leave-one-out", masks={"design": "leave_one_out"})) == {}


def test_methods_are_known_by_the_names_that_they_write() -> None:
    single = al.gradient_x_parameter(MODEL, DATA, show_bar=False)
    several = al.integrated_gradients(MODEL, DATA, steps=4, show_bar=False)
    assert level_of(single, "read off a single gradient") == "note"
    assert level_of(several, "Its gradients are taken at 4 points") == "note"


@pytest.mark.parametrize(
    ("clear", "level", "words"),
    [
        (25, "good", "median, all of them more than 2; of all 40 components 62% are"),
        (24, "good", "24 of them more than 2"),
        (13, "note", "13 of them"),
        (12, "caution", "12 of them"),
    ],
)
def test_standard_errors(clear: int, level: str, words: str) -> None:
    """The strongest weights are 4 errors from 0, and the rest 1: of the 25 strongest, `clear` are told from 0."""
    weights = np.arange(1.0, COUNT + 1)
    errors = np.where(np.arange(COUNT) >= COUNT - clear, weights / 4, weights)
    one = of(errors=np.tile(np.sqrt(2) * errors, (2, 1)))  # the error of a mean of two
    assert level_of(one, words) == level
    assert level_of(one, f"The 25 strongest weights are {4 if clear > 12 else 1} standard errors from 0") == level


def test_errors_that_say_nothing() -> None:
    assert findings(of(errors=np.zeros((2, COUNT)))) == {}
    assert findings(of(errors=np.full((2, COUNT), np.nan))) == {}
