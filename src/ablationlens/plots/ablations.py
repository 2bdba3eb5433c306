"""Many ablations at once: what each part does to output and predictions, and which attention patterns it changes."""

from __future__ import annotations

from typing import Any, SupportsIndex

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from ablationlens.diagnostics import AblationTable
from ablationlens.errors import InputError
from ablationlens.plots.attention import attention
from ablationlens.plots.checks import check_top, expect
from ablationlens.plots.labels import counted, escaped, output_name, shortened
from ablationlens.plots.measures import measure_named
from ablationlens.plots.theme import CELLS_WITH_NUMBERS, LIGHT, NEGATIVE, NEUTRAL, POSITIVE, Theme, template_of

TOP_PARTS = 40
"""Parts in a heat map of pattern changes."""


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
    called = measure_named(measure)
    top, frame = check_top(top), table.frame
    order = np.argsort(-np.abs(frame[measure].to_numpy(dtype=float)), kind="stable")[:top]
    shown = frame.iloc[order]
    places, names = list(range(len(shown))), [str(name) for name in shown["part"]]
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
            customdata=[escaped(name) for name in names],
            hovertemplate="<b>%{customdata}</b><br>%{x:.4g} ± %{error_x.array:.2g}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bars, 1, column)
    figure.update_xaxes(title={"text": f"effect on the {unit}"}, col=1)
    figure.update_xaxes(title={"text": called.narrow_axis}, col=2)
    figure.update_yaxes(
        tickvals=places,
        ticktext=[escaped(shortened(name)) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    more = "" if len(frame) <= top else f" The {top} of {len(frame):,} with the largest drift."
    examples = counted(table.values.sizes["example"], "example")
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "What is lost without each part",
            "subtitle": {
                "text": f"Left: effect of keeping it on the {unit}. Right: {called.axis}. "
                f"Mean over {examples}; whiskers are standard errors.{more}"
            },
        },
        height=170 + 24 * max(len(names), 3),
    )
    return figure


def pattern_change(table: AblationTable, *, top: int = TOP_PARTS, theme: Theme = LIGHT) -> go.Figure:
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
    chosen = shown_changes(table, check_top(top))
    grid = chosen.values
    names = [str(part) for part in chosen["part"].values]
    # Numbers, not names, are the places: two names may be equal once they are shortened.
    places = list(range(len(names)))
    columns = [f"L{layer}.{head}" for layer, head in chosen["cell"].values.tolist()]
    figure = go.Figure(
        go.Heatmap(
            z=grid,
            x=columns,
            y=places,
            coloraxis="coloraxis2",
            customdata=[[escaped(name)] * len(columns) for name in names],
            hovertemplate="without <b>%{customdata}</b><br>pattern of %{x} changes by %{z:.3f}<extra></extra>",
            texttemplate="%{z:.2f}" if grid.size <= CELLS_WITH_NUMBERS else None,
            xgap=1,
            ygap=1,
        )
    )
    plain = {"showgrid": False, "zeroline": False}
    more = "" if len(grid) == len(table.parts) else f" The {top} of {len(table.parts):,} parts that change the most."
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Which attention patterns change without each part",
            "subtitle": {"text": f"Total-variation distance to the clean pattern, 0 to 1, mean over queries.{more}"},
        },
        coloraxis2={
            "cmin": 0,
            "cmax": float(np.nanmax(grid)) or 1.0,
            "colorbar": {"title": {"text": "change"}},
        },
        xaxis={**plain, "type": "category", "title": {"text": "layer and head"}},
        yaxis={
            **plain,
            "tickvals": places,
            "ticktext": [escaped(shortened(name)) for name in names],
            "range": [len(names) - 0.5, -0.5],
        },
        height=170 + 24 * max(len(names), 4),
    )
    return figure


def shown_changes(table: AblationTable, top: int = TOP_PARTS) -> xr.DataArray:
    """Rows and columns of the heat map of pattern changes.

    Args:
        table: with patterns.
        top: parts, those that change the most, in the table's order.

    Returns:
        [part, cell], where `cell` is (layer, head); without those that a layer does not have.
    """
    assert table.patterns is not None
    values = table.patterns.stack(cell=("layer", "head")).dropna("cell", how="all")
    largest = np.nanmax(values.values, axis=1)
    return values.isel(part=np.sort(np.argsort(-largest, kind="stable")[:top]))


def pattern_without(
    table: AblationTable,
    part: SupportsIndex | str | None = None,
    *,
    layer: SupportsIndex | None = None,
    head: SupportsIndex | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """One cell of `pattern_change`: a head's attention as it is, without a part, and their difference.

    Args:
        table: what `al.ablation_table` returned, which keeps the patterns of one example.
        part: by name or place. Of what is left out, that which changes the most.
        layer: of the head.
        head: in its layer.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if no patterns were kept, or not this one: see `AblationTable.pattern`.
    """
    expect(table, AblationTable, "al.ablation_table(model, data)")
    return attention(table.pattern(part, layer=layer, head=head), theme=theme)
