"""Figures of a study of domains: where the weight is in each, how alike they are, and what their weights predict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ablationlens.diagnostics import Domains
from ablationlens.diagnostics.domain_agreement import Kind
from ablationlens.diagnostics.domain_held_out import OWN
from ablationlens.diagnostics.domain_similarity import Similarity
from ablationlens.errors import InputError
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, output_name, shortened, signed
from ablationlens.plots.theme import CELLS_WITH_NUMBERS, LIGHT, NEUTRAL, Theme, template_of
from ablationlens.plots.whiskers import (
    add_means,
    categories,
    interval,
    matching,
    measure_range,
    numbers,
    shifts,
    undefined,
    values_of,
    words,
)

CALL = "al.domains(model, {...})"
MOST_DECIMALS = 6
_ROW, _CELL = 26, 56
"""Heights, in pixels: of a group of components, and of a cell of a matrix."""


def domain_weights(result: Domains, by: str | Sequence[str] = "layer", *, theme: Theme = LIGHT) -> go.Figure:
    """Heat map of the mean weight of groups of components: domains across, groups down.

    Args:
        result: what `al.domains` returned.
        by: a column of the registry, or several: layer, module, kind, index.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such column.
    """
    expect(result, Domains, CALL)
    table = result.by(by)
    columns = [by] if isinstance(by, str) else list(by)
    first = matching(table, "domain", result.names[0])
    groups = [" ".join(map(str, row)) for row in first[columns].itertuples(index=False)]
    shape = (len(result.names), len(groups))  # the table has all groups of one domain, then those of the next
    weight, error, size, count = (
        numbers(table, name).reshape(shape).T for name in ("weight", "error", "size", "components")
    )
    hover = [
        [
            f"weight {signed(weight[row, column])}"
            + (f" ± {error[row, column]:.2g} (standard error)" if math.isfinite(error[row, column]) else "")
            + f"<br>mean size {size[row, column]:.3g}<br>{counted(int(count[row, column]), 'component')}"
            for column in range(shape[0])
        ]
        for row in range(shape[1])
    ]
    finite = np.abs(weight[np.isfinite(weight)])
    largest = float(finite.max(initial=0.0)) or 1.0
    decimals = min(max(1 - math.floor(math.log10(largest)), 0), MOST_DECIMALS)
    unit = escaped(output_name(_provenance(result)))
    figure = go.Figure(
        go.Heatmap(
            z=weight,
            x=list(range(shape[0])),
            y=list(range(shape[1])),
            coloraxis="coloraxis",
            text=[[_rounded(value, decimals) for value in row] for row in weight],
            texttemplate="%{text}" if weight.size <= CELLS_WITH_NUMBERS else None,
            customdata=_named(hover, groups, result.names),
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    named = " and ".join(columns) if len(columns) < 3 else ", ".join(columns)
    bar = {"title": {"text": unit}}
    figure.update_layout(
        coloraxis={"cmin": -largest, "cmax": largest, "colorbar": bar},
        template=template_of(theme),
        title={
            "text": f"Mean weight by {named} in each domain",
            "subtitle": {
                "text": f"Blue: keeping a component of the group raises the {unit}. "
                f"{counted(len(result.registry), 'component')}, {_examples(result)}."
            },
        },
        xaxis=categories([shortened(name, 20) for name in result.names], "domain"),
        yaxis={**categories([shortened(name) for name in groups], named), "range": [len(groups) - 0.5, -0.5]},
        height=160 + _ROW * max(len(groups), 4),
    )
    return figure


def domain_similarity(
    result: Domains | Similarity, *, kind: Kind | None = None, corrected: bool = False, theme: Theme = LIGHT
) -> go.Figure:
    """Matrix of how alike the mean attributions of domains are, similar domains side by side.

    The framed diagonal is what two samples of as many examples of one domain agree at: the most that another domain can
    be expected to reach. Corrected for attenuation, it is 1 for all.

    Args:
        result: what `al.domains` returned, or its `similarity`.
        kind: "pearson" or "cosine"; "pearson" if not given. A `Similarity` has its own.
        corrected: similarities corrected for the noise of examples, as means over examples without end would have.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if there is no such similarity.
    """
    if isinstance(result, Similarity):
        if kind not in (None, result.kind):
            raise InputError(
                f"this similarity is of kind {result.kind!r}, not {kind!r}: draw domain_similarity(study, "
                f"kind={kind!r}), where study is what {CALL} returned"
            )
        found = result
    else:
        expect(result, Domains, CALL)
        found = result.similarity(kind or "pearson")
    matrix = found.matrix(corrected=corrected)
    names, values = [str(name) for name in matrix.index], matrix.to_numpy(dtype=float)
    hover = [[_pair(found, a, b) for b in names] for a in names]
    amounts = not (values < 0).any()  # an undefined value has no sign
    axis = "coloraxis2" if amounts else "coloraxis"
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(range(len(names))),
            y=list(range(len(names))),
            coloraxis=axis,
            text=[[fixed(value) for value in row] for row in values],
            texttemplate="%{text}",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    )
    for place in range(len(names)):
        corners = {"x0": place - 0.48, "x1": place + 0.48, "y0": place - 0.46, "y1": place + 0.46}
        figure.add_shape(type="rect", line={"color": NEUTRAL, "width": 2}, **corners)
    called = "Cosine" if found.kind == "cosine" else "Correlation"
    title = f"{called} of mean attributions" + (", corrected for the noise of examples" if corrected else "")
    ceiling = (
        "Framed: a domain with itself, 1 by definition; chance may carry others above it."
        if corrected
        else "Framed, the ceiling: two samples of one domain's examples. Intervals: point at a cell."
    )
    bar = {"title": {"text": called.lower()}}
    labels = [shortened(name, 20) for name in names]
    figure.update_layout(
        {axis: {"cmin": 0 if amounts else -1, "cmax": 1, "colorbar": bar}},
        template=template_of(theme),
        title={"text": title, "subtitle": {"text": ceiling}},
        xaxis=categories(labels, ""),
        yaxis={**categories(labels, ""), "range": [len(names) - 0.5, -0.5]},
        height=150 + _CELL * max(len(names), 3),
    )
    return figure


def domain_held_out(result: Domains, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation on each domain: of each example's own weights, and of the mean weights of every domain.

    Args:
        result: what `al.domains` returned.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if no masks were held out.
    """
    expect(result, Domains, CALL)
    if result.held_out is None:
        raise InputError("no masks were held out: al.domains(model, {...}, held_out=200)")
    table = result.held_out
    names, series = list(result.names), list(dict.fromkeys(words(table, "weights")))
    figure = go.Figure()
    for place, (weights, shift) in enumerate(zip(series, shifts(len(series), 0.8 / max(len(series), 3)), strict=True)):
        rows = matching(table, "weights", weights)
        tested = words(rows, "domain")
        add_means(
            figure,
            rows,
            [names.index(name) + shift for name in tested],
            name="each example's own" if weights == OWN else weights,
            place=place - 1,  # domains have the first colours, and examples the last, which is grey
            labels=[f"tested on {name}" for name in tested],
            mode="markers",
            symbols=["diamond" if weights == f"mean of {name}" else "circle" for name in tested],
        )
    missing = undefined(int(np.isnan(numbers(table, "pearson")).sum()), len(table))
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Held-out correlation by domain and weights",
            "subtitle": {
                "text": "Means with 95% intervals over examples. Diamonds: mean of the other examples of the domain."
                f"{missing}"
            },
        },
        xaxis=categories([shortened(name, 20) for name in names], "domain of the examples that are tested"),
        yaxis={
            "title": {"text": "Pearson correlation"},
            "range": measure_range(values_of(table, ["pearson", "low"])),
        },
        height=470,
        hovermode="closest",
        legend={"y": -0.17, "yanchor": "top"},  # more names than there is room for under the titles
        showlegend=True,
    )
    return figure


