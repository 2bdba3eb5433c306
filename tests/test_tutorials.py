"""Every tutorial runs from top to bottom, opens with a question, ends with its answer and has its figures saved."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.ipynb"))


def test_there_are_tutorials() -> None:
    assert TUTORIALS


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")  # tests run side by side
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert [output for output in shown if "application/vnd.plotly.v1+json" in output.get("data", {})]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_saved_with_its_figures(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.splitlines()[0].endswith("?"), "a tutorial opens with a question"
    assert "answer" in notebook.cells[-1].source.splitlines()[0], "and ends with the answer"
    for cell in notebook.cells:
        if ".show()" in cell.source:
            kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
            assert {"application/vnd.plotly.v1+json", "image/png"} <= kinds, "make notebooks, with kaleido and Chromium"
