"""Which attributions, models and scores belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.errors import InputError
from ablationlens.report.sections import components, sections
from ablationlens.results import attribution_by_position


def test_flat_attributions_of_one_registry_are_one_section(world: Any) -> None:
    run = world.rows
    (section,) = sections(run.model, world.data, run.attributions, run.scores)
    assert section.title == "4,608 rows"
    assert list(section.attributions) == ["COAR", "leave-one-out"]
    assert section.scores is run.scores
    assert section.main[0] == "COAR"


def test_flat_attributions_of_two_registries_are_two(world: Any) -> None:
    mixed = {"COAR": world.rows.attributions["COAR"], "heads": world.heads.attributions["COAR"]}
    found = sections([world.heads.model, world.rows.model], world.data, mixed, {"any": world.rows.scores})
    assert [section.title for section in found] == ["4,608 rows", "16 heads"]
    assert [section.model for section in found] == [world.rows.model, world.heads.model]
    assert [section.scores for section in found] == [world.rows.scores, None]


def test_sections_by_title(world: Any) -> None:
    found = sections(
        [world.rows.model, world.heads.model],
        world.data,
        {"A": world.rows.attributions, "B": world.heads.attributions},
        {"B": world.heads.scores},
    )
    assert [(section.title, section.scores) for section in found] == [("A", None), ("B", world.heads.scores)]


def test_components_in_words(world: Any) -> None:
    assert components(world.rows.model.registry) == "4,608 rows"
    both = world.heads.model.registry + world.rows.model.registry.select(layer=0, module="attn.v")
    assert components(both) == "16 heads and 128 rows"
    resid = al.custom_site("resid", {"torch": "transformer.h.0"}, groups=4)
    assert components(world.rows.model.adapter.registry(resid)) == "4 custom components"


def test_nothing_to_report(world: Any) -> None:
    with pytest.raises(InputError, match="needs an attribution"):
        sections(world.rows.model, world.data, {}, None)


def test_a_model_is_missing(world: Any) -> None:
    with pytest.raises(InputError, match=r"no model was given for '16 heads'.*the models have 4,608 rows"):
        sections(world.rows.model, world.data, world.heads.attributions, None)


def test_other_data(world: Any) -> None:
    with pytest.raises(InputError, match="has 5 examples and the data 2"):
        sections(world.rows.model, world.data.take([0, 1]), world.rows.attributions, None)
    coar = world.rows.attributions["COAR"]
    elsewhere = world.data.take([4, 3, 2, 1, 0])
    made = replace(coar, provenance={**coar.provenance, "data": {"fingerprint": elsewhere.fingerprint()}})
    with pytest.raises(InputError, match="'COAR' is of other data"):
        sections(world.rows.model, world.data, {"COAR": made}, None)
    assert len(sections(world.rows.model, elsewhere, {"COAR": made}, None)) == 1


def test_weights_by_position_are_refused(world: Any) -> None:
    model, zeros = world.heads.model, np.zeros((5, 7, 16))
    bias, names = zeros[:, 0, 0], world.data.names()
    patched: Any = attribution_by_position("patching", zeros, bias, model.registry, names, provenance={})
    with pytest.raises(InputError, match=r"a report takes weights of components.*attribution\.total\(\)"):
        sections(model, world.data, {"patching": patched}, None)


def test_a_section_of_two_registries(world: Any) -> None:
    mixed = {"All": {"a": world.rows.attributions["COAR"], "b": world.heads.attributions["COAR"]}}
    with pytest.raises(InputError, match="of different components"):
        sections([world.rows.model, world.heads.model], world.data, mixed, None)


def test_half_in_sections(world: Any) -> None:
    half = {"Rows": world.rows.attributions, "COAR": world.heads.attributions["COAR"]}
    with pytest.raises(InputError, match="all in sections"):
        sections([world.rows.model, world.heads.model], world.data, half, None)


def test_scores_under_other_names(world: Any) -> None:
    named = {"other": world.rows.attributions["COAR"]}
    with pytest.raises(InputError, match="fit no section"):
        sections(world.rows.model, world.data, named, world.rows.scores)


def test_scores_that_fit_two_sections(world: Any) -> None:
    both = {"Rows": world.rows.attributions, "Heads": world.heads.attributions}
    with pytest.raises(InputError, match=r"fit several sections.*scores=\{'Rows': scores\}"):
        sections([world.rows.model, world.heads.model], world.data, both, world.rows.scores)
