"""Two domains against each other: the mean weights of every component, with those named that differ most."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float64

from ablationlens.diagnostics import Domains
from ablationlens.errors import InputError
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, minus, output_name, percent, shortened
from ablationlens.plots.theme import LIGHT, NEGATIVE, NEUTRAL, POSITIVE, Theme, template_of
from ablationlens.plots.whiskers import numbers, words

CALL = "al.domains(model, {...})"
NAMES_ROOM = 0.36
"""Room for names on each side of all points, as a share of what the points take."""


def domain_scatter(
    result: Domains, a: str, b: str, *, top: int = 10, points: int = 3000, theme: Theme = LIGHT
) -> go.Figure:
    """Mean weights of two domains against each other, with the components named that differ most by Welch's t.

    Args:
        result: what `al.domains` returned.
        a: the domain along the horizontal axis.
        b: the domain along the vertical axis.
        top: how many components are named; 0 for none.
        points: largest number of points. Of more components those that are named are drawn, and an even sample of the
            rest; the correlation in the title is of all.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there are no such domains, one of them has a single example, `top` is negative, or `points` is
            less than `top` or than 2.
    """
    expect(result, Domains, CALL)
    if top < 0 or points < max(top, 2):
        raise InputError(
            f"top={top} components are named among points={points}: from 0 up, and at least as many points, "
            "for example domain_scatter(study, 'python', 'prose', top=10)"
        )
    table = result.differences(a, b, None)
    finite = _where(table, np.isfinite(numbers(table, "difference")))
    strongest = ~np.isnan(numbers(finite, "t")) & (np.arange(len(finite)) < top)  # without a t they come last
    named, rest = _where(finite, strongest), _where(finite, ~strongest)
    if len(rest) > points - len(named):
        rest = rest.iloc[np.linspace(0, len(rest) - 1, points - len(named)).astype(int)]
    x, y = numbers(finite, "first"), numbers(finite, "second")
    across, up = _range(x), _range(y)
    ends = [min(across[0], up[0]), max(across[1], up[1])]
    figure = go.Figure()
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
        hoverinfo="skip",
        showlegend=False,
        name="the same weight",
    )
    above = numbers(named, "difference") > 0
    for rows, name, marker in (
        (rest, "other components", {"size": 5, "opacity": 0.5, "color": NEUTRAL}),
        (_where(named, above), f"higher in {a}", {"size": 9, "color": POSITIVE}),
        (_where(named, ~above), f"higher in {b}", {"size": 9, "color": NEGATIVE}),
    ):
        _add_components(figure, rows, a, b, name, marker)
    _name(figure, _where(named, above), across[1], "left", up)
    _name(figure, _where(named, ~above), across[0], "right", up)
    left, right = (NAMES_ROOM * (across[1] - across[0]) * bool(side.any()) for side in (~above, above))
    r = float(np.corrcoef(x, y)[0, 1]) if len(x) > 1 and np.ptp(x) and np.ptp(y) else math.nan
    unit = escaped(output_name(next(iter(result.attributions.values())).provenance))
    chance = percent(round(float(numbers(named, "q").max(initial=0.0)), 2))
    which = f" Named: the {len(named):,} with the largest Welch t, of which {chance} may be chance (q)." * bool(
        len(named)
    )
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"{escaped(b)} against {escaped(a)}: r = {fixed(r)}",
            "subtitle": {"text": f"{counted(len(finite), 'component')}.{which} Dashed: the same weight."},
        },
        xaxis={
            "title": {"text": f"{escaped(a)}: mean weight ({unit})"},
            "range": [across[0] - left, across[1] + right],
        },
        yaxis={"title": {"text": f"{escaped(b)}: mean weight"}, "range": up},
        showlegend=True,
        legend={"orientation": "h", "y": -0.15, "yanchor": "top", "itemsizing": "constant"},
        height=540,
        hovermode="closest",
    )
    return figure


def _add_components(figure: go.Figure, rows: pd.DataFrame, a: str, b: str, name: str, marker: dict[str, Any]) -> None:
    """Components at their mean weights in both domains."""
    details = [
        [escaped(component), _t(t, q)]
        for component, t, q in zip(words(rows, "component"), numbers(rows, "t"), numbers(rows, "q"), strict=True)
    ]
    figure.add_scatter(
        x=numbers(rows, "first"),
        y=numbers(rows, "second"),
        mode="markers",
        name=escaped(name),
        marker=marker,
        customdata=details,
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{escaped(a)} %{{x:+.4g}}<br>{escaped(b)} %{{y:+.4g}}<br>"
        "%{customdata[1]}<extra></extra>",
    )


def _name(figure: go.Figure, rows: pd.DataFrame, at: float, anchor: str, up: tuple[float, float]) -> None:
    """Names in a column outside all points, with a line to each: beside the points they would cover one another."""
    order = np.argsort(-numbers(rows, "second"), kind="stable")
    heights = np.linspace(up[1], up[0], len(order) + 2)[1:-1]
    names, x, y = words(rows, "component"), numbers(rows, "first"), numbers(rows, "second")
    for place, height in zip(order.tolist(), heights.tolist(), strict=True):
        figure.add_annotation(
            x=x[place],
            y=y[place],
            ax=at,
            ay=height,
            axref="x",
            ayref="y",
            xanchor=anchor,
            text=escaped(shortened(names[place], 22)),
            font={"size": 11},
            arrowcolor=NEUTRAL,
            arrowwidth=0.7,
            arrowhead=0,
            standoff=5,
        )


def _where(table: pd.DataFrame, chosen: Bool[np.ndarray, " row"]) -> pd.DataFrame:
    """The rows that are chosen."""
    return table.iloc[np.flatnonzero(chosen)]


def _t(t: float, q: float) -> str:
    return "t is undefined" if math.isnan(t) else f"t = {minus(f'{t:.1f}')}, q = {q:.2g}"


def _range(values: Float64[np.ndarray, " value"]) -> tuple[float, float]:
    """Limits of an axis, with room for names at either end."""
    if not values.size:
        return (-1.0, 1.0)
    margin = 0.08 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - margin, float(values.max()) + margin
