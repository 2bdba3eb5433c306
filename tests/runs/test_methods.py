"""Methods of a configuration: each is the function of that name with these options, and costs what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import ablationlens as al
from ablationlens.attribution.conductance import conductance, internal_influence
from ablationlens.attribution.mask_gradient import gradient_x_parameter, integrated_gradients
from ablationlens.attribution.shapley import shapley
from ablationlens.errors import InputError, MissingExtraError
from ablationlens.runs import config_file, methods
from ablationlens.runs import running as runs
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.runs.running import Prepared
from tests.runs.tiny_runs import Command, WriteConfig

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

SEED = 3
Call = Callable[[al.MaskedModel, al.Batch], al.Attribution]
CASES: dict[str, tuple[Any, Call]] = {
    "attribute": (
        {"attribute": {"alpha": 0.25, "budget": 90, "tolerance": None}},
        lambda model, data: al.attribute(model, data, alpha=0.25, budget=90, tolerance=None, seed=SEED),
    ),
    "attribute by default": (
        "attribute",
        lambda model, data: al.attribute(model, data, alpha=0.0625, budget=1000, tolerance=0.005, seed=SEED),
    ),
    "path gradient": (
        {"path_gradient": {"alpha": 0.25, "draws": 30, "rho": 0.25}},
        lambda model, data: al.path_gradient(model, data, alpha=0.25, draws=30, rho=0.25, seed=SEED),
    ),
    "COAR": (
        {"coar": {"alpha": 0.25, "draws": 40, "design": "subset", "solver": "least_squares"}},
        lambda model, data: al.coar(
            model, data, alpha=0.25, draws=40, design="subset", solver="least_squares", seed=SEED
        ),
    ),
    "leave-one-out": ("leave_one_out", al.leave_one_out),
    "gradient x parameter": ("gradient_x_parameter", gradient_x_parameter),
    "integrated gradients": (
        {"integrated_gradients": {"steps": 7}},
        lambda model, data: integrated_gradients(model, data, steps=7),
    ),
    "Shapley values": (
        {"shapley": {"method": "kernel", "samples": 60}},
        lambda model, data: shapley(model, data, method="kernel", samples=60, seed=SEED),
    ),
    "exact Shapley values": (
        {"shapley": {"method": "exact"}},
        lambda model, data: shapley(model, data, method="exact"),
    ),
    "conductance": ({"conductance": {"steps": 6}}, lambda model, data: conductance(model, data, steps=6)),
    "internal influence": (
        {"internal_influence": {"steps": 6}},
        lambda model, data: internal_influence(model, data, steps=6),
    ),
}


def prepared(write_config: WriteConfig, method: Any) -> Prepared:
    asked = config_file.load(write_config(method=method, seed=SEED, registry="head"))
    return runs.prepare(asked)


@pytest.mark.parametrize("name", CASES)
def test_each_method_is_the_function_of_its_name(
    command: Command, write_config: WriteConfig, tmp_path: Path, name: str
) -> None:
    method, function = CASES[name]
    config = write_config(method=method, seed=SEED)
    code, printed, err = command("run", config, "--out", tmp_path / "out")
    assert code == 0, err
    asked = config_file.load(config)
    found = al.Attribution.load(runs.attribution_path(tmp_path / "out", asked.method[0]))
    alone = runs.prepare(asked)
    wanted = function(alone.model, alone.data)
    np.testing.assert_array_equal(found.weights.values, wanted.weights.values)
    np.testing.assert_array_equal(found.bias.values, wanted.bias.values)
    for key in wanted.provenance.keys() & {"tolerance", "budget", "spent", "draws", "steps", "samples", "solver"}:
        assert found.provenance[key] == wanted.provenance[key]
    assert printed.startswith(f"{asked.method[0].name}: ")


class Rows:
    """Forward rows of a model, those with a gradient three times."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.count = 0
        model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = cast("torch.Tensor", args[0] if args else kwargs["input_ids"])
        self.count += len(inputs) * (3 if torch.is_grad_enabled() else 1)


@pytest.mark.parametrize(
    "method",
    [
        {"attribute": {"alpha": 0.25, "budget": 100, "tolerance": None}},
        {"path_gradient": {"alpha": 0.25, "draws": 20}},
        {"coar": {"alpha": 0.25, "draws": 40}},
        "leave_one_out",
        "gradient_x_parameter",
        {"integrated_gradients": {"steps": 9}},
        {"shapley": {"samples": 4}},
        {"shapley": {"method": "exact"}},
    ],
    ids=str,
)
def test_passes_are_those_that_are_made(write_config: WriteConfig, tmp_path: Path, method: Any) -> None:
    one = prepared(write_config, method)
    asked = one.config.method[0]
    rows = Rows(cast("PreTrainedModel", one.model.adapter.model))
    methods.run_method(asked, one.model, one.data, seed=SEED, store=tmp_path / "store")
    told = methods.passes(asked, len(one.model.registry))
    assert told is not None
    made = rows.count / len(one.data)
    # a pass that keeps everything may be made twice; a budget need not be spent to the last pass
    assert told - (3 if asked.attribute else 1) <= made <= told + 2


def test_passes_of_default_samples_and_of_none(write_config: WriteConfig) -> None:
    def of(method: Any) -> int | None:
        return methods.passes(prepared(write_config, method).config.method[0], 8)

    assert (of("shapley"), of({"shapley": {"method": "kernel"}})) == (32 * 8 + 2, 16 * 8 + 2)
    assert of("conductance") is of("internal_influence") is None


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"attribute": {"alpha": 0.01}}, "smallest alpha that gives one is 0.0625"),
        ({"path_gradient": {"alpha": 0.25, "draws": 9, "rho": 0.6}}, "at most 2 \\* alpha = 0.5"),
        ({"coar": {"alpha": 0.25, "draws": 8, "solver": "least_squares"}}, "draws"),
    ],
)
def test_what_would_fail_is_found_before_anything_runs(write_config: WriteConfig, method: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        prepared(write_config, ["leave_one_out", method])


@pytest.fixture
def without_captum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "captum", None)
    yield


@pytest.mark.usefixtures("without_captum")
def test_a_missing_captum_is_found_before_anything_runs(write_config: WriteConfig) -> None:
    for method in ("shapley", "conductance", "internal_influence"):
        with pytest.raises(MissingExtraError, match="captum"):
            prepared(write_config, ["leave_one_out", method])
    assert prepared(write_config, {"shapley": {"method": "exact"}}).config.method[0].shapley is not None


def test_every_method_is_tested() -> None:
    tested = {next(iter(method)) if isinstance(method, dict) else method for method, _ in CASES.values()}
    assert tested == set(MethodConfig.model_fields)
