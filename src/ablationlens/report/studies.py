"""Studies as the page shows them: a figure, what it says, and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.plots.labels import counted, fixed, minus, percent
from ablationlens.plots.whiskers import numbers
from ablationlens.report.catalogue import kind_of
from ablationlens.report.evidence import Evidence
from ablationlens.report.figures import Figure, figure_of
from ablationlens.report.opened import Opened
from ablationlens.report.tables import Entry, provenance_entries

WORDS = {
    "r2": "R²",
    "p": "p",
    "cpr": "CPR",
    "cmd": "CMD",
    "kl": "KL",
    "kl_se": "± KL",
    "reverse_kl": "Reverse KL",
    "js": "JS",
    "effect_se": "± effect",
    "top1_changed": "Top-1 changed",
}
"""Heads and cells of tables that are no plain words."""
MOST_BESIDE = 7
"""Columns of a table that has room beside a figure."""
LONG = 12
"""Rows up to which a table is shown whole."""
COUNTS_OF_NOTHING = ("undefined", "left_out")
"""Columns that are left out where they are 0 throughout."""


@dataclass(frozen=True)
class Shown:
    """One study on the page.

    Attributes:
        key: what the ids of its elements begin with.
        title: the question that it answers.
        says: the answer, in a sentence.
        figures: its figures.
        opened: what a click on a cell of the last of them opens, if that is more than the cell says.
        wide: whether figures or table need the width of the page, so that one is below the other.
        heads: of the table: text, and whether the column holds numbers.
        rows: of the table.
        note: what it cost.
        provenance: how it was made.
    """

    key: str
    title: str
    says: str
    figures: list[Figure]
    opened: Opened | None
    wide: bool
    heads: list[tuple[str, bool]]
    rows: list[list[str]]
    note: str
    provenance: list[Entry]

    @property
    def long(self) -> bool:
        """Whether its table is shown page by page."""
        return len(self.rows) > LONG


def shown(one: Evidence, key: str, model: MaskedModel | None = None, data: Batch | None = None) -> Shown:
    """A study as the template needs it.

    Args:
        one: the study.
        key: what the ids of its elements begin with.
        model: of the section that it stands in: what it was made with instead is said.
        data: of the page.
    """
    kind = kind_of(one)
    table = kind.table(one)
    empty = [name for name in COUNTS_OF_NOTHING if name in table and not numbers(table, name).any()]
    table = table.drop(columns=empty)
    heads = _heads(table)
    figures = [figure_of(figure, f"{key}-{number}") for number, figure in enumerate(kind.figures(one))]
    return Shown(
        key=key,
        title=f"{kind.title} ({name})" if (name := one.provenance.get("name")) else kind.title,
        says=kind.says(one),
        figures=figures,
        opened=None if kind.opens is None else kind.opens(one, figures[-1].id, f"{key}-opened"),
        wide=kind.wide or len(heads) > MOST_BESIDE,
        heads=heads,
        rows=_cells(table),
        note=" ".join(filter(None, [_note(one.provenance), _elsewhere(one.provenance, model, data)])),
        provenance=provenance_entries([one.provenance]),
    )


def _note(provenance: Mapping[str, Any]) -> str:
    """What made the attributions of a study, and its cost."""
    method, draws, cost = (provenance.get(key) for key in ("method", "fit_draws", "cost"))
    sentences: list[str] = []
    if method is not None:
        sentences.append(f"Attributions by {method}" + (f", {draws:,} draws each." if isinstance(draws, int) else "."))
    if isinstance(cost, Mapping) and cost.get("forward_rows") is not None:
        sentences.append(f"Cost: {counted(int(cost['forward_rows']), 'forward row')}, a gradient counted as 3.")
    return " ".join(sentences)


def _elsewhere(provenance: Mapping[str, Any], model: MaskedModel | None, data: Batch | None) -> str:
    """What it was made with, where that is not what the section is about."""
    other: list[str] = []
    found: Any = provenance.get("data")
    own = found.get("fingerprint") if isinstance(found, Mapping) else None
    if data is not None and own is not None and own != data.fingerprint():
        count: Any = found.get("examples")
        other.append(f"other examples ({count:,})" if isinstance(count, int) else "other examples")
    here = {} if model is None else model.describe()
    for what in ("output", "ablation"):
        made: Any = provenance.get(what)
        # a study of several outputs or ablations holds them by name
        if here and isinstance(made, Mapping) and what in made and made != here[what]:
            other.append(f"another {what} ({made[what]})")
    return f"Made with {' and '.join(other)} than the rest of this section." if other else ""


def _heads(table: pd.DataFrame) -> list[tuple[str, bool]]:
    return [(_head(name), pd.api.types.is_numeric_dtype(table[name])) for name in _columns(table) if not _is_high(name)]


def _head(column: str) -> str:
    if column == "low" or column.endswith("_low"):
        return "Range of orders" if column == "random_low" else "95% interval"
    words = WORDS.get(column, column.replace("_", " "))
    return words[0].upper() + words[1:] if column not in WORDS else words


def _cells(table: pd.DataFrame) -> list[list[str]]:
    rows: list[list[str]] = []
    for record in table.to_dict("records"):
        row: list[str] = []
        for name in _columns(table):
            if _is_high(name):
                continue
            if name == "low" or name.endswith("_low"):
                low, high = float(record[name]), float(record[f"{name.removesuffix('low')}high"])
                ends = [_cell(name.removesuffix("_low"), end) for end in (low, high)]
                row.append(f"{ends[0]} to {ends[1]}" if math.isfinite(low) else "—")
            else:
                row.append(_cell(name, record[name]))
        rows.append(row)
    return rows


def _columns(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns]


def _is_high(column: str) -> bool:
    return column == "high" or column.endswith("_high")


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return WORDS.get(value, value.replace("_", " ") if column == "measure" else value)
    if not math.isfinite(value):
        return "—"
    if column in ("alpha", "fit_alpha", "relative"):
        return percent(float(value))
    if float(value).is_integer() and not isinstance(value, float):
        return f"{int(value):,}"
    return _number(float(value))


def _number(value: float) -> str:
    """Three decimals, or three significant digits where these would say nothing."""
    if not math.isfinite(value):
        return "—"
    size = abs(value)
    return minus(f"{value:.3g}") if size >= 1000 or 0 < size < 0.001 else fixed(value, 3)
