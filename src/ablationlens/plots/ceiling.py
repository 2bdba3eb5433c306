"""How far a held-out correlation is below what draws without end would reach."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ablationlens.evaluate import Ceiling
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, percent
from ablationlens.plots.theme import LIGHT, SERIES, Theme, template_of

KEYS = ("alpha", "pearson", "reliability", "ceiling", "low", "high")


def ceiling(result: Ceiling, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation of each method (dots) and its noise ceiling (diamonds, with 95% intervals), for each alpha.

    From dot to diamond is what more draws would bring; from diamond to 1 is what no sum of weights can.

    Args:
        result: what `al.ceiling` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Ceiling, "al.ceiling(model, data, {...}, again={...})")
    table = result.table()
    alphas = sorted(float(alpha) for alpha in table["alpha"].unique())
    methods = list(dict.fromkeys(str(method) for method in table["method"]))
    figure = go.Figure()
    for number, method in enumerate(methods):
        by_alpha = {float(row["alpha"]): row for row in table.to_dict("records") if row["method"] == method}
        rows = [by_alpha[alpha] for alpha in alphas if alpha in by_alpha]
        own = {key: np.array([float(row[key]) for row in rows]) for key in KEYS}
        colour = SERIES[number % len(SERIES)]
        shift = 0.5 * (number - (len(methods) - 1) / 2) / max(len(methods), 1)
        x = np.array([alphas.index(alpha) for alpha in own["alpha"].tolist()]) + shift
        reached, limit, low, high = (own[key] for key in ("pearson", "ceiling", "low", "high"))
        for place, bottom, top in zip(x, reached, limit, strict=True):
            line = {"color": colour, "width": 1, "dash": "dot"}
            figure.add_scatter(
                x=[place, place], y=[bottom, top], mode="lines", line=line, hoverinfo="skip", showlegend=False
            )
        details = [
            [percent(float(alpha)), fixed(float(agreement), 3), f"{fixed(one, 3)} to {fixed(two, 3)}"]
            for alpha, agreement, one, two in zip(own["alpha"], own["reliability"], low, high, strict=True)
        ]
        figure.add_scatter(
            x=x,
            y=reached,
            mode="markers",
            name=f"{escaped(method)}: correlation",
            marker={"size": 9, "color": colour},
            customdata=details,
            hovertemplate=f"<b>{escaped(method)}</b>, %{{customdata[0]}} ablated<br>r = %{{y:.3f}}<br>"
            "agreement of two seeds %{customdata[1]}<extra></extra>",
        )
        figure.add_scatter(
            x=x,
            y=limit,
            error_y={"type": "data", "symmetric": False, "array": high - limit, "arrayminus": limit - low, "width": 4},
            mode="markers",
            name=f"{escaped(method)}: ceiling",
            marker={"size": 11, "color": colour, "symbol": "diamond-open", "line": {"width": 2}},
            customdata=details,
            hovertemplate=f"<b>{escaped(method)}</b>, %{{customdata[0]}} ablated<br>ceiling %{{y:.3f}}<br>"
            "95% interval %{customdata[2]}<extra></extra>",
        )
    drawn = np.concatenate([table[key].to_numpy(dtype=float) for key in ("pearson", "low", "high", "ceiling")])
    drawn = drawn[np.isfinite(drawn)]
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Held-out correlation and its noise ceiling",
            "subtitle": {
                "text": f"Mean over {counted(len(set(result.frame['example'])), 'example')}. To the ceiling: more "
                "draws; from there to 1: interactions, which no sum of weights describes."
            },
        },
        xaxis={
            "title": {"text": "ablated fraction of components (alpha)"},
            "tickvals": list(range(len(alphas))),
            "ticktext": [percent(alpha) for alpha in alphas],
            "range": [-0.5, len(alphas) - 0.5],
            "showgrid": False,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "Pearson correlation"},
            "range": [min([0.0, *drawn]) - 0.02, max([1.0, *drawn]) + 0.03],
        },
        height=450,
        legend={"y": -0.17, "yanchor": "top"},
        showlegend=True,
    )
    return figure
