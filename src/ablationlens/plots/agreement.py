"""How far attributions agree: a heat map of all pairs, and the weights of two of them against each other."""

from __future__ import annotations

import warnings

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64, Integer
from scipy import stats

from ablationlens.errors import InputError
from ablationlens.evaluate import Comparison, pearson
from ablationlens.evaluate.checks import check_alike
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, output_name, shortened
from ablationlens.plots.theme import LIGHT, NEUTRAL, SERIES, Theme, template_of
from ablationlens.results import Attribution, of_components

_CELL = 64
"""Height of a cell, in pixels."""


def agreement(comparison: Comparison, measure: str = "spearman", *, theme: Theme = LIGHT) -> go.Figure:
    """Heat map of the agreement of every pair of attributions, mean over examples.

    The framed diagonal is the ceiling: the same method with another seed. It is empty where no second seed was given; a
    method without randomness agrees with itself exactly.

    Args:
        comparison: what `compare` returned.
        measure: one of its measures.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: for a measure that there is not.
    """
    expect(comparison, Comparison, "al.compare({...})")
    matrix = comparison.matrix(measure).to_numpy(dtype=float)
    table = comparison.table(measure).to_dict("records")
    rows = {pair: row for row in table for pair in ((row["a"], row["b"]), (row["b"], row["a"]))}
    methods, share = list(comparison.methods), measure.startswith("top_")
    hover = [[_hover(rows.get((a, b)), a, b) for b in methods] for a in methods]
    names = [escaped(shortened(name, 24)) for name in methods]
    figure = go.Figure(
        go.Heatmap(
            z=matrix,
            x=list(range(len(methods))),
            y=list(range(len(methods))),
            coloraxis="coloraxis2" if share else "coloraxis",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=True,
            texttemplate="%{z:.2f}",
            xgap=2,
            ygap=2,
        )
    )
    for place, name in enumerate(methods):
        if (name, name) not in rows:
            figure.add_annotation(x=place, y=place, text="no second<br>seed", showarrow=False, font={"color": NEUTRAL})
        corners = {"x0": place - 0.48, "x1": place + 0.48, "y0": place - 0.46, "y1": place + 0.46}
        figure.add_shape(type="rect", line={"color": NEUTRAL, "width": 2}, **corners)
    axis = {"tickvals": list(range(len(methods))), "ticktext": names, "showgrid": False, "zeroline": False}
    examples = counted(len(set(comparison.frame["example"])), "example")
    note = _differences(comparison)
    bar = {"title": {"text": _words(measure)}}
    figure.update_layout(
        {("coloraxis2" if share else "coloraxis"): {"cmin": 0 if share else -1, "cmax": 1, "colorbar": bar}},
        template=template_of(theme),
        title={
            "text": f"Agreement of attributions: {_words(measure)}",
            "subtitle": {
                "text": f"Mean over {examples}, {counted(comparison.components, 'component')}. "
                f"Framed: the same method with another seed.{note}"
            },
        },
        xaxis={**axis, "range": [-0.5, len(methods) - 0.5]},
        yaxis={**axis, "range": [len(methods) - 0.5, -0.5]},
        height=170 + _CELL * max(len(methods), 2),
    )
    return figure


