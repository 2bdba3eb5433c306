"""What the methods of captum share: captum only when it is asked for, and what is noted of a run."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import captum.attr
import pytest
import torch

import ablationlens as al
from ablationlens.attribution.with_captum import captum_attr, run_provenance
from ablationlens.packing import Packing
from tests.conftest import Host


def test_it_is_captums_own_module() -> None:
    assert captum_attr() is captum.attr


def test_without_captum_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(al.MissingExtraError, match=r"captum"):
        captum_attr()


def test_a_run_is_described_by_what_decides_it(small: Host) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), al.Zero(include_bias=True), al.Logit(1))
    data = small.data(3)
    found = run_provenance(model, data, Packing(4, 2), 1.23456)
    assert json.loads(json.dumps(found)) == found
    assert {key: found[key] for key in model.describe()} == model.describe()
    assert found["data"] == {"examples": 3, "fingerprint": data.fingerprint()}
    assert found["packing"] == {"draws": 4, "examples": 2}
    assert found["threads"] == torch.get_num_threads()
    assert found["packages"]["captum"] == metadata.version("captum")
    assert found["packages"]["torch"] == torch.__version__
    assert found["seconds"] == 1.23
    other = run_provenance(model.having(ablation=al.Zero()), small.data(3, seed=1), Packing(4, 2), 1.0)
    assert other["ablation"] != found["ablation"]
    assert other["data"]["fingerprint"] != found["data"]["fingerprint"]
