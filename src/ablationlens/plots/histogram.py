"""How correlations are spread over examples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float64
from plotly.subplots import make_subplots

from ablationlens.errors import InputError
from ablationlens.evaluate import Scores
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, percent
from ablationlens.plots.theme import LIGHT, NEUTRAL, SERIES, Theme, template_of
from ablationlens.plots.whiskers import matching, numbers

WIDTHS = (0.01, 0.02, 0.05, 0.1)
"""Widths of a bin; the smallest that needs no more bins than `BINS`."""
BINS = 20
ROW, GAP = 84, 44
"""Pixels of a method's bars, and of the space between two."""


def histogram(scores: Scores, alpha: float | None = None, *, theme: Theme = LIGHT) -> go.Figure:
    """Histogram of the held-out correlations of single examples, a row for each method (arXiv 2404.11534, C.6).

    A mean can hide examples on which a method fails: they are the bars on the left. The dashed line is the mean.

    Args:
        scores: what `evaluate` returned.
        alpha: ablated fraction of the held-out masks; the first by default.
        theme: colours; `LIGHT` or `DARK`.

    Raises:
        InputError: for an alpha that was not evaluated.
    """
    expect(scores, Scores, "al.evaluate(model, data, {...})")
    alphas = list(dict.fromkeys(tested for _, tested in scores.predicted))
    if alpha is None:
        alpha = alphas[0]
    elif alpha not in alphas:
        raise InputError(
            f"alpha={alpha} was not evaluated: use one of {', '.join(map(repr, alphas))}, "
            f"or evaluate(model, data, attributions, alphas=[{alpha}], draws=500)"
        )
    frame = matching(scores.frame, "alpha", alpha)
    methods = [method for method, tested in scores.predicted if tested == alpha]
    values = {method: numbers(matching(frame, "method", method), "pearson") for method in methods}
    edges = bins(np.concatenate(list(values.values())))
    # Rounding can take a correlation a little out of the bins.
    inside = {method: np.clip(own[np.isfinite(own)], edges[0], edges[-1]) for method, own in values.items()}
    counts = {method: np.histogram(own, edges)[0] for method, own in inside.items()}
    highest = max(1, *(int(count.max()) for count in counts.values()))
    rows_height = ROW * len(methods) + GAP * (len(methods) - 1)
    # A title above each row is an annotation, and is left out of `figure.update_layout(title=...)`.
    figure = make_subplots(
        rows=len(methods),
        shared_xaxes=True,
        vertical_spacing=GAP / rows_height,
        subplot_titles=[_title(method, values[method]) for method in methods],
    )
    for row, method in enumerate(methods, 1):
        own = values[method]
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts[method],
            width=np.diff(edges) * 0.94,
            marker={"color": SERIES[(row - 1) % len(SERIES)]},
            customdata=[f"{fixed(low)} to {fixed(high)}" for low, high in pairwise(edges)],
            hovertemplate=f"<b>{escaped(method)}</b><br>r from %{{customdata}}: %{{y}}<extra></extra>",
            name=escaped(method),
            row=row,
            col=1,
        )
        if np.isfinite(own).any():
            figure.add_scatter(
                x=[np.nanmean(own)] * 2,
                y=[0, highest * 1.08],
                mode="lines",
                line={"color": NEUTRAL, "width": 2, "dash": "dash"},
                hoverinfo="skip",
                row=row,
                col=1,
            )
    undefined = sum(int((~np.isfinite(own)).sum()) for own in values.values())
    left_out = f" {undefined:,} without one {'is' if undefined == 1 else 'are'} left out." if undefined else ""
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": f"Correlations of single examples at {percent(alpha)} ablated",
            "subtitle": {"text": f"Pearson's r on {scores.draws:,} held-out masks; dashed: the mean.{left_out}"},
        },
        height=rows_height + 160,
        margin={"t": 100},
        bargap=0,
        showlegend=False,
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 12})
    figure.update_yaxes(range=[0, highest * 1.08], title={"text": "examples"}, tickformat="d")
    figure.update_xaxes(range=[edges[0], edges[-1]], zeroline=False)
    figure.update_xaxes(title={"text": "Pearson correlation"}, row=len(methods), col=1)
    return figure


def bins(values: Float64[np.ndarray, " value"]) -> Float64[np.ndarray, " edge"]:
    """Edges of bins up to 1 that hold all finite values, at multiples of a round width."""
    finite = values[np.isfinite(values)]
    low = float(finite.min()) if len(finite) else 0.0
    width = next((each for each in WIDTHS if (1 - low) / each <= BINS), WIDTHS[-1])
    count = max(1, int(np.ceil((1 - low) / width - 1e-9)))
    return 1 - width * np.arange(count, -1, -1)


def _title(method: str, values: Float64[np.ndarray, " example"]) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return f"{escaped(method)}: no correlation is defined"
    return (
        f"{escaped(method)}: {counted(len(finite), 'example')}, mean {fixed(float(finite.mean()))}, "
        f"lowest {fixed(float(finite.min()))}"
    )
