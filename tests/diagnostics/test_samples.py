"""Diagnostics on a base of several samples: those of each sample by itself, and means of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.base import Adapter
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.masks.base import Base
from tests.conftest import Host
from tests.outputs.examples import padded

OFF = {"nothing": None, "a head": "L0.head 1", "two": ["L0.head 0", "L1.head 2"]}


class Gates(Base):
    """Gates for each sample and example that are the same for every head."""

    def __init__(self, *of_samples: float) -> None:
        self.of_samples = of_samples

    @property
    def samples(self) -> int:
        return len(self.of_samples)

    @property
    def version(self) -> Any:
        return self.of_samples

    def gates(self, adapter: Adapter, registry: al.Registry, data: al.Batch) -> Tensor:
        return torch.tensor(self.of_samples)[:, None, None].expand(-1, len(data), len(registry)).clone()

    def describe(self) -> dict[str, Any]:
        return {"base": "gates", "samples": list(self.of_samples)}


SAMPLES = (1.0, 0.2, 0.5)


def models_of(host: Host) -> tuple[al.MaskedModel, list[al.MaskedModel]]:
    """A model of a base with three samples, and one for each sample."""
    registry = host.registry("head")
    several, *single = (
        al.MaskedModel(host.adapter, registry, output=al.KL(), base=Gates(*one))
        for one in (SAMPLES, *((sample,) for sample in SAMPLES))
    )
    return several, single


def test_drift_is_the_mean_of_that_of_each_sample(gpt2: Host) -> None:
    several, single = models_of(gpt2)
    data = padded([[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]])
    found, each = al.drift(several, data, OFF), [al.drift(one, data, OFF) for one in single]
    for name in MEASURES:
        expected = np.mean([one.values[name].values for one in each], axis=0)
        assert np.ptp([one.values["kl"].values[1, 0, -1] for one in each]) > 1e-6  # the samples differ
        np.testing.assert_allclose(found.values[name].values, expected, rtol=1e-5, atol=1e-6)
    assert (found.values["kl"].values[0][found.values["real"].values] == 0).all()  # by the same gates in both arms
    for name in ("before", "after"):  # what most samples have, the smallest of several
        tops = np.stack([one.values[name].values for one in each])
        assert np.ptp(tops, axis=0).any()  # the samples differ
        np.testing.assert_array_equal(found.values[name].values, stats.mode(tops, axis=0).mode)
    assert found.table()["top1_changed"].between(0, 1).all()


def test_the_table_is_the_mean_of_that_of_each_sample(gpt2: Host) -> None:
    several, single = models_of(gpt2)
    data = padded([[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]])
    found, each = al.ablation_table(several, data), [al.ablation_table(one, data) for one in single]
    for name in ("effect", *MEASURES):
        expected = np.mean([one.values[name].values for one in each], axis=0)
        np.testing.assert_allclose(found.values[name].values, expected, rtol=1e-4, atol=1e-6)
    assert found.patterns is not None and all(one.patterns is not None for one in each)
    expected = np.mean([one.patterns.values for one in each if one.patterns is not None], axis=0)
    np.testing.assert_allclose(found.patterns.values, expected, rtol=1e-4, atol=1e-6)
    kept, first = found.pattern("L0.head 1"), each[0].pattern("L0.head 1")
    np.testing.assert_array_equal(kept.values, first.values)  # those of the first sample


def test_patterns_have_a_dimension_of_samples(gpt2: Host) -> None:
    several, single = models_of(gpt2)
    data = padded([[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]])
    found = al.attention_patterns(several, data, OFF)
    assert found.dims == ("mask", "sample", "example", "layer", "head", "query", "key")
    for number, one in enumerate(single):
        own = al.attention_patterns(one, data, OFF)
        assert "sample" not in own.dims and "sample" not in own.coords
        np.testing.assert_allclose(found.sel(sample=number).values, own.values, atol=1e-6)
    assert not np.allclose(found.sel(sample=0).fillna(0), found.sel(sample=1).fillna(0))
    alone = al.attention_patterns(several, data, "L0.head 1")
    np.testing.assert_array_equal(alone.values, found.sel(mask="a head").values)
    summary = al.attention_summary(found.sel(mask="two"), data)
    assert summary["previous"].dims == ("sample", "example", "layer", "head")
    with pytest.raises(al.InputError, match=r"several samples of a base: take one, patterns.sel\(sample=0\)"):
        al.plots.attention(alone, layer=1, head=0)
    with pytest.raises(al.InputError, match=r"several samples of a base: take their mean"):
        al.plots.attention_heads(summary, measure="previous")
    al.plots.attention(alone.mean("sample"), layer=1, head=0)
    al.plots.attention_heads(summary.mean("sample"), measure="previous")
