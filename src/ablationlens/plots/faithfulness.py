"""Curves of faithfulness: how soon the top of a ranking gives the output back, or takes it away."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ablationlens.evaluate import Faithfulness
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, shortened
from ablationlens.plots.theme import LIGHT, NEUTRAL, SERIES, Theme, template_of

Direction: TypeAlias = Literal["insertion", "deletion"]
"""The top is kept and the rest ablated; the top is ablated and the rest kept."""

_X: dict[str, str] = {
    "insertion": "share of components kept, most important first",
    "deletion": "share of components ablated, most important first",
}


def faithfulness(result: Faithfulness, *, log: bool = False, theme: Theme = LIGHT) -> go.Figure:
    """Normalised faithfulness of the k most important components, kept alone, against their share of all.

    The area under a line is its CPR, and the area between it and 1 its CMD. The grey band holds all random orders;
    shaded around each line is the bootstrap 95% interval over examples.

    Args:
        result: what `al.faithfulness` returned.
        log: a logarithmic share, for many components; areas are then not what the eye sees.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Faithfulness, "al.faithfulness(model, data, {...})")
    figure = go.Figure()
    areas = {(row["method"], row["measure"]): float(row["value"]) for row in result.table().to_dict("records")}
    labels = [
        f"{escaped(shortened(name))} (CPR {fixed(areas[name, 'cpr'])}, CMD {fixed(areas[name, 'cmd'])})"
        for name in result.methods
    ]
    _draw(figure, result, "insertion", log, {}, labels)
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Faithfulness of the most important components",
            "subtitle": {"text": _what(result)},
        },
        xaxis=_x_axis(result, "insertion", log),
        yaxis={"title": {"text": "normalised faithfulness (1: the whole model)"}},
        height=470,
        legend={"y": -0.17, "yanchor": "top"},
        showlegend=True,
    )
    _say_if_undefined(figure, result)
    return figure


def deletion_insertion(result: Faithfulness, *, log: bool = False, theme: Theme = LIGHT) -> go.Figure:
    """Deletion and insertion curves side by side, the most important components first, with the random band.

    Args:
        result: what `al.faithfulness` returned.
        log: a logarithmic share, for many components.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Faithfulness, "al.faithfulness(model, data, {...})")
    order: tuple[Direction, ...] = ("deletion", "insertion")
    titles = ["Deletion: the lower the better", "Insertion: the higher the better"]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.05)
    labels = [escaped(shortened(name)) for name in result.methods]
    for column, direction in enumerate(order, start=1):
        _draw(figure, result, direction, log, {"row": 1, "col": column}, labels, legend=column == 1)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(
        template=template_of(theme),
        title={"text": "Deletion and insertion", "subtitle": {"text": _what(result)}},
        xaxis=_x_axis(result, "deletion", log),
        xaxis2=_x_axis(result, "insertion", log),
        yaxis={"title": {"text": "normalised faithfulness"}},
        height=450,
        margin={"t": 112},
        legend={"y": -0.2, "yanchor": "top"},
        showlegend=True,
    )
    _say_if_undefined(figure, result)
    return figure


def _draw(
    figure: go.Figure,
    result: Faithfulness,
    direction: Direction,
    log: bool,
    place: dict[str, Any],
    labels: list[str],
    *,
    legend: bool = True,
) -> None:
    """The random band, then a line with its interval for each method."""
    curves = _curves(result, direction, log)
    band = curves[result.methods[0]]
    _band(figure, band, "random_low", "random_high", NEUTRAL, 0.25, place, name=_orders(result), legend=legend)
    for number, (method, own) in enumerate(curves.items()):
        colour = SERIES[number % len(SERIES)]
        if np.isfinite(own["low"]).any():
            _band(figure, own, "low", "high", colour, 0.13, place, name=method, group=str(number))
        figure.add_scatter(
            x=own["fraction"],
            y=own["faithfulness"],
            mode="lines+markers",
            name=labels[number],
            legendgroup=str(number),
            showlegend=legend,
            line={"width": 2, "color": colour},
            marker={"size": 5, "color": colour},
            customdata=np.stack([own["count"], own["random"]], axis=-1),
            hovertemplate=f"<b>{escaped(method)}</b>, %{{customdata[0]:,}} components"
            "<br>faithfulness %{y:.3f}<br>random orders %{customdata[1]:.3f}<extra></extra>",
            **place,
        )
    # after the traces: a subplot without any gets no line
    figure.add_hline(y=1, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, **place)


def _curves(result: Faithfulness, direction: Direction, log: bool) -> dict[str, dict[str, np.ndarray]]:
    """Method -> column of `Faithfulness.curves` -> values; without count 0 on a logarithmic axis."""
    table = result.curves()
    columns = {str(name): np.asarray(table[name]) for name in table.columns}
    chosen = (columns["direction"] == direction) & ((columns["count"] > 0) | (not log))
    return {
        method: {name: values[chosen & (columns["method"] == method)] for name, values in columns.items()}
        for method in result.methods
    }


def _band(
    figure: go.Figure,
    curve: dict[str, np.ndarray],
    low: str,
    high: str,
    colour: str,
    opacity: float,
    place: dict[str, Any],
    *,
    name: str,
    group: str = "random",
    legend: bool = False,
) -> None:
    x = curve["fraction"]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([curve[high], curve[low][::-1]]),
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{opacity})",
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name=escaped(name),
        legendgroup=group,
        showlegend=legend,
        **place,
    )


def _x_axis(result: Faithfulness, direction: Direction, log: bool) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": _X[direction]}, "tickformat": ".3~%"}
    if log:
        smallest = float(np.log10(result.fractions[1]))
        # Plotly also labels the 2 and the 5 of each decade, whose per cents run into each other.
        return {**axis, "type": "log", "range": [smallest - 0.05, 0.05], "dtick": 1}
    return {**axis, "range": [-0.02, 1.02]}


def _orders(result: Faithfulness) -> str:
    return f"{len(result.random)} random orders"


def _what(result: Faithfulness) -> str:
    order = "by size" if result.provenance.get("order") == "absolute" else _signed(result.provenance.get("toward", 1))
    ranking = ", each example by its own weights" if result.provenance.get("ranking") == "example" else ""
    components = counted(int(result.counts[-1]), "component")
    return f"{components} {order}{ranking}; {counted(len(result.examples), 'example')}."


def _say_if_undefined(figure: go.Figure, result: Faithfulness) -> None:
    if np.isfinite(result.curves()["faithfulness"]).any():
        return
    figure.add_annotation(
        text="Undefined: the output is the same with everything kept and with everything ablated.",
        xref="paper",
        yref="paper",
        x=0.5,
        y=0.7,
        showarrow=False,
    )


def _signed(toward: Any) -> str:
    """The signed order in words: what makes the output comes first, and an output may be made by lowering it."""
    if toward in (1, -1):
        return "most positive first" if toward == 1 else "most negative first"
    return "what moves each output its own way first"
