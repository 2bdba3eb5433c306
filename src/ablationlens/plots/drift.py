"""How far predictions drift under ablation: bars for each mask, and where in the texts."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
import plotly.graph_objects as go

from ablationlens.diagnostics import Drift
from ablationlens.diagnostics.named import place_of
from ablationlens.plots.checks import check_top, expect
from ablationlens.plots.labels import counted, escaped, percent, shortened
from ablationlens.plots.measures import measure_named
from ablationlens.plots.theme import LIGHT, POSITIVE, Theme, template_of


def drift(result: Drift, *, measure: str = "kl", top: int = 25, theme: Theme = LIGHT) -> go.Figure:
    """Bars of the mean drift under each mask, the largest first, with standard errors over examples.

    Args:
        result: what `al.drift` returned.
        measure: "kl", "reverse_kl", "js", "top1_changed", "log_probability_change" or "rank_change".
        top: masks to draw.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such measure.
    """
    expect(result, Drift, "al.drift(model, data, masks)")
    called = measure_named(measure)
    top, table = check_top(top), result.table()
    order = np.argsort(-np.abs(table[measure].to_numpy(dtype=float)), kind="stable")[:top]
    shown = table.iloc[order]
    names = [escaped(shortened(str(name))) for name in shown["mask"]]
    changed = [percent(round(float(share), 3)) for share in shown["top1_changed"]]
    figure = go.Figure(
        go.Bar(
            x=shown[measure],
            y=list(range(len(names))),
            orientation="h",
            marker={"color": POSITIVE},
            error_x={"type": "data", "array": np.nan_to_num(shown[f"{measure}_se"].to_numpy(dtype=float))},
            customdata=list(zip([escaped(name) for name in shown["mask"]], changed, strict=True)),
            hovertemplate="<b>%{customdata[0]}</b><br>%{x:.4g}<br>top-1 changed: %{customdata[1]}<extra></extra>",
        )
    )
    more = "" if len(table) <= top else f" The {top} largest of {len(table):,}."
    examples = result.values.sizes["example"]
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Drift of the predictions",
            "subtitle": {
                "text": f"Mean over {counted(int(shown['positions'].max()), 'position')} of "
                f"{counted(examples, 'example')}; whiskers are standard errors over examples.{more}"
            },
        },
        xaxis={"title": {"text": called.axis}},
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
        },
        height=150 + 24 * max(len(names), 3),
    )
    return figure


def drift_positions(
    result: Drift, *, mask: str | SupportsIndex = 0, measure: str = "kl", theme: Theme = LIGHT
) -> go.Figure:
    """Heat map of the drift under one mask: examples down, positions across; the tokens are in the hover text.

    Args:
        result: what `al.drift` returned.
        mask: by name or place.
        measure: as in `drift`.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such mask or measure.
    """
    expect(result, Drift, "al.drift(model, data, masks)")
    called = measure_named(measure)
    names = [str(name) for name in result.values["mask"].values]
    place = place_of(mask, names, "mask")
    values = result.values[measure].values[place].astype(float)
    tokens, before = (result.values[name].values for name in ("token", "before"))
    after = result.values["after"].values[place]
    texts = [[escaped(text) for text in result.texts(ids.ravel())] for ids in (tokens, before, after)]
    examples = [str(name) for name in result.values["example"].values]
    places = list(range(len(examples)))  # two names may be equal once they are shortened
    own = np.repeat([escaped(name) for name in examples], values.shape[1])
    lines = [
        f"{name}, position {position}<br>after {token}: {first} → {then}"
        for name, position, token, first, then in zip(
            own, np.tile(np.arange(values.shape[1]), len(examples)), *texts, strict=True
        )
    ]
    hover = np.array(lines, dtype=object).reshape(values.shape)
    largest = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
    largest = largest or 1.0
    axis = "coloraxis" if called.signed else "coloraxis2"
    figure = go.Figure(
        go.Heatmap(
            z=values,
            y=places,
            customdata=hover,
            coloraxis=axis,
            hoverongaps=False,
            hovertemplate="%{customdata}<br>%{z:.4g}<extra></extra>",
        )
    )
    bar = {"title": {"text": called.unit or called.words}}
    figure.update_layout(
        {axis: {"cmin": -largest if called.signed else 0.0, "cmax": largest, "colorbar": bar}},
        template=template_of(theme),
        title={
            "text": f"Where predictions drift: {escaped(names[place])}",
            "subtitle": {"text": f"{called.axis}. Empty: padding{', or no right class' if called.signed else ''}."},
        },
        xaxis={"title": {"text": "position"}, "showgrid": False, "zeroline": False},
        yaxis={
            "tickvals": places,
            "ticktext": [escaped(shortened(name)) for name in examples],
            "range": [len(examples) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
        },
        height=170 + 20 * max(len(examples), 4),
    )
    return figure
