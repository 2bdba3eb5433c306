"""That the benchmark of the toy model of superposition runs, and that it can tell what was recovered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.spd import Decomposition, Part, importance_function


@pytest.fixture(scope="module")
def tms() -> Iterator[Any]:
    """The module of the folder, which is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import spd_tms

        yield spd_tms
    finally:
        sys.path.remove(folder)


def test_a_quick_run(tms: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        sys, "argv", ["spd_tms.py", *["--seeds", "3", "--steps", "2", "--rows", "8", "--target-steps", "3"]]
    )
    monkeypatch.setattr(tms, "PROBES", 20)
    assert tms.main() == 1  # nothing is recovered in two steps
    lines = capsys.readouterr().out.splitlines()
    assert "2 steps of 8 rows" in lines[0]
    assert sum("NOT RECOVERED" in line for line in lines) == 2
    assert sum("feature" in line and "cosine" in line for line in lines) == 10


def test_a_decomposition_by_hand_is_recovered_and_one_that_is_mixed_is_not(tms: Any) -> None:
    """The columns of the first matrix, each important where its own feature is on."""
    angles = torch.arange(5) * 2 * torch.pi / 5
    model = tms.Superposition(torch.stack([angles.cos(), angles.sin()]), torch.zeros(5))
    adapter = al.adapt(model, example=torch.zeros(2, 5))
    function = importance_function("shared_mlp", 5, 5, ())
    with torch.no_grad():
        function.layers[0].W.copy_(10 * torch.eye(5))
        function.layers[0].b.zero_()
    weight = model.squeeze.weight.detach()
    where = next((m.layer, m.name) for m in adapter.layout.modules if m.name == "squeeze")
    good = Decomposition({where: Part(torch.eye(5), weight.T.clone(), function)})
    found = tms.recoveries(adapter, good, 0)["squeeze"]
    assert [one.live for one in found] == [[0], [1], [2], [3], [4]]
    assert all(one.cosine > 0.999 for one in found)
    assert tms.recovered(found)
    mixed = Decomposition({where: Part(torch.eye(5).roll(1, 0), weight.T.clone(), function)})
    assert not tms.recovered(tms.recoveries(adapter, mixed, 0)["squeeze"])
    assert not tms.recovered([*found[:4], found[0]])
