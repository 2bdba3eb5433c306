"""Run every tutorial anew and keep its outputs in it: `make notebooks`.

Figures are saved twice: as the interactive figure, and as a picture for viewers that cannot draw it. The picture needs
Chromium and the package kaleido; without them only the interactive figure is kept.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
PICTURES = """
import warnings
import plotly.io as pio
warnings.filterwarnings("ignore", message="IProgress not found")  # no widgets are needed to run a notebook
try:
    import kaleido
    pio.renderers.default = "plotly_mimetype+png"
    pio.renderers["png"].width, pio.renderers["png"].height = 800, None
except ImportError:
    pio.renderers.default = "plotly_mimetype"
"""


def execute(path: Path, *, seconds: int = 600) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh run."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(PICTURES))
    NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.cells.pop(0)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day change with every run and say nothing
    return notebook


def main(names: list[str]) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar is of no use in a saved notebook
    for path in [HERE / name for name in names] or sorted(HERE.glob("*.ipynb")):
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main(sys.argv[1:])
