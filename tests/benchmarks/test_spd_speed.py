"""That the benchmark of rank-one components runs, and that its bare loop does what a training does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.passes import before_each_pass


@pytest.fixture(scope="module")
def speed() -> Iterator[Any]:
    """The module of the folder, which is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import spd_speed

        yield spd_speed
    finally:
        sys.path.remove(folder)


def test_a_quick_run(speed: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["spd_speed.py", "--quick"])
    monkeypatch.setattr(speed, "POSITIONS", 4)
    speed.main()
    lines = capsys.readouterr().out.splitlines()
    assert "8 modules, 1,024 components" in lines[0]
    assert lines[1].startswith("milliseconds: plain ")
    assert lines[3].startswith("steps a second: ours ")


def test_the_bare_loop_runs_the_model_as_often_as_a_training(speed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "POSITIONS", 4)
    adapter, data, _, recipe = speed.model_and_data()
    rows: list[int] = []
    before_each_pass(adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    session, step = speed.ours(adapter, data, recipe)
    step()
    session.__exit__(None, None, None)
    bare, calls = speed.Bare(adapter, data, recipe), []
    handle = adapter.model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    before = [parameter.detach().clone() for parameter in bare.decomposition.parameters()]
    bare.step()
    handle.remove()
    bare.close()
    assert rows == calls == [16] * 10
    assert not any(torch.equal(a, b) for a, b in zip(before, bare.decomposition.parameters(), strict=True))
