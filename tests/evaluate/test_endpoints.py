"""Everything kept and everything ablated: against the model and edited weights; where there is no gap."""

from __future__ import annotations

import numpy as np
import pytest

import ablationlens as al
from ablationlens.evaluate.endpoints import NEGLIGIBLE, endpoints, gap
from tests import models
from tests.conftest import Host
from tests.passes import before_each_pass


@pytest.mark.parametrize("kind", ["head", "svd"])
def test_the_ends_are_the_model_and_a_copy_without_the_components(gpt2: Host, kind: str) -> None:
    registry, data = gpt2.registry(kind), gpt2.data(3)
    model = al.MaskedModel(gpt2.adapter, registry, output=lambda logits: logits[:, -1, 4])
    full, empty, provenance = endpoints(model, data, label="ends", show_bar=False)
    plain = models.logits_of(gpt2.reference, gpt2.inputs(3))[:, -1, 4]
    without = models.logits_of(models.edited(gpt2.reference, registry), gpt2.inputs(3))[:, -1, 4]
    assert full.dtype == empty.dtype == np.float64
    np.testing.assert_allclose(full, plain.double().numpy(), atol=1e-5)
    np.testing.assert_allclose(empty, without.double().numpy(), atol=1e-4)
    assert provenance["masks"]["levels"] == [1.0, 0.0]
    assert provenance["data"]["examples"] == 3


def test_they_cost_two_passes_of_every_example(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    before_each_pass(small.adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    model = al.MaskedModel(small.adapter, small.registry("row"), output=lambda logits: logits[:, 0])
    endpoints(model, small.data(5), label="ends", rows=5, show_bar=False)
    assert rows == [5, 5]


def test_a_gap_that_is_rounding_is_none() -> None:
    full = np.array([2.0, 1.0, 1.0, -100.0, 0.0, np.nan, 3.0, np.inf])
    less = 0.5 * NEGLIGIBLE
    empty = np.array([0.5, 1.0, 1.0 - less, -100.0 * (1 - less), 0.0, 1.0, np.inf, np.inf])
    found = gap(full, empty)
    assert found[0] == 1.5
    assert np.isnan(found[1:]).all()
    assert gap(np.array([1.0]), np.array([1 - 3 * NEGLIGIBLE]))[0] == pytest.approx(3 * NEGLIGIBLE, rel=1e-6)
    assert gap(np.array([-1.0]), np.array([1.0])).tolist() == [-2.0]  # a gap may be negative
    assert gap(np.array([1e308]), np.array([-1e308])).tolist() != [np.inf]
    assert gap(np.ones((2, 3)), np.zeros((2, 3))).shape == (2, 3)
