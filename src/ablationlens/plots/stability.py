"""Figures of stability: how far mean attributions come back, and what their variance consists of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ablationlens.diagnostics import Stability
from ablationlens.diagnostics.stability import AGREEMENTS, SHARES
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, percent, shortened
from ablationlens.plots.theme import LIGHT, NEUTRAL, SERIES, Theme, template_of
from ablationlens.plots.whiskers import (
    add_means,
    categories,
    interval,
    matching,
    measure_range,
    numbers,
    shifts,
    undefined,
    values_of,
    words,
)

CALL = "al.stability(model, data)"
NAMES = {
    "in common": "in common: comes back",
    "masks": "goes with the masks",
    "examples": "goes with the examples",
    "rest": "goes with either",
}
"""What the legend calls the shares."""


def stability(result: Stability, *, theme: Theme = LIGHT) -> go.Figure:
    """Agreement of two mean attributions that differ in their examples, their masks or both, by draws of the fit.

    Args:
        result: what `al.stability` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Stability, CALL)
    table = result.table()
    places = _places(table)
    figure = go.Figure()
    for place, (comparison, shift) in enumerate(zip(AGREEMENTS, shifts(len(AGREEMENTS), 0.2), strict=True)):
        rows = matching(table, "comparison", comparison)
        groups = [_group(row) for row in rows.to_dict("records")]
        seeds = [
            f", over seeds {fixed(low, 3)} to {fixed(high, 3)}"
            for low, high in zip(numbers(rows, "lowest"), numbers(rows, "highest"), strict=True)
        ]
        add_means(
            figure,
            rows,
            [places.index(group) + shift for group in groups],
            name=comparison,
            place=place,
            labels=[
                f"{data}, {counted(draws, 'draw')}{seed}" for (data, draws), seed in zip(groups, seeds, strict=True)
            ],
            value="value",
            mode="markers",
        )
    values = values_of(table, ["value", "low"])
    figure.update_layout(
        **_layout(result, table, places, theme),
        yaxis={"title": {"text": _measure(result)}, "range": measure_range(values)},
        title={
            "text": "Do mean attributions come back?",
            "subtitle": {
                "text": f"Agreement of two means over {_halves(table)}; 95% intervals over examples."
                f"{undefined(int(np.isnan(numbers(table, 'value')).sum()), len(table))}"
            },
        },
    )
    return figure


def stability_shares(result: Stability, *, theme: Theme = LIGHT) -> go.Figure:
    """What the variance of a mean attribution over components consists of, as stacked bars that sum to 1.

    Args:
        result: what `al.stability` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Stability, CALL)
    table = result.shares()
    places = _places(table)
    figure = go.Figure()
    for source, colour in zip(SHARES, (*SERIES[:3], NEUTRAL), strict=True):
        rows = matching(table, "source", source)
        values, low, high = (numbers(rows, column) for column in ("value", "low", "high"))
        figure.add_bar(
            x=[places.index(_group(row)) for row in rows.to_dict("records")],
            y=values,
            name=NAMES[source],
            marker={"color": colour},
            width=0.6,
            text=[percent(round(value, 2)) if math.isfinite(value) and abs(value) >= 0.04 else "" for value in values],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            customdata=[interval(*ends) for ends in zip(low, high, strict=True)],
            hovertemplate=f"<b>{NAMES[source]}</b><br>%{{y:.3f}} (%{{customdata}})<extra></extra>",
        )
    values = numbers(table, "value")
    missing = undefined(int(np.isnan(values).sum()), len(table)).replace("correlations", "shares")
    figure.update_layout(
        **_layout(result, table, places, theme),
        yaxis={"title": {"text": "share of the variance"}, "tickformat": ".0%"},
        barmode="relative",  # chance may carry a share below 0
        title={
            "text": "What a mean attribution consists of",
            "subtitle": {
                "text": f"Variance over components of a mean over {_halves(table)}. Masks: more draws help; "
                f"examples: more of them do.{missing}"
            },
        },
    )
    return figure


def _group(row: dict[Any, Any]) -> tuple[str, int]:
    return str(row["data"]), int(row["draws"])


def _places(table: pd.DataFrame) -> list[tuple[str, int]]:
    """Data sets and draws in their order, side by side on the axis."""
    return list(dict.fromkeys(_group(row) for row in table.to_dict("records")))


def _layout(result: Stability, table: pd.DataFrame, places: list[tuple[str, int]], theme: Theme) -> dict[str, Any]:
    several = len(set(words(table, "data"))) > 1
    axis = categories([counted(draws, "draw") for _, draws in places], "draws of the fit")
    if several:
        names = [f"{escaped(shortened(data, 20))}<br>{counted(draws, 'draw')}" for data, draws in places]
        axis |= {"ticktext": names, "title": {"text": "data and draws of the fit"}}
    return {
        "template": template_of(theme),
        "xaxis": axis,
        "height": 420,
        "margin": {"t": 104},
        "hovermode": "closest",
        "showlegend": True,
    }


def _measure(result: Stability) -> str:
    return "cosine" if result.provenance.get("kind") == "cosine" else "Pearson correlation over components"


def _halves(table: pd.DataFrame) -> str:
    counts = sorted(set(table["examples"].tolist()))
    few = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"half of the examples ({few})"
