"""The demo: which rows and heads of the bundled model `domains` write Python? Two runs and one report, in a minute."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ablationlens.adapters.dispatch import adapt
from ablationlens.errors import ConfigError
from ablationlens.masked_model import Sweep
from ablationlens.masks.designs import Bernoulli
from ablationlens.report import report
from ablationlens.runs import methods
from ablationlens.runs import running as runs
from ablationlens.runs.config import RunConfig
from ablationlens.runs.loading import open_model
from ablationlens.runs.summary import told

BUDGET = 1000
"""Forward passes of the data that `attribute` may spend on the rows; leave-one-out takes 4,609."""
TIMED_PASSES = 15
"""Forward passes that the estimate of the time is measured from."""
AROUND = 4.0
"""Seconds for what is no forward pass: predictions, their intervals, figures and the page."""

_SHARED: dict[str, Any] = {
    "model": {"name": "domains", "host": "transformer_lens"},
    "data": {"domain": "python", "tokens": 16, "count": 6},
}
RUNS: dict[str, dict[str, Any]] = {
    "rows": {
        **_SHARED,
        "registry": {"kinds": "row"},
        "method": [{"attribute": {"alpha": 0.05, "budget": BUDGET}}, "leave_one_out", "gradient_x_parameter"],
        "evaluate": {"alphas": [0.02, 0.05, 0.1], "draws": 300},
    },
    "heads": {
        **_SHARED,
        "registry": {"kinds": "head"},
        "method": [
            {"attribute": {"alpha": 0.125, "budget": 600, "name": "attribute (12.5%)"}},
            {"attribute": {"alpha": 0.25, "budget": 600, "name": "attribute (25%)"}},
            "leave_one_out",
            "gradient_x_parameter",
        ],
        "evaluate": {"alphas": [0.125, 0.25], "draws": 300},
    },
}
"""Name of the folder, and of the section in the report -> configuration of the run."""


@dataclass(frozen=True)
class Estimate:
    """What the demo costs.

    Attributes:
        rows: forward rows of all its runs at most, a gradient counted as three.
        seconds: how long they take, page included, from a few timed passes.
    """

    rows: int
    seconds: float


def begin(folder: Path) -> bool:
    """Claim a directory; whether a demo was begun there, and goes on.

    Raises:
        ConfigError: if the directory is taken by something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file: give a directory")
    begun = is_demo(folder)
    if folder.is_dir() and any(folder.iterdir()) and not begun:
        raise ConfigError(f"--out {folder} is not empty and holds no demo: choose another directory")
    return begun


def is_demo(folder: Path) -> bool:
    """Whether a demo was begun in a directory."""
    return any((folder / name / runs.CONFIG).is_file() for name in RUNS)


def prepare() -> dict[str, runs.Prepared]:
    """Load the model once, and cut it by rows and by heads."""
    configs = {name: RunConfig.model_validate(content) for name, content in RUNS.items()}
    opened = open_model(configs["rows"].model)
    adapter = adapt(opened.model)
    return {name: runs.prepare(config, opened, adapter) for name, config in configs.items()}


def estimate(prepared: Mapping[str, runs.Prepared]) -> Estimate:
    """Forward rows of all runs, and the time they take, measured from a few passes."""
    total, seconds = 0, AROUND
    for one in prepared.values():
        config = one.config
        draws = len(config.alphas) * config.evaluate.draws
        draws += sum(methods.passes(method, len(one.model.registry)) or 0 for method in config.method)
        rows = draws * len(one.data)
        total += rows
        seconds += rows * _row_seconds(one)
    return Estimate(total, seconds)


def _row_seconds(prepared: runs.Prepared) -> float:
    """Seconds of one forward row, sampling of its mask included."""
    sweep = Sweep(prepared.model, prepared.data, Bernoulli(len(prepared.model.registry), 0.05, 10_000))
    draws = sweep.packing.draws
    sweep.outputs(0, draws)  # the first pass also pays for what is set up once
    return _median_seconds(lambda: sweep.outputs(0, draws), TIMED_PASSES) / (draws * len(prepared.data))


def _median_seconds(action: Callable[[], object], times: int) -> float:
    """Of several, because one alone may have had to wait for other work on the machine."""
    seconds: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def execute(prepared: Mapping[str, runs.Prepared], folder: Path) -> dict[str, runs.Results]:
    """Run what is not done yet."""
    found: dict[str, runs.Results] = {}
    for name, one in prepared.items():
        runs.begin(one.config, folder / name, resume=True)
        found[name] = runs.execute(one, folder / name)
    return found


def read(folder: Path) -> dict[str, runs.Results]:
    """What a demo has left in its directory.

    Raises:
        StoreError: if it is not finished, or a file is damaged.
    """
    return {name: runs.read(folder / name)[1] for name in RUNS}


def summary(prepared: Mapping[str, runs.Prepared], found: Mapping[str, runs.Results]) -> Iterator[str]:
    """What was done, and how far to trust it."""
    for name, one in prepared.items():
        for line in told(one, found[name]):
            yield line if line.startswith(" ") else f"{name}, {line}"


def table(found: Mapping[str, runs.Results]) -> pd.DataFrame:
    """Correlations of all runs on held-out masks."""
    frames = []
    for name, results in found.items():
        frame = results.scores.table()
        frame.insert(0, "components", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write_report(path: Path, prepared: Mapping[str, runs.Prepared], found: Mapping[str, runs.Results]) -> Path:
    """One page with a section for each run."""
    return report(
        path,
        [one.model for one in prepared.values()],
        prepared["rows"].data,
        attributions={name.capitalize(): results.attributions for name, results in found.items()},
        scores={name.capitalize(): results.scores for name, results in found.items()},
        title="Which parts of a language model write Python?",
    )
