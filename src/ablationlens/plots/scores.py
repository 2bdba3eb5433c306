"""How well attributions predict ablations that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ablationlens.errors import InputError
from ablationlens.evaluate import Scores
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, output_name, percent, shortened
from ablationlens.plots.theme import LIGHT, NEUTRAL, SERIES, Theme, template_of


def predicted_vs_true(
    scores: Scores,
    method: str | None = None,
    alpha: float | None = None,
    *,
    points: int = 3000,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Scatter of predicted against true outputs of held-out ablations, coloured by example.

    Args:
        scores: what `evaluate` returned.
        method: name of an attribution; the first by default.
        alpha: ablated fraction of the held-out masks; the first by default.
        points: largest number of points to draw; more are thinned evenly.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: for a method or alpha that was not evaluated, or `points` below 1.
    """
    expect(scores, Scores, "al.evaluate(model, data, {...})")
    method, alpha = _chosen(scores, method, alpha)
    if points < 1:
        raise InputError(f"points={points}: the number of points to draw is at least 1")
    true, predicted = np.asarray(scores.true[alpha], float), np.asarray(scores.predicted[method, alpha], float)
    frame = scores.frame[(scores.frame["method"] == method) & (scores.frame["alpha"] == alpha)]
    # Draws are independent, so the first ones are a fair sample, and every example keeps the same ones.
    drawn = slice(0, max(points // max(true.shape[1], 1), 1))
    unit = escaped(output_name(scores.provenance))
    figure = go.Figure()
    lowest, highest = _range(np.stack([true[drawn], predicted[drawn]]))
    figure.add_scatter(
        x=[lowest, highest],
        y=[lowest, highest],
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
        hoverinfo="skip",
        showlegend=False,
        name="predicted = true",
    )
    names = [str(name) for name in frame["example"]]
    for column, (name, r) in enumerate(zip(names, frame["pearson"], strict=True)):
        finite = np.isfinite(true[drawn, column]) & np.isfinite(predicted[drawn, column])
        # `Scatter` and not `Scattergl`: WebGL is missing in some headless browsers, and SVG manages a few thousand.
        figure.add_scatter(
            x=true[drawn, column][finite],
            y=predicted[drawn, column][finite],
            mode="markers",
            name=escaped(shortened(name)),
            marker={"size": 5, "opacity": 0.55, "color": SERIES[column % len(SERIES)]},
            hovertemplate=f"<b>{escaped(shortened(name, 60))}</b> (r = {r:.2f})<br>"
            "true %{x:.4g}<br>predicted %{y:.4g}<extra></extra>",
        )
    row = _row(scores.table(), method, alpha)
    shown = f"{counted(len(names), 'example')}, {min(len(true), drawn.stop):,} of {len(true):,} held-out masks shown"
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"{escaped(method)} on {percent(alpha)} ablated: mean r = {float(row['pearson']):.2f}",
            "subtitle": {"text": f"{shown}. On the dashed line the prediction is right."},
        },
        xaxis={"title": {"text": f"true {unit} under ablation"}, "range": [lowest, highest], "zeroline": False},
        yaxis={"title": {"text": f"predicted {unit}"}, "range": [lowest, highest], "zeroline": False},
        # More names than this push the figure off the page; the hover text still has them.
        showlegend=1 < len(names) <= len(SERIES),
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
        height=480,
        hovermode="closest",
    )
    return figure


def correlation(scores: Scores, *, theme: Theme = LIGHT) -> go.Figure:
    """Pearson correlation on held-out ablations against the ablated fraction, one line per method.

    Whiskers are the bootstrap 95% interval of the mean over examples.

    Args:
        scores: what `evaluate` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(scores, Scores, "al.evaluate(model, data, {...})")
    table = scores.table()
    records = table.to_dict("records")
    alphas = sorted(float(alpha) for alpha in table["alpha"].unique())
    methods = list(dict.fromkeys(str(method) for method in table["method"]))
    figure = go.Figure()
    for place, method in enumerate(methods):
        rows = [row for alpha in alphas for row in records if (row["method"], row["alpha"]) == (method, alpha)]
        # Methods stand side by side at an alpha: whiskers drawn over each other cannot be read.
        shift = 0.1 * (place - (len(methods) - 1) / 2) / max(len(methods) - 1, 1) if len(alphas) > 1 else 0.1 * place
        figure.add_scatter(
            x=[alphas.index(float(row["alpha"])) + shift for row in rows],
            y=[row["pearson"] for row in rows],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [row["high"] - row["pearson"] for row in rows],
                "arrayminus": [row["pearson"] - row["low"] for row in rows],
                "thickness": 1.5,
                "width": 4,
            },
            mode="lines+markers",
            name=escaped(method),
            marker={"size": 9, "color": SERIES[place % len(SERIES)]},
            line={"width": 2, "color": SERIES[place % len(SERIES)]},
            customdata=[
                [percent(row["alpha"]), f"95% interval {fixed(row['low'], 3)} to {fixed(row['high'], 3)}"]
                for row in rows
            ],
            hovertemplate=f"<b>{escaped(method)}</b>, %{{customdata[0]}} ablated<br>"
            "r = %{y:.3f} (%{customdata[1]})<extra></extra>",
        )
    low = float(np.nanmin([0.0, *table["low"]]))
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Correlation with held-out ablations",
            "subtitle": {"text": f"Mean over examples of Pearson's r on {scores.draws:,} masks; 95% intervals."},
        },
        xaxis={
            "title": {"text": "ablated fraction of components (alpha)"},
            "tickvals": list(range(len(alphas))),
            "ticktext": [percent(alpha) for alpha in alphas],
            "range": [-0.5, len(alphas) - 0.5],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={"title": {"text": "Pearson correlation"}, "range": [min(low - 0.05, 0.0) if low < 0 else 0.0, 1.02]},
        height=410,
        # The legend is between the titles and the axes.
        margin={"t": 104},
        showlegend=True,
    )
    return figure


def _chosen(scores: Scores, method: str | None, alpha: float | None) -> tuple[str, float]:
    pairs = list(scores.predicted)
    methods, alphas = list(dict.fromkeys(m for m, _ in pairs)), list(dict.fromkeys(a for _, a in pairs))
    if method is None:
        method = methods[0]
    elif method not in methods:
        raise InputError(f"method {method!r} was not evaluated: use one of {_listed(methods)}")
    if alpha is None:
        alpha = next(a for m, a in pairs if m == method)
    elif (method, alpha) not in pairs:
        raise InputError(
            f"alpha={alpha} was not evaluated: use one of {_listed(alphas)}, "
            f"or evaluate(model, data, attributions, alphas=[{alpha}], draws=500)"
        )
    return method, alpha


def _listed(values: Sequence[object]) -> str:
    return ", ".join(repr(value) for value in values)


def _row(table: pd.DataFrame, method: str, alpha: float) -> Any:
    return table[(table["method"] == method) & (table["alpha"] == alpha)].iloc[0]


def _range(values: np.ndarray) -> tuple[float, float]:
    """Limits that both axes share, with a margin."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (0.0, 1.0)
    margin = 0.05 * (float(np.ptp(finite)) or 1.0)
    return float(finite.min()) - margin, float(finite.max()) + margin
