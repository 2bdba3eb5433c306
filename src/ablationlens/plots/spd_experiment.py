"""What ablations do in each mode of a decomposition, beside how far the mode itself is from the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ablationlens.errors import InputError
from ablationlens.plots.checks import check_top, expect
from ablationlens.plots.labels import counted, escaped, shortened
from ablationlens.plots.measures import measure_named
from ablationlens.plots.theme import LIGHT, NEGATIVE, POSITIVE, Theme, template_of
from ablationlens.spd_experiment import AblationExperiment
from ablationlens.spd_experiment.result import EVERYTHING, SHOWN

FAR = 2.0
"""A gap beyond so many times the largest effect is written at the edge, where it would leave the effects no room."""


def ablation_experiment(
    result: AblationExperiment, *, measure: str = "kl", top: int = 25, theme: Theme = LIGHT
) -> go.Figure:
    """Bars of the effect of each ablation, a panel for each mode, and a line where the gap of the mode's baseline is.

    An effect that is smaller than the gap is one in a model that differs from the target by more than the ablation.
    All panels have one scale.

    Args:
        result: what `al.spd.ablation_experiment` returned.
        measure: "kl", "reverse_kl", "js" or "top1_changed".
        top: ablations to draw, those with the largest effects in any mode, in the order of the result.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such measure.
    """
    expect(result, AblationExperiment, "al.spd.ablation_experiment(adapter, decomposition, data, ablate)")
    if measure not in SHOWN:
        raise InputError(f"no measure {measure!r}: the measures are {', '.join(SHOWN)}")
    called, top = measure_named(measure), check_top(top)
    table, gaps = result.table(), _gaps(result, measure)
    names = _largest(result, measure, top)
    rows = {mode: _rows(table, mode, names) for mode in result.modes}
    reach = max(float(row[measure] + row[f"{measure}_se"]) for own in rows.values() for row in own) or 1.0
    near = [gap for gap in gaps.values() if gap <= FAR * reach]
    end = 1.12 * max([reach, *near])
    titles = [
        f"<b>{escaped(mode)}</b>  "
        f'<span style="color:{NEGATIVE}">gap {gaps[mode]:.3g}{" →" if gaps[mode] > end else ""}</span>'
        for mode in rows
    ]
    figure: Any = make_subplots(1, len(rows), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=titles)
    for column, (mode, own) in enumerate(rows.items(), start=1):
        done = [row["operation"] for row in own]
        bars = go.Bar(
            x=[row[measure] for row in own],
            y=list(range(len(names))),
            orientation="h",
            marker={
                "color": POSITIVE,
                "pattern": {"shape": ["/" if operation == "free" else "" for operation in done]},
            },
            error_x={"type": "data", "array": [row[f"{measure}_se"] for row in own], "visible": own[0]["samples"] > 1},
            customdata=[escaped(f"{mode}: {operation} {name}") for operation, name in zip(done, names, strict=True)],
            hovertemplate="<b>%{customdata}</b><br>%{x:.4g}"
            f"{' ± %{error_x.array:.2g}' if own[0]['samples'] > 1 else ''}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bars, 1, column)
        if gaps[mode] <= end:
            figure.add_vline(x=gaps[mode], line={"color": NEGATIVE, "dash": "dash", "width": 1.5}, col=column, row=1)
        figure.update_xaxes(range=[0, end], title={"text": called.narrow_axis}, col=column)
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[escaped(shortened(name)) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        ticklabelstandoff=4,
    )
    figure.update_annotations(font={"size": 12})
    more = "" if len(names) == len(result.ablations) else f" The {top} largest of {len(result.ablations):,}."
    positions = counted(int(table["positions"].to_numpy()[0]), "position")
    axis = called.axis.replace("clean", "baseline")  # an effect is from the baseline, and not from the target
    freed = " Hatched: freed, not ablated." if "free" in set(table["operation"]) else ""
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Effect of each ablation by mode",
            "y": 1,
            "yanchor": "top",
            "pad": {"l": 10, "t": 16},
            "subtitle": {
                "text": f"{axis}, mean over {positions}; whiskers are standard errors over samples.<br>Dashed: "
                f"gap between the target and the mode itself; with an arrow: beyond the axis.{freed}{more}"
            },
        },
        margin={"t": 136},
        height=236 + 24 * max(len(names), 3),
    )
    return figure


def _gaps(result: AblationExperiment, measure: str) -> dict[str, float]:
    """The gap of each mode's baseline."""
    rows = [row for row in result.gap_table().to_dict("records") if row["module"] == EVERYTHING]
    return {str(row["mode"]): float(row[measure]) for row in rows}


def _largest(result: AblationExperiment, measure: str, top: int) -> list[str]:
    """Names of the ablations with the largest effects in any mode, in the order of the result."""
    each = result.table()[measure].to_numpy(dtype=float).reshape(len(result.modes), -1).max(0)
    places = np.argsort(-each, kind="stable")[:top]
    return [result.ablations[place] for place in sorted(places.tolist())]


def _rows(table: pd.DataFrame, mode: str, names: list[str]) -> list[dict[str, Any]]:
    """Effects in one mode, in this order, with standard errors of 0 where there are none."""
    found: dict[str, dict[str, Any]] = {}
    for record in table.to_dict("records"):
        if record["mode"] == mode:
            row = {str(key): value for key, value in record.items()}
            found[row["ablation"]] = {**row, **{f"{name}_se": row[f"{name}_se"] or 0.0 for name in SHOWN}}
    return [found[name] for name in names]
