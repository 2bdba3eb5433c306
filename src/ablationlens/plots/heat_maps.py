"""Where in the model the weight is: heat maps of layers and modules, and of heads."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ablationlens.errors import InputError
from ablationlens.plots.labels import counted, escaped, output_name, shortened
from ablationlens.plots.theme import CELLS_WITH_NUMBERS, LIGHT, Theme, template_of
from ablationlens.results import Attribution, of_components

By: TypeAlias = Literal["weight", "mean", "share"]
"""Sum of the weights of a cell; their mean, which does not grow with the cell's size; share of the absolute weight."""

_TITLES: dict[str, str] = {
    "weight": "Summed weight by layer and module",
    "mean": "Mean weight by layer and module",
    "share": "Share of the absolute weight by layer and module",
}


def layers(attribution: Attribution, *, by: By | str = "weight", theme: Theme = LIGHT) -> go.Figure:
    """Heat map of layers and modules.

    Args:
        attribution: weights of components.
        by: "weight" (the sum over the components of a cell), "mean" (per component) or "share" (of the absolute
            weight of all components, in per cent).
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if `by` is none of these.
    """
    if by not in get_args(By):
        raise InputError(f"by={by!r}: use one of {', '.join(map(repr, get_args(By)))}")
    frame = _frame(attribution)
    frame["share"] = 100 * frame["weight"].abs() / (frame["weight"].abs().sum() or 1.0)
    frame["row"], frame["column"] = _places(frame)
    grouped = frame.groupby(["row", "column"], sort=False)
    cells = pd.DataFrame(
        {
            "sum": grouped["weight"].sum(),
            "mean": grouped["weight"].mean(),
            "share": grouped["share"].sum(),
            "count": grouped.size(),
        }
    )
    rows = list(dict.fromkeys(frame.sort_values("layer", kind="stable")["row"]))
    columns = list(dict.fromkeys(frame["column"]))

    def grid(value: str) -> np.ndarray:
        return cells.pivot_table(value, "row", "column").reindex(index=rows, columns=columns).to_numpy(dtype=float)

    unit = escaped(output_name(attribution.provenance))
    values = grid("sum" if by == "weight" else by)
    hover = np.stack([grid("sum"), grid("mean"), grid("count"), grid("share")], axis=-1)
    figure = _heat_map(
        values,
        rows=rows,
        columns=columns,
        unit="% of |weight|" if by == "share" else unit,
        customdata=hover,
        hovertemplate="<b>layer %{y}, %{text}</b><br>"
        "sum %{customdata[0]:+.4g}<br>mean %{customdata[1]:+.4g}<br>"
        "components %{customdata[2]:,}<br>share %{customdata[3]:.3g}%<extra></extra>",
        signed=by != "share",
        theme=theme,
    )
    meaning = "Blue: keeping it raises" if by != "share" else "Sum of |mean weight| of a cell, over that of all; for"
    subtitle = f"{meaning} the {unit}. {counted(len(frame), 'component')}, {_examples(attribution)}."
    figure.update_layout(
        title={"text": f"{_TITLES[by]} ({escaped(attribution.method)})", "subtitle": {"text": subtitle}},
        xaxis={"title": {"text": "module"}},
        yaxis={"title": {"text": "layer"}},
    )
    return figure


def heads(attribution: Attribution, *, theme: Theme = LIGHT) -> go.Figure:
    """Heat map of attention heads: mean weight over examples, layers down and heads across.

    Args:
        attribution: weights of components, some of which are heads.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if none of the components is a head.
    """
    frame = _frame(attribution)
    kinds = ", ".join(dict.fromkeys(frame["kind"]))
    frame = frame[frame["kind"] == "head"]
    if frame.empty:
        raise InputError(
            f"this attribution has no heads, only components of kind {kinds}: attribute a model whose registry is "
            'adapter.registry("head"), or draw layers(attribution)'
        )
    grid = frame.pivot_table("weight", "layer", "index").sort_index().sort_index(axis=1)
    spread = frame.pivot_table("spread", "layer", "index").reindex_like(grid)
    unit = escaped(output_name(attribution.provenance))
    figure = _heat_map(
        grid.to_numpy(dtype=float),
        rows=[str(layer) for layer in grid.index],
        columns=[str(head) for head in grid.columns],
        unit=unit,
        customdata=spread.to_numpy(dtype=float)[..., None],
        hovertemplate="<b>L%{y}.head %{x}</b><br>weight %{z:+.4g}<br>spread %{customdata[0]:.3g}<extra></extra>",
        signed=True,
        theme=theme,
    )
    subtitle = f"Blue: keeping the head raises the {unit}. {counted(len(frame), 'head')}, {_examples(attribution)}."
    figure.update_layout(
        title={"text": f"Weight of each head ({escaped(attribution.method)})", "subtitle": {"text": subtitle}},
        xaxis={"title": {"text": "head"}},
        yaxis={"title": {"text": "layer"}},
    )
    return figure


