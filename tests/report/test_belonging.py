"""Which section a study belongs to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import ablationlens as al
from ablationlens.evaluate.studies import OutOfDistribution
from ablationlens.report.belonging import by_section, fingerprint
from tests.plots.results import ceilings, curves, gaps
from tests.plots.studies import elsewhere

SECTIONS = {"Rows": "aa", "Heads": "bb"}


def of(components: str | None) -> OutOfDistribution:
    """A study of the components with this fingerprint."""
    registry = {} if components is None else {"registry": {"components": 9, "fingerprint": components}}
    return replace(elsewhere({"near": 0.9}), provenance={"alpha": 0.05, **registry})


ROWS, HEADS, ANY = of("aa"), of("bb"), of(None)


def test_each_goes_to_the_section_of_its_components() -> None:
    found = by_section([HEADS, ROWS, of("bb")], SECTIONS)
    assert list(found) == ["Heads", "Rows"]
    assert [one.provenance["registry"]["fingerprint"] for one in found["Heads"]] == ["bb", "bb"]
    assert found["Heads"][0] is HEADS
    assert found["Rows"] == (ROWS,)


def test_one_alone_and_none() -> None:
    assert by_section(HEADS, SECTIONS) == {"Heads": (HEADS,)}
    assert by_section(None, SECTIONS) == {}
    assert by_section([], SECTIONS) == {}


def test_what_does_not_say_its_components_goes_to_the_first() -> None:
    assert fingerprint(ANY) is None
    assert fingerprint(ROWS) == "aa"
    assert by_section([HEADS, ANY], SECTIONS) == {"Heads": (HEADS,), "Rows": (ANY,)}


def test_by_title() -> None:
    found = by_section({"Heads": [HEADS, ANY], "Rows": ROWS}, SECTIONS)
    assert found == {"Heads": (HEADS, ANY), "Rows": (ROWS,)}


def test_every_kind_of_evidence() -> None:
    several = [ceilings(), curves(), gaps(), ANY]
    assert by_section(several, SECTIONS) == {"Rows": tuple(several)}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"Columns": ROWS}, "studies are of section 'Columns'; the sections are 'Rows', 'Heads'"),
        ({"Rows": HEADS}, "the OutOfDistribution of section 'Rows' is of other components than it"),
        ([of("cc")], "is of other components than those of the sections 'Rows', 'Heads': give an attribution of these"),
        ([ROWS, "study"], "ablation_experiment return; got str"),
        ({"Rows": [3]}, "return; got int"),
        ({"Rows": "study"}, "return; got str"),
        (3, "return; got int"),
    ],
)
def test_what_does_not_belong_is_refused(given: Any, match: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        by_section(given, SECTIONS)