def scatter(
    a: Attribution,
    b: Attribution,
    *,
    names: tuple[str, str] | None = None,
    example: int | None = None,
    points: int = 3000,
    theme: Theme = LIGHT,
) -> go.Figure:
    """Weights of one attribution against those of another, component by component, with the identity line.

    Args:
        a: along the horizontal axis.
        b: along the vertical axis; of the same components and examples.
        names: what to call them; their methods by default.
        example: which example's weights; by default the mean over examples.
        points: largest number of points. Of more components the strongest half are drawn, and an even sample of the
            rest; the correlations in the title are of all.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: if the attributions are of different registries, examples or data, for an example that there is not,
            or `points` below 2.
    """
    a, b = (of_components(one, "this figure") for one in (a, b))
    check_alike({"a": a, "b": b})
    examples = a.weights.sizes["example"]
    if example is not None and not -examples <= example < examples:
        raise InputError(f"example={example}: there are {examples} examples, 0 to {examples - 1}")
    if points < 2:
        raise InputError(f"points={points}: the number of points to draw is at least 2")
    name_a, name_b = names or (a.method, b.method)
    x, y = _weights(a, example), _weights(b, example)
    finite = np.isfinite(x) & np.isfinite(y)
    shown = _shown(x, y, np.flatnonzero(finite), points)
    unit = escaped(output_name(a.provenance))
    figure = go.Figure()
    across, up = _range(x[shown]), _range(y[shown])  # each its own: two methods may differ in scale
    ends = [min(across[0], up[0]), max(across[1], up[1])]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": NEUTRAL, "width": 1, "dash": "dash"},
        hoverinfo="skip",
        showlegend=False,
        name="the same weight",
    )
    modules = a.weights["module"].to_numpy().astype(str)
    groups = list(dict.fromkeys(modules[shown]))
    coloured = groups if len(groups) <= len(SERIES) else [None]
    labels = np.array([escaped(name) for name in a.components])
    for place, group in enumerate(coloured):
        own = shown if group is None else shown[modules[shown] == group]
        figure.add_scatter(
            x=x[own],
            y=y[own],
            mode="markers",
            name="components" if group is None else escaped(shortened(str(group))),
            marker={"size": 5, "opacity": 0.6, "color": SERIES[place % len(SERIES)]},
            customdata=labels[own],
            hovertemplate=f"<b>%{{customdata}}</b><br>{escaped(name_a)} %{{x:+.4g}}<br>"
            f"{escaped(name_b)} %{{y:+.4g}}<extra></extra>",
        )
    r = _correlation(x[finite], y[finite])
    rho = _correlation(stats.rankdata(x[finite]), stats.rankdata(y[finite]))
    of = f"mean of {counted(examples, 'example')}" if example is None else str(a.weights["example"].values[example])
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"{escaped(name_b)} against {escaped(name_a)}: r = {fixed(r)}, rank correlation {fixed(rho)}",
            "subtitle": {
                "text": f"{escaped(shortened(of, 40))}; {len(shown):,} of {counted(len(x), 'component')} shown. "
                "On the dashed line the weights are the same."
            },
        },
        xaxis={"title": {"text": f"{escaped(name_a)}: weight ({unit})"}, "range": across},
        yaxis={"title": {"text": f"{escaped(name_b)}: weight"}, "range": up},
        showlegend=len(coloured) > 1,
        legend={"orientation": "h", "y": -0.15, "yanchor": "top", "itemsizing": "constant"},
        height=520,
        hovermode="closest",
    )
    return figure


def _hover(row: dict[str, object] | None, a: str, b: str) -> str:
    if row is None:
        return f"<b>{escaped(a)}</b>: no second seed was given<br>(a method without randomness agrees exactly)"
    a, b = str(row["a"]), str(row["b"])
    value, low, high = (float(str(row[key])) for key in ("mean", "low", "high"))
    pair = f"<b>{escaped(a)}</b> and another seed of it" if a == b else f"<b>{escaped(a)}</b> and <b>{escaped(b)}</b>"
    text = f"{pair}<br>{fixed(value, 3)}"
    if np.isfinite(low):
        text += f" (95% interval {fixed(low, 3)} to {fixed(high, 3)})"
    if a != b:
        seeds = {a: float(str(row["ceiling_a"])), b: float(str(row["ceiling_b"]))}
        for name, seed in seeds.items():
            if np.isfinite(seed):
                text += f"<br>{escaped(name)} with another seed: {fixed(seed, 3)}"
    chance = float(str(row["chance"]))
    return text + (f"<br>by chance {fixed(chance, 3)}" if chance > 0 else "")


def _words(measure: str) -> str:
    if measure.startswith("top_"):
        k = measure.split("_")[1]
        kind = "most positive" if measure.endswith("_signed") else "strongest"
        return f"overlap of the {k} {kind}"
    return {"spearman": "rank correlation", "pearson": "Pearson correlation", "cosine": "cosine of the weights"}[
        measure
    ]


def _differences(comparison: Comparison) -> str:
    differ = comparison.provenance.get("differ") or []
    return f" They differ in {' and '.join(differ)}." if differ else ""


def _weights(attribution: Attribution, example: int | None) -> Float64[np.ndarray, " component"]:
    weights = attribution.weights.values.astype(np.float64)
    if example is not None:
        return weights[example]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a component without a finite weight has no mean
        return np.nanmean(np.where(np.isfinite(weights), weights, np.nan), axis=0)


def _correlation(x: Float64[np.ndarray, " component"], y: Float64[np.ndarray, " component"]) -> float:
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    return float(pearson(x[:, None], y[:, None])[0])


def _shown(
    x: Float64[np.ndarray, " component"],
    y: Float64[np.ndarray, " component"],
    finite: Integer[np.ndarray, " finite"],
    points: int,
) -> Integer[np.ndarray, " shown"]:
    """Columns to draw: the strongest in either, each in units of its own spread, and every n-th of the others."""
    if len(finite) <= points:
        return finite
    size = np.maximum(*(np.abs(values[finite]) / (np.std(values[finite]) or 1.0) for values in (x, y)))
    ranked = finite[np.argsort(-size, kind="stable")]
    strongest, rest = ranked[: points // 2], ranked[points // 2 :]
    step = np.linspace(0, len(rest) - 1, points - len(strongest)).astype(int)
    return np.sort(np.concatenate([strongest, rest[step]]))


def _range(values: Float64[np.ndarray, " value"]) -> tuple[float, float]:
    """Limits of an axis, with a margin."""
    if not values.size:
        return (-1.0, 1.0)
    margin = 0.05 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - margin, float(values.max()) + margin
