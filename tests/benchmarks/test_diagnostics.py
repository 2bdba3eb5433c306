"""That the benchmark of diagnoses runs, and that what it compares with is the same forward passes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from tests.passes import before_each_pass


@pytest.fixture(scope="module")
def diagnostics() -> Iterator[Any]:
    """The module of the folder, which is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import diagnostics

        yield diagnostics
    finally:
        sys.path.remove(folder)


def test_a_quick_run(diagnostics: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["diagnostics.py", "--quick"])
    monkeypatch.setattr(diagnostics, "peak", lambda name, parts, texts: parts)  # new processes take too long here
    diagnostics.main()
    lines = capsys.readouterr().out.splitlines()
    assert "16 heads, 4 texts" in lines[0]
    for name in diagnostics.DIAGNOSES:
        ratio, peak = (line.removeprefix(name).split() for line in lines if line.startswith(name))
        assert float(ratio[0]) > 0
        assert peak == ["4", "16"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_what_a_process_for_memory_does(diagnostics: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in diagnostics.DIAGNOSES:
        diagnostics.show_peak(name, 3, 2)
        assert float(capsys.readouterr().out) >= 0


def test_the_bare_passes_are_those_of_the_diagnoses(diagnostics: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = diagnostics.examples(6)
    masks = diagnostics.each_alone(len(model.registry), 16)
    rows: list[int] = []
    before_each_pass(model.adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    found: list[list[int]] = []
    for work in (
        diagnostics.bare(model, data, masks),
        *(diagnostics.diagnosis(n, model, data, masks) for n in diagnostics.DIAGNOSES),
    ):
        rows.clear()
        work()
        found.append(list(rows))
    assert found[0] == found[1] == found[2]
    assert sum(found[0]) == 6 * 17
    assert torch.equal(masks.sum(0), torch.full((16,), 15.0))
    assert isinstance(model, al.MaskedModel)
