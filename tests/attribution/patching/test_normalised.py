"""Shares of the gap; the parity with TransformerLens is in its own file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ablationlens as al
from ablationlens.attribution import activation_patching, normalised
from ablationlens.results import AttributionByPosition
from tests.conftest import Host


@pytest.fixture
def found(torch_gpt2: Host) -> AttributionByPosition:
    model, data = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head")), torch_gpt2.data(3)
    other = torch_gpt2.inputs(3, seed=5)
    other[1] = torch_gpt2.inputs(3)[1]  # the same input twice: there is nothing to recover
    return activation_patching(model, data, data.like(other), by_position=True)


def test_an_example_without_a_gap_is_not_a_number_and_counted(found: AttributionByPosition) -> None:
    shares = normalised(found)
    assert np.isnan(shares.weights.values[1]).all()
    assert np.isnan(shares.bias.values[1])
    assert shares.provenance["examples_without_gap"] == 1
    assert np.isnan(shares.provenance["gap"]).tolist() == [False, True, False]
    for example in (0, 2):
        gap = found.provenance["clean_output"][example] - found.provenance["corrupt_output"][example]
        assert np.allclose(shares.weights.values[example], found.weights.values[example] / gap)
        assert shares.bias.values[example] == 0
    assert np.isfinite(found.weights.values).all()  # as it was
    assert "gap" not in found.provenance


def test_coordinates_errors_and_type_stay(found: AttributionByPosition, tmp_path: Path) -> None:
    one = replace(found, errors=abs(found.weights).rename("error"))
    shares = normalised(one)
    assert isinstance(shares, AttributionByPosition)
    assert shares.weights.dims == found.weights.dims
    assert shares.weights["layer"].values.tolist() == found.weights["layer"].values.tolist()
    assert shares.weights.name == "weight"
    assert shares.errors is not None
    assert np.allclose(shares.errors.values[[0, 2]], np.abs(shares.weights.values[[0, 2]]))
    total = normalised(found.total())
    assert np.allclose(total.weights.values[0], shares.weights.values[0].sum(0))
    back = al.Attribution.load(total.save(tmp_path / "shares"))
    assert np.array_equal(back.weights.values, total.weights.values, equal_nan=True)


def test_what_has_no_gap_is_refused(found: AttributionByPosition, torch_gpt2: Host) -> None:
    with pytest.raises(al.InputError, match="shares of the gap already"):
        normalised(normalised(found))
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"))
    with pytest.raises(al.InputError, match=r"leave-one-out has no clean and corrupt output .* al\.normalised\("):
        normalised(al.leave_one_out(model, torch_gpt2.data(2)))


def test_what_is_no_gap_depends_on_the_size_of_the_outputs(found: AttributionByPosition) -> None:
    outputs = {"clean_output": [1000.0001, 1.0001, 0.0], "corrupt_output": [1000.0, 1.0, 2e-6]}
    shares = normalised(replace(found, provenance={**found.provenance, **outputs}))
    assert np.isnan(shares.provenance["gap"]).tolist() == [True, False, False]
    assert np.allclose(shares.provenance["gap"][1:], [1e-4, -2e-6], rtol=1e-6)
    tiny = {"clean_output": [1.7e-7, 6e-10, 0.0], "corrupt_output": [5e-9, 1e-9, 0.0]}  # probabilities, for example
    shares = normalised(replace(found, provenance={**found.provenance, **tiny}))
    assert np.isnan(shares.provenance["gap"]).tolist() == [False, False, True]