def _frame(attribution: Attribution) -> pd.DataFrame:
    """One row per component in the order of the registry: layer, module, kind, index, mean weight, spread."""
    attribution = of_components(attribution, "this figure")
    weights = attribution.weights.transpose("example", "component")
    frame = pd.DataFrame({name: weights[name].to_numpy() for name in ("layer", "module", "kind", "index")})
    frame["weight"] = weights.mean("example").to_numpy()
    frame["spread"] = weights.std("example").to_numpy()
    return frame


def _examples(attribution: Attribution) -> str:
    return f"mean of {counted(attribution.weights.sizes['example'], 'example')}"


def _places(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Row and column of each component in the heat map.

    Columns are modules, with the kind where a module was cut in several ways. Networks without repeated layers would
    fill no more than a diagonal: their modules become rows.
    """
    layers, modules, kinds = (frame[name].tolist() for name in ("layer", "module", "kind"))
    cuts = {module: {k for m, k in set(zip(modules, kinds, strict=True)) if m == module} for module in set(modules)}
    columns = [f"{m} {k}" if len(cuts[m]) > 1 else str(m) for m, k in zip(modules, kinds, strict=True)]
    rows = [str(layer) for layer in layers]
    if len(set(rows)) > 1 and len(set(zip(rows, columns, strict=True))) == len(set(columns)):
        return [f"{row} {column}" for row, column in zip(rows, columns, strict=True)], ["all"] * len(rows)
    return rows, columns


def _heat_map(
    values: np.ndarray,
    *,
    rows: list[str],
    columns: list[str],
    unit: str,
    customdata: np.ndarray,
    hovertemplate: str,
    signed: bool,
    theme: Theme,
) -> go.Figure:
    """Cells with their values written in, on a scale that is symmetric about 0 if the values have a sign."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    whole, cut = [escaped(name) for name in columns], [escaped(shortened(name, 20)) for name in columns]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=whole,
            y=rows,
            text=[whole] * len(rows),  # for the hover, in which x is what stands at its tick
            coloraxis="coloraxis" if signed else "coloraxis2",
            customdata=customdata,
            hovertemplate=hovertemplate,
            hoverongaps=False,
            texttemplate=f"%{{z:{'+' if signed else ''}.{_decimals(largest)}f}}"
            if values.size <= CELLS_WITH_NUMBERS
            else None,
            xgap=1,
            ygap=1,
        )
    )
    limits: dict[str, Any] = {"cmin": -largest if signed else 0.0, "cmax": largest}
    bar = {"title": {"text": unit}}
    axis = {"type": "category", "showgrid": False, "zeroline": False}
    figure.update_layout(
        {"coloraxis" if signed else "coloraxis2": {**limits, "colorbar": bar}},
        template=template_of(theme),
        # Whole names are the places: two may be equal once they are shortened. Others leave out labels that collide.
        xaxis=axis if cut == whole else {**axis, "tickvals": whole, "ticktext": cut},
        yaxis={**axis, "autorange": "reversed"},
        height=150 + 34 * max(len(rows), 3),
    )
    return figure


def _decimals(largest: float) -> int:
    """Decimals that give the largest value two or three significant digits, and no more than four."""
    magnitude = math.floor(math.log10(largest))
    return max(2 - magnitude, 0) if magnitude >= 0 else min(1 - magnitude, 4)
