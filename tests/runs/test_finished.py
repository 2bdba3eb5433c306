"""Going on with a run: what is finished is taken as it is, more work is done, another run is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.runs import config_file, methods
from ablationlens.runs import running as runs
from tests.runs.tiny_runs import Command, Refused, WriteConfig

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

QUICK: list[Any] = [
    {"attribute": {"alpha": 0.25, "budget": 30}},
    {"path_gradient": {"alpha": 0.25, "draws": 10, "name": "paths"}},
]


@pytest.fixture
def out(write_config: WriteConfig, tmp_path: Path) -> Path:
    """A directory with a finished run."""
    folder = tmp_path / "out"
    config = config_file.load(write_config(method=QUICK))
    runs.begin(config, folder, resume=False)
    runs.execute(runs.prepare(config), folder)
    return folder


def test_what_is_finished_is_not_computed_again(
    command: Command, write_config: WriteConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(methods, "run_method", never)
    before = {path.name: path.read_bytes() for path in out.glob("[ap]*.safetensors")}
    code, printed, err = command("run", write_config(method=QUICK), "--out", out, "--resume")
    assert code == 0, err
    assert err.count("finished already, in") == 2 and "attribute: path gradient, " in printed
    assert {path.name: path.read_bytes() for path in out.glob("[ap]*.safetensors")} == before


@pytest.mark.parametrize("damage", [b"", b"damaged"])
def test_what_is_missing_or_damaged_is_computed_again(
    command: Command, write_config: WriteConfig, out: Path, damage: bytes
) -> None:
    path = out / "attribute.safetensors"
    before = al.Attribution.load(path)
    path.write_bytes(damage) if damage else path.unlink()
    code, _, err = command("run", write_config(method=QUICK), "--out", out, "--resume")
    assert code == 0, err
    assert err.count("finished already, in") == 1
    np.testing.assert_array_equal(al.Attribution.load(path).weights.values, before.weights.values)


def test_more_work_is_done(command: Command, write_config: WriteConfig, out: Path) -> None:
    method = [{"attribute": {"alpha": 0.25, "budget": 60}}, QUICK[1]]
    code, _, err = command("run", write_config(method=method), "--out", out, "--resume")
    assert code == 0, err
    assert err.count("finished already, in") == 1
    assert al.Attribution.load(out / "attribute.safetensors").provenance["budget"] == 60
    assert "budget: 60" in (out / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seed": 1}, "attribute.safetensors belongs to another run: seed is 0 there and 1 now"),
        ({"output": "cross_entropy"}, 'output.output is "Margin" there and "CrossEntropy" now'),
        ({"ablation": "mean"}, 'ablation.ablation is "Zero" there and "Mean" now'),
        ({"registry": {"kinds": "head", "layers": 0}}, "registry.components is 8 there and 4 now"),
        ({"data": {"file": "texts.txt", "count": 2}}, "data.examples is 3 there and 2 now"),
        ({"method": [{"attribute": {"alpha": 0.5}}]}, "alpha is 0.25 there and 0.5 now"),
        ({"method": [{"integrated_gradients": {"name": "paths"}}]}, 'method is "path_gradient" there'),
    ],
)
def test_another_run_is_refused(
    refused: Refused, write_config: WriteConfig, out: Path, fields: dict[str, Any], expected: str
) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    config = write_config(**{"method": QUICK, **fields})
    line = refused("run", config, "--out", out, "--resume")
    assert expected in line and line.rstrip().endswith("Choose another directory for this one")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
