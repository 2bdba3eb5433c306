"""Sentences follow from the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ablationlens.report.answer import answer
from ablationlens.report.facts import compared, fitted_alpha, found, shown_alpha
from ablationlens.report.sections import Section
from ablationlens.report.tables import component_columns, examples, provenance_entries
from ablationlens.report.trust import trust


@pytest.fixture
def section(world: Any) -> Section:
    return Section("Rows", world.rows.model, world.rows.attributions, world.rows.scores)


def texts(section: Section, method: str) -> dict[str, str]:
    return {finding.text: finding.level for finding in trust(section, method)}


def level_of(section: Section, method: str, words: str) -> str:
    (level,) = [level for text, level in texts(section, method).items() if words in text]
    return level


def with_scores(section: Section, pearson: float) -> Section:
    assert section.scores is not None
    frame = section.scores.frame.assign(pearson=pearson)
    return replace(section, scores=replace(section.scores, frame=frame))


def test_found_looks_into_nested_entries() -> None:
    assert found({"a": {"b": {"alpha": 0.1}}, "alpha": None}, "alpha") == 0.1
    assert found({"masks": {"draws": 7}}, "rank", "draws") == 7
    assert found({}, "alpha") is None


def test_compared_where_the_main_one_was_fitted(section: Section) -> None:
    assert fitted_alpha(section.attributions["COAR"]) == shown_alpha(section) == 0.05
    assert fitted_alpha(section.attributions["leave-one-out"]) is None
    assert {each.alpha for each in compared(section).values()} == {0.05}


@pytest.mark.parametrize(
    ("pearson", "level", "words"),
    [
        (0.95, "good", "close description"),
        (0.8, "good", "one by one"),
        (0.5, "note", "groups of components rather than single"),
        (0.2, "caution", "do not read single weights"),
        (-0.2, "caution", "cannot be told from no prediction"),
        (float("nan"), "caution", "undefined for every example"),
    ],
)
def test_verdict_on_the_correlation(section: Section, pearson: float, level: str, words: str) -> None:
    assert level_of(with_scores(section, pearson), "COAR", "Held-out correlation") == level
    assert any(words in text for text in texts(with_scores(section, pearson), "COAR"))


def test_undefined_examples_are_counted(section: Section) -> None:
    assert section.scores is not None
    frame = section.scores.frame.copy()
    frame.loc[frame["example"] == frame["example"].iloc[0], "pearson"] = np.nan
    changed = replace(section, scores=replace(section.scores, frame=frame))
    assert level_of(changed, "COAR", "1 of 5 examples had no correlation") == "caution"


def test_overlap_with_the_fit(section: Section) -> None:
    assert level_of(section, "COAR", "None of the 200 test masks") == "good"
    assert section.scores is not None
    changed = replace(section, scores=replace(section.scores, overlap={0.02: 0, 0.05: 9, 0.1: 0}))
    assert level_of(changed, "COAR", "9 of 200 at 5%") == "caution"
    coar = section.attributions["COAR"]
    sampled = replace(coar, provenance={**coar.provenance, "masks": {"design": "captum"}})
    theirs = replace(section, attributions={**section.attributions, "Shapley": sampled})
    assert level_of(theirs, "COAR", "Captum draws the masks of Shapley") == "note"


def test_completeness_gap(section: Section) -> None:
    coar = section.attributions["COAR"]
    full = (coar.bias + coar.weights.sum("component")).to_numpy()
    exact = replace(coar, provenance={**coar.provenance, "full_output": full.tolist()})
    changed = replace(section, attributions={"COAR": exact})
    assert level_of(changed, "COAR", "bias plus weights are the model's own output: by construction") == "good"
    near = replace(coar, provenance={**coar.provenance, "full_output": (1.01 * full).tolist()})
    assert level_of(replace(section, attributions={"COAR": near}), "COAR", "bias plus weights miss") == "good"
    assert level_of(section, "COAR", "bias plus weights miss") == "note"


def test_weights_that_change_sign_between_examples(section: Section) -> None:
    coar = section.attributions["COAR"]
    signs = np.array([1, -1, 1, -1, 1.0])
    values = signs[:, None] * coar.weights.values[:1]
    mixed = replace(coar, weights=coar.weights.copy(data=values))
    changed = replace(section, attributions={"COAR": mixed})
    assert level_of(changed, "COAR", "strongest components, 0 have the same sign") == "caution"


def test_care_comes_first(section: Section) -> None:
    levels = [finding.level for finding in trust(section, "COAR")]
    assert levels == sorted(levels, key=["caution", "note", "good"].index)


def test_answer_names_the_strongest(section: Section) -> None:
    table = section.attributions["COAR"].table()
    first, where, predicts = answer(section)
    assert f"<strong>{table[table.weight > 0].component.iloc[0]}</strong>" in first
    assert f"<strong>{table[table.weight < 0].component.iloc[0]}</strong>" in first
    assert "46 strongest of 4,608 components" in where
    assert "200 held-out masks that ablate 5%" in predicts


def test_answer_names_no_weak_components(section: Section) -> None:
    coar = section.attributions["COAR"]
    values = np.full_like(coar.weights.values, 0.01)
    values[:, 7] = -1
    changed = replace(section, attributions={"COAR": replace(coar, weights=coar.weights.copy(data=values))})
    name = coar.components[7]
    expected = f"By COAR, keeping <strong>{name}</strong> (\u22121.00) lowers the margin most; no part raises it even"
    assert answer(changed)[0].startswith(expected)


def test_weights_without_a_value(section: Section) -> None:
    """An example without a fit has NaN weights, and the others still count."""
    coar = section.attributions["COAR"]
    values = coar.weights.values.copy()
    values[2] = np.nan
    changed = replace(section, attributions={"COAR": replace(coar, weights=coar.weights.copy(data=values))})
    assert all(value is not None for value in component_columns(changed)[1]["values"])
    assert len(answer(changed)) == 3
    assert trust(changed, "COAR")


def test_provenance_side_by_side() -> None:
    entries = provenance_entries(
        [
            {"output": {"output": "Margin"}, "draws": 15_000, "x": [1.0] * 20, "hash": "0f" * 32},
            {"output": {"output": "Margin"}, "masks": {"include_bias": False}},
        ]
    )
    lines = {entry.key: entry.cells for entry in entries}
    assert lines["output"] == ("Margin", "Margin")
    assert lines["draws"] == ("15,000", "\u2014")
    assert lines["x"][0] == "1, 1, 1, 1, 1, 1, 1, 1 … (20 in all)"
    assert lines["hash"][0] == "0f0f0f0f0f0f…"
    assert lines["masks · include bias"][1] == "no"
    assert [entry.key for entry in entries if entry.same] == ["output"]


def test_examples_show_line_ends(world: Any) -> None:
    shown = examples(world.data)
    assert len(shown) == 5
    assert "⏎" in "".join(shown[0].tokens)
    assert "⇥" in "".join(shown[4].tokens)