def _rounded(value: float, decimals: int) -> str:
    """The text of a cell; what rounds to 0 has no sign."""
    return fixed(round(value, decimals) + 0.0, decimals) if math.isfinite(value) else ""


def _named(hover: list[list[str]], groups: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Hover texts that begin with the group and the domain."""
    return [
        [f"<b>{escaped(group)}</b>, {escaped(name)}<br>{text}" for name, text in zip(names, row, strict=True)]
        for group, row in zip(groups, hover, strict=True)
    ]


def _pair(found: Similarity, a: str, b: str) -> str:
    """What the hover text says of two domains."""
    one = {str(key): float(value) for key, value in found.arrays.sel(domain=a, other=b).items()}
    value = f"{fixed(one['similarity'], 3)} ({interval(one['low'], one['high'])})"
    if a == b:
        half = f"<br>two halves of them: {fixed(float(found.halves.sel(domain=a)), 3)}"
        return f"<b>{escaped(a)}</b>, two samples of as many examples<br>{value}{half}"
    corrected = f"{fixed(one['corrected'], 3)} ({interval(one['corrected_low'], one['corrected_high'])})"
    return f"<b>{escaped(a)}</b> and <b>{escaped(b)}</b><br>{value}<br>corrected for noise {corrected}"


def _provenance(result: Domains) -> dict[str, Any]:
    return next(iter(result.attributions.values())).provenance


def _examples(result: Domains) -> str:
    counts = sorted({one.weights.sizes["example"] for one in result.attributions.values()})
    if len(counts) == 1:
        return f"mean of {counted(counts[0], 'example')} of each domain"
    return f"mean of {counts[0]:,} to {counts[-1]:,} examples of a domain"
