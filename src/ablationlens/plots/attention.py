"""Attention patterns: one head with its tokens on the axes, before and after; what every head attends to."""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from ablationlens.diagnostics.named import place_of
from ablationlens.errors import InputError
from ablationlens.extras import optional
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped
from ablationlens.plots.theme import CELLS_WITH_NUMBERS, LIGHT, Theme, template_of

ACROSS, DOWN = 72, 56
"""Tokens that the axes of all panels have room to name; of more every second is named, or every third, and so on."""
MEASURES = {
    "previous": "on the previous token",
    "first": "on the first token",
    "current": "on the token itself",
    "induction": "on tokens after earlier occurrences",
    "entropy": "entropy in nats",
}


def attention(
    patterns: xr.DataArray,
    *,
    example: SupportsIndex | str = 0,
    layer: int | None = None,
    head: int | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Heat map of one head's attention in one example; side by side with their difference for two masks.

    Args:
        patterns: from `al.attention_patterns`; with a dimension "mask", each mask has a panel, and two masks also one
            of their difference.
        example: by place or name. Nothing is averaged: to see a mean, give ``patterns.mean("example")``, of texts of
            one length.
        layer: of the head; may be left out where there is one.
        head: in its layer; may be left out where there is one.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if it is not said which example, layer or head, or there is none such, or it is a mean over
            examples of different length.
    """
    one, where = _chosen(patterns, example, layer, head)
    queries, keys = _tokens(one, "query"), _tokens(one, "key")
    rows = [index for index, name in enumerate(queries) if name]
    columns = [index for index, name in enumerate(keys) if name]
    one = one.isel(query=rows, key=columns)
    names = [str(name) for name in one["mask"].values] if "mask" in one.dims else [""]
    panels = [one.sel(mask=name).values for name in names] if "mask" in one.dims else [one.values]
    signed = [bool((panel < 0).any()) for panel in panels]
    if len(panels) == 2:
        panels, names, signed = [*panels, panels[1] - panels[0]], [*names, f"{names[1]} - {names[0]}"], [*signed, True]
    figure: Any = make_subplots(
        1, len(panels), subplot_titles=[escaped(n) for n in names], shared_yaxes=True, horizontal_spacing=0.02
    )
    for number, panel in enumerate(panels):
        figure.add_trace(_heat_map(panel, queries, keys, rows, columns, signed[number]), 1, number + 1)
    largest = max([float(np.nanmax(np.abs(p))) for p, s in zip(panels, signed, strict=True) if s], default=1.0) or 1.0
    plain = {"showgrid": False, "zeroline": False}
    across = _ticks([keys[index] for index in columns], ACROSS // len(panels))
    figure.update_xaxes(**plain, **across, tickangle=-90, title={"text": "key"})
    figure.update_yaxes(**plain, **_ticks([queries[index] for index in rows], DOWN), autorange="reversed")
    figure.update_yaxes(title={"text": "query"}, col=1)
    most = max([float(np.nanmax(p)) for p, s in zip(panels, signed, strict=True) if not s], default=1.0)
    both = any(signed) and not all(signed)
    bar = {"title": {"text": "attention"}}
    change = {**bar, "x": 1.12 if both else 1.02, "title": {"text": "change"}}
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"Attention of {where}",
            "subtitle": {"text": "Each row is a query and sums to 1: how much of it goes to each key."},
        },
        coloraxis={"cmin": -largest, "cmax": largest, "colorbar": change, "showscale": any(signed)},
        coloraxis2={"cmin": 0, "cmax": most, "colorbar": bar, "showscale": not all(signed)},
        margin={"t": 96 if len(panels) > 1 else 72},
        height=190 + int(min(max(14 * len(rows), 200), 620)),
    )
    return figure


def _ticks(tokens: list[str], most: int) -> dict[str, Any]:
    """Names on an axis of tokens, at most so many."""
    named = range(0, len(tokens), -(-len(tokens) // most) or 1)
    return {
        "tickvals": list(named),
        "ticktext": [_shown(tokens[place]) for place in named],
        "tickfont": {"size": 10},
        "ticks": "",
    }


def _heat_map(
    panel: np.ndarray, queries: list[str], keys: list[str], rows: list[int], columns: list[int], signed: bool
) -> go.Heatmap:
    hover = [[f"{_shown(queries[row])} → {_shown(keys[column])}" for column in columns] for row in rows]
    return go.Heatmap(
        z=panel,
        customdata=hover,
        hovertemplate="%{customdata}<br>%{z:" + ("+" if signed else "") + ".3f}<extra></extra>",
        coloraxis="coloraxis" if signed else "coloraxis2",
    )


def attention_heads(summary: xr.Dataset, *, measure: str = "induction", theme: Theme = LIGHT) -> go.Figure:
    """Heat map of what every head attends to: mean over examples of one measure, layers down and heads across.

    Args:
        summary: from `al.attention_summary`; of one mask: ``summary.sel(mask="clean")``.
        measure: "previous", "first", "induction" (each a share of attention), or "entropy".
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if the summary has several masks, or no such measure.
    """
    expect(summary, xr.Dataset, "al.attention_summary(patterns, data)")
    if measure not in summary:
        raise InputError(f"no measure {measure!r} in this summary: it has {', '.join(map(str, summary))}")
    if "mask" in summary.dims:
        raise InputError('this summary is of several masks: take one, summary.sel(mask="clean")')
    if "sample" in summary.dims:
        raise InputError('this summary is of several samples of a base: take their mean, summary.mean("sample")')
    values = summary[measure]
    grid = values.mean("example") if "example" in values.dims else values
    grid = grid.transpose("layer", "head")
    share = measure != "entropy"
    figure = go.Figure(
        go.Heatmap(
            z=grid.values,
            x=[str(head) for head in grid["head"].values],
            y=[str(layer) for layer in grid["layer"].values],
            coloraxis="coloraxis2",
            texttemplate="%{z:.2f}" if grid.size <= CELLS_WITH_NUMBERS else None,
            hovertemplate="<b>L%{y}.head %{x}</b><br>%{z:.3f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    what = MEASURES.get(measure, measure)
    count = counted(values.sizes["example"], "example") if "example" in values.dims else "the examples"
    plain = {"type": "category", "showgrid": False, "zeroline": False}
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"Attention {what}" if share else "How widely each head attends",
            "subtitle": {"text": f"Mean over queries, and over {count}; {'0 to 1' if share else 'in nats'}."},
        },
        coloraxis2={
            "cmin": 0,
            "cmax": 1 if share else float(np.nanmax(grid.values)) or 1.0,
            "colorbar": {"title": {"text": measure}},
        },
        xaxis={**plain, "title": {"text": "head"}},
        yaxis={**plain, "title": {"text": "layer"}, "autorange": "reversed"},
        height=150 + 34 * max(grid.sizes["layer"], 3),
    )
    return figure


def circuitsvis(patterns: xr.DataArray, *, example: SupportsIndex | str = 0, layer: int | None = None) -> Any:
    """CircuitsVis' interactive view of all heads of a layer, for notebooks: pip install "ablationlens[circuitsvis]".

    Args:
        patterns: from `al.attention_patterns`; of one mask: ``patterns.sel(mask="clean")``.
        example: by place or name.
        layer: may be left out where there is one.

    Returns:
        What CircuitsVis returns, which a notebook shows.

    Raises:
        InputError: if it is not said which example or layer, if there are several masks, or queries and keys differ.
        MissingExtraError: if CircuitsVis is not installed.
    """
    view: Any = optional("circuitsvis.attention")
    if isinstance(patterns, xr.DataArray) and "mask" in patterns.dims:
        raise InputError('these are patterns of several masks: take one, patterns.sel(mask="clean")')
    one, _ = _chosen(patterns, example, layer, None, every_head=True)
    queries, keys = _tokens(one, "query"), _tokens(one, "key")
    if queries != keys:
        raise InputError("CircuitsVis shows attention of tokens to themselves: these queries and keys are of two texts")
    real = [index for index, name in enumerate(queries) if name]
    values = one.isel(query=real, key=real).transpose("head", "query", "key").values
    names = [f"L{int(one['layer'])}H{head}" for head in one["head"].values]
    above = np.triu(values, 1)
    return view.attention_heads(
        attention=values,
        tokens=[queries[index] for index in real],
        attention_head_names=names,
        mask_upper_tri=not bool((np.abs(above) > 0).any()),
    )


def _chosen(
    patterns: Any, example: SupportsIndex | str, layer: int | None, head: int | None, *, every_head: bool = False
) -> tuple[xr.DataArray, str]:
    """One example, layer and head of patterns, and their name.

    Raises:
        InputError: if one is not said and there are several, or there is none such.
    """
    if not isinstance(patterns, xr.DataArray) or not {"query", "key"} <= set(patterns.dims):
        raise InputError(
            f"this figure is of what al.attention_patterns(model, data) returns; got {type(patterns).__name__}"
        )
    if "sample" in patterns.dims:
        raise InputError(
            "these are patterns of several samples of a base: take one, patterns.sel(sample=0), or their mean, "
            'patterns.mean("sample")'
        )
    found, words = patterns, list[str]()
    wanted: dict[str, Any] = {"layer": layer} if every_head else {"layer": layer, "head": head}
    for name, value in wanted.items():
        if name in found.dims:
            values = found[name].values.tolist()
            if value is None and len(values) > 1:
                raise InputError(f"say which {name}: {name}= one of {', '.join(map(str, values))}")
            if value is not None and value not in values:
                raise InputError(f"no {name} {value}: these patterns have {', '.join(map(str, values))}")
            found = found.sel({name: values[0] if value is None else value})
        if name in found.coords:
            words.append(f"L{int(found[name])}" if name == "layer" else f"head {int(found[name])}")
    if "example" in found.dims:
        names = [str(name) for name in found["example"].values]
        place = place_of(example, names, "example")
        found = found.isel(example=place)
        words.append(f"in “{escaped(str(found['example'].item()))}”")
    elif "query_token" not in found.coords:
        if bool(np.isnan(found.values).any()):
            raise InputError("these are means over examples of different length, whose positions do not line up")
        words.append("(mean over examples)")
    return found, ".".join(words[:2]) + (f" {' '.join(words[2:])}" if len(words) > 2 else "")


def _tokens(one: xr.DataArray, axis: str) -> list[str]:
    """Tokens of an axis, "" at padding; positions where there is no single text."""
    name = f"{axis}_token"
    if name in one.coords:
        return [str(token) for token in cast("Any", one[name].values)]
    return [str(position) for position in range(one.sizes[axis])]


def _shown(token: str) -> str:
    """A token on an axis: line ends and tabs visible, spaces as a dot."""
    return escaped(token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍").replace(" ", "·"))
