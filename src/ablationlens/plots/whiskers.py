"""Means with whiskers, and an axis of correlations that shows where they differ: what the figures of studies share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float64

from ablationlens.plots.labels import escaped, fixed
from ablationlens.plots.theme import SERIES


def add_means(
    figure: go.Figure,
    table: pd.DataFrame,
    positions: Sequence[float] | Sequence[int],
    *,
    name: str,
    place: int,
    labels: Sequence[str],
    value: str = "pearson",
    limits: tuple[str, str] = ("low", "high"),
    mode: str = "lines+markers",
    symbols: Sequence[str] | str = "circle",
) -> None:
    """One series of means with 95% intervals.

    Args:
        figure: what they are added to.
        table: a row for each mean.
        positions: of the rows on the x axis.
        name: of the series.
        place: of the series among all, which decides its colour.
        labels: what the hover text says of each row.
        value: column of the means.
        limits: columns of the intervals' ends.
        mode: "markers", or with lines.
        symbols: of the markers.
    """
    means, low, high = (numbers(table, column) for column in (value, *limits))
    colour = SERIES[place % len(SERIES)]
    figure.add_scatter(
        x=list(positions),
        y=means,
        error_y={
            "type": "data",
            "symmetric": False,
            # Where there is no interval there is no whisker; a NaN would be drawn as one down to 0.
            "array": np.nan_to_num(high - means),
            "arrayminus": np.nan_to_num(means - low),
            "thickness": 1.5,
            "width": 4,
        },
        mode=mode,
        name=escaped(name),
        marker={"size": 10 if mode == "markers" else 9, "color": colour, "symbol": symbols},
        line={"width": 2, "color": colour},
        customdata=[[escaped(label), interval(*ends)] for label, *ends in zip(labels, low, high, strict=True)],
        hovertemplate=f"<b>{escaped(name)}</b><br>%{{customdata[0]}}<br>%{{y:.3f}} (%{{customdata[1]}})<extra></extra>",
    )


def add_examples(
    figure: go.Figure, frame: pd.DataFrame, position: float, *, place: int, value: str = "pearson"
) -> None:
    """The values of single examples, small and pale, above a position of the x axis."""
    defined = pd.DataFrame(frame[np.isfinite(numbers(frame, value))])
    figure.add_scatter(
        x=[position] * len(defined),
        y=numbers(defined, value),
        mode="markers",
        marker={"size": 5, "opacity": 0.55, "color": SERIES[place % len(SERIES)]},
        customdata=[escaped(name) for name in defined["example"]],
        hovertemplate="%{customdata}<br>%{y:.3f}<extra></extra>",
        showlegend=False,
    )


def interval(low: float, high: float) -> str:
    """What the hover text says of an interval."""
    if not math.isfinite(low) or not math.isfinite(high):
        return "no interval"
    return f"95% interval {fixed(low, 3)} to {fixed(high, 3)}"


def undefined(missing: int, total: int) -> str:
    """What a subtitle says of correlations that cannot be drawn, with a blank before it; nothing if there are none."""
    if not missing:
        return ""
    return (
        " Undefined: all correlations." if missing == total else f" Undefined: {missing:,} of {total:,} correlations."
    )


def undefined_in(frame: pd.DataFrame) -> str:
    """The same, of the correlations of examples."""
    return undefined(int(np.isnan(numbers(frame, "pearson")).sum()), len(frame))


def shifts(count: int, width: float) -> list[float]:
    """Where series stand side by side around a position, `width` apart: whiskers over each other cannot be read."""
    return [width * (place - (count - 1) / 2) for place in range(count)]


def measure_range(values: Iterable[float]) -> list[float]:
    """From a round number below the smallest value to a little above 1, or above the largest.

    Lines and dots need no axis from 0, and correlations of 0.89 and 0.91 could not be told apart on one.
    """
    finite = [value for value in values if math.isfinite(value)]
    low = math.floor(10 * min(finite) - 0.2) / 10 if finite else 0.0
    top = max([1.0, *finite])
    return [low, top + 0.03 * (top - low)]


def matching(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """The rows that have this value."""
    return pd.DataFrame(table[table[column] == value])


def ordered(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The same rows, the smallest value first."""
    return table.iloc[np.argsort(numbers(table, column), kind="stable")]


def numbers(table: pd.DataFrame, column: str) -> Float64[np.ndarray, " row"]:
    """A column as floats."""
    return np.asarray(table[column], dtype=np.float64)


def words(table: pd.DataFrame, column: str) -> list[str]:
    """A column as text."""
    return [str(value) for value in table[column].tolist()]


def values_of(table: pd.DataFrame, columns: Sequence[str]) -> list[float]:
    """All numbers of some columns."""
    return [float(value) for column in columns for value in numbers(table, column)]


def categories(names: Sequence[str], title: str) -> dict[str, Any]:
    """An x axis with a name at 0, 1, 2, and so on."""
    return {
        "title": {"text": title},
        "tickvals": list(range(len(names))),
        "ticktext": [escaped(name) for name in names],
        "range": [-0.5, len(names) - 0.5],
        "showgrid": False,
        "zeroline": False,
    }
