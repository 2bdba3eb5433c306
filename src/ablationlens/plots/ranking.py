"""The strongest components, by name."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ablationlens.errors import InputError
from ablationlens.plots.labels import counted, escaped, output_name, shortened
from ablationlens.plots.theme import LIGHT, NEGATIVE, NEUTRAL, POSITIVE, Theme, template_of
from ablationlens.results import Attribution, of_components

NORMAL_95 = 1.96
"""Standard errors on each side of a 95% interval."""


def ranking(attribution: Attribution, top: int = 30, *, theme: Theme = LIGHT) -> go.Figure:
    """Bars of the strongest components: mean weight over examples, with whiskers.

    Thin whiskers are the standard deviation between examples: how much the component differs from one to another.
    Thick ones, for methods that know their standard errors, are the 95% interval of the mean weight itself: how well
    the draws determine it.

    Args:
        attribution: weights of components.
        top: how many components to draw, strongest first.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if `top` is less than 1.
    """
    attribution = of_components(attribution, "this figure")
    if top < 1:
        raise InputError(f"top={top}: the number of components to draw is at least 1, for example ranking(a, top=30)")
    table = attribution.table()
    total, examples = len(table), attribution.weights.sizes["example"]
    table = table.head(top)
    weights = table["weight"].to_numpy()
    # Numbers, not names, are the positions: two names may be equal once they are shortened.
    positions = np.arange(len(table))
    names = [str(name) for name in table["component"]]
    unit = escaped(output_name(attribution.provenance))
    spread = np.asarray(table["spread"], dtype=np.float64)
    errors = np.asarray(table["error"], dtype=np.float64) if "error" in table else None
    margin = None if errors is None else np.nan_to_num(NORMAL_95 * errors)
    hover = [f"spread {value:.3g}" for value in spread]
    if errors is not None:
        hover = [f"{text}, standard error {error:.2g}" for text, error in zip(hover, errors, strict=True)]
    figure = go.Figure(
        go.Bar(
            x=weights,
            y=positions,
            orientation="h",
            marker={"color": [POSITIVE if weight >= 0 else NEGATIVE for weight in weights]},
            error_x={"type": "data", "array": spread, "visible": examples > 1},
            customdata=np.column_stack([[escaped(name) for name in names], hover]),
            hovertemplate="<b>%{customdata[0]}</b><br>weight %{x:+.4g}<br>%{customdata[1]}<extra></extra>",
        )
    )
    if margin is not None:
        figure.add_scatter(
            x=weights,
            y=positions,
            mode="markers",
            marker={"size": 1, "color": NEUTRAL},
            error_x={"type": "data", "array": margin, "color": NEUTRAL, "thickness": 5, "width": 0},
            hoverinfo="skip",
        )
    if errors is None:
        subtitle = f"mean and standard deviation of {counted(examples, 'example')}" if examples > 1 else "one example"
    elif examples > 1:
        subtitle = f"thin: standard deviation of {counted(examples, 'example')}, thick: 95% interval"
    else:
        subtitle = "one example, thick: 95% interval"
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"{len(table):,} strongest of {counted(total, 'component')} ({escaped(attribution.method)})",
            "subtitle": {"text": f"Right of 0: keeping it raises the {unit}; {subtitle}."},
        },
        xaxis={"title": {"text": f"weight: effect of keeping it ({unit})"}},
        yaxis={
            "tickvals": positions,
            "ticktext": [escaped(shortened(name)) for name in names],
            "range": [len(table) - 0.4, -0.6],
            "showgrid": False,
            "zeroline": False,
        },
        height=130 + 19 * max(len(table), 4),
        bargap=0.3,
        showlegend=False,
    )
    return figure
