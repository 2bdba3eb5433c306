"""Many ablations at once: what each part does to output and predictions, and which attention patterns it changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ablationlens.diagnostics import AblationTable
from ablationlens.errors import InputError
from ablationlens.plots.checks import check_top, expect
from ablationlens.plots.drift import WORDS, check_measure
from ablationlens.plots.labels import counted, escaped, output_name, shortened
from ablationlens.plots.theme import LIGHT, NEGATIVE, NEUTRAL, POSITIVE, Theme

SHORT = {
    "kl": "KL, nats",
    "reverse_kl": "reverse KL, nats",
    "js": "JS, nats",
    "top1_changed": "top-1 changed",
    "log_probability_change": "log-probability",
    "rank_change": "rank",
}
"""The measures of drift, for a narrow axis."""


def ablations(table: AblationTable, *, measure: str = "kl", top: int = 25, theme: Theme = LIGHT) -> go.Figure:
    """Bars of the effect of keeping each part on the output, beside the drift of the predictions without it.

    Args:
        table: what `al.ablation_table` returned.
        measure: of the drift: "kl", "js", "top1_changed" and so on.
        top: parts to draw, those with the largest drift.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such measure.
    """
    expect(table, AblationTable, "al.ablation_table(model, data)")
    check_measure(measure)
    top, frame = check_top(top), table.frame
    order = np.argsort(-np.abs(frame[measure].to_numpy(dtype=float)), kind="stable")[:top]
    shown = frame.iloc[order]
    places, names = list(range(len(shown))), [escaped(str(name)) for name in shown["part"]]
    unit = escaped(output_name(table.provenance))
    effects = shown["effect"].to_numpy(dtype=float)
    figure: Any = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (name, values, colours) in enumerate(
        (
            ("effect", effects, [POSITIVE if value >= 0 else NEGATIVE for value in effects]),
            (measure, shown[measure].to_numpy(dtype=float), NEUTRAL),
        ),
        start=1,
    ):
        errors = np.nan_to_num(shown[f"{name}_se"].to_numpy(dtype=float))
        bars = go.Bar(
            x=values,
            y=places,
            orientation="h",
            marker={"color": colours},
            error_x={"type": "data", "array": errors},
            customdata=names,
            hovertemplate="<b>%{customdata}</b><br>%{x:.4g} ± %{error_x.array:.2g}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bars, 1, column)
    figure.update_xaxes(title={"text": f"effect on the {unit}"}, col=1)
    figure.update_xaxes(title={"text": SHORT[measure]}, col=2)
    figure.update_yaxes(
        tickvals=places,
        ticktext=[shortened(name) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    more = "" if len(frame) <= top else f" The {top} of {len(frame):,} with the largest drift."
    examples = counted(table.values.sizes["example"], "example")
    figure.update_layout(
        template=theme.template,
        title={
            "text": "What is lost without each part",
            "subtitle": {
                "text": f"Left: effect of keeping it on the {unit}. Right: {WORDS[measure]}. "
                f"Mean over {examples}; whiskers are standard errors.{more}"
            },
        },
        height=170 + 24 * max(len(names), 3),
    )
    return figure


def pattern_change(table: AblationTable, *, top: int = 40, theme: Theme = LIGHT) -> go.Figure:
    """Heat map of parts and heads: how far the attention pattern of each head changes without each part.

    Args:
        table: what `al.ablation_table` returned, with patterns.
        top: parts to draw, those that change the most.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if the table has no patterns.
    """
    expect(table, AblationTable, "al.ablation_table(model, data)")
    if table.patterns is None:
        raise InputError("this table has no patterns: al.ablation_table(model, data, patterns=True)")
    top, values = check_top(top), table.patterns.stack(cell=("layer", "head")).dropna("cell", how="all")
    largest = np.nanmax(values.values, axis=1)
    chosen = np.sort(np.argsort(-largest, kind="stable")[:top])
    grid = values.values[chosen]
    columns = [f"L{layer}.{head}" for layer, head in values["cell"].values.tolist()]
    rows = [escaped(shortened(str(values["part"].values[part]))) for part in chosen]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=columns,
            y=rows,
            coloraxis="coloraxis2",
            hovertemplate="without <b>%{y}</b><br>pattern of %{x} changes by %{z:.3f}<extra></extra>",
            texttemplate="%{z:.2f}" if grid.size <= 160 else None,
            xgap=1,
            ygap=1,
        )
    )
    plain = {"type": "category", "showgrid": False, "zeroline": False}
    more = "" if len(values) <= top else f" The {top} of {len(values):,} parts that change the most."
    figure.update_layout(
        template=theme.template,
        title={
            "text": "Which attention patterns change without each part",
            "subtitle": {"text": f"Total-variation distance to the clean pattern, 0 to 1, mean over queries.{more}"},
        },
        coloraxis2={
            "cmin": 0,
            "cmax": float(np.nanmax(grid)) or 1.0,
            "colorbar": {"thickness": 12, "len": 1.0, "title": {"text": "change", "side": "right"}},
        },
        xaxis={**plain, "title": {"text": "layer and head"}},
        yaxis={**plain, "autorange": "reversed"},
        height=170 + 24 * max(len(rows), 4),
    )
    return figure
