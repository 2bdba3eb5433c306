"""Names of measures of drift."""

from __future__ import annotations

import pytest

import ablationlens as al
from ablationlens.diagnostics.clean import MEASURES as MEASURED
from ablationlens.plots.measures import MEASURES, Measure, measure_named


def test_every_measure_of_drift_has_a_name() -> None:
    assert tuple(MEASURES) == tuple(MEASURED)


def test_axes_carry_units() -> None:
    assert Measure("Some long words", "short", "nats").axis == "Some long words, nats"
    assert Measure("Some long words", "short", "nats").narrow_axis == "short, nats"
    assert Measure("Some long words", "short").axis == "Some long words"
    assert Measure("Some long words", "short").narrow_axis == "short"


def test_an_unknown_measure_is_refused_with_those_that_there_are() -> None:
    assert measure_named("kl") is MEASURES["kl"]
    with pytest.raises(al.InputError, match=r"no measure 'KL': the measures are kl, reverse_kl, js, .*rank_change"):
        measure_named("KL")
