"""Figures of studies in which a number is varied: the ablated fraction, or the number of draws."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ablationlens.evaluate.studies import FitAlpha, ModelEffect, SampleSize
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, fixed, output_name, percent
from ablationlens.plots.theme import LIGHT, NEUTRAL, Theme, template_of
from ablationlens.plots.whiskers import (
    add_means,
    categories,
    matching,
    measure_range,
    numbers,
    ordered,
    shifts,
    undefined,
    undefined_in,
    values_of,
)

HEIGHT = 410
TOP = 104
"""The legend is between the titles and the axes."""


def fit_alpha(study: FitAlpha, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation against the ablated fraction that is tested, one line for each that was fitted.

    Args:
        study: what `al.studies.fit_alpha` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, FitAlpha, "al.studies.fit_alpha(model, data)")
    table = study.table()
    fitted, alphas = (sorted(set(numbers(table, name).tolist())) for name in ("fit_alpha", "alpha"))
    figure = go.Figure()
    for place, (own, shift) in enumerate(zip(fitted, shifts(len(fitted), 0.06), strict=True)):
        rows = ordered(matching(table, "fit_alpha", own), "alpha")
        tested = numbers(rows, "alpha").tolist()
        add_means(
            figure,
            rows,
            [alphas.index(alpha) + shift for alpha in tested],
            name=f"fitted at {percent(own)}",
            place=place,
            labels=[f"tested at {percent(alpha)}" for alpha in tested],
            symbols=["diamond" if alpha == own else "circle" for alpha in tested],
        )
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Held-out correlation by the alpha of the fit",
            "subtitle": {
                "text": "Diamonds: tested at the alpha of the fit. Means over examples; 95% intervals."
                + undefined_in(study.frame)
            },
        },
        xaxis=categories([percent(alpha) for alpha in alphas], "ablated fraction that is tested"),
        yaxis={"title": {"text": "Pearson correlation"}, "range": measure_range(values_of(table, ["pearson", "low"]))},
        height=HEIGHT,
        margin={"t": TOP},
        showlegend=True,
    )
    return figure


def sample_size(study: SampleSize, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation, and cosine similarity to the full sample, against the number of draws.

    Args:
        study: what `al.studies.sample_size` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, SampleSize, "al.studies.sample_size(model, data)")
    table = ordered(study.table(), "fit_draws")
    alpha = percent(float(study.provenance["alpha"]))
    sizes = [int(size) for size in numbers(table, "fit_draws")]
    labels = [counted(size, "draw") for size in sizes]
    figure = go.Figure()
    add_means(figure, table, sizes, name="held-out correlation", place=0, labels=labels)
    add_means(
        figure,
        table,
        sizes,
        name="cosine to an independent full sample",
        place=1,
        labels=labels,
        value="cosine",
        limits=("cosine_low", "cosine_high"),
    )
    values = values_of(table, ["pearson", "low", "cosine", "cosine_low"])
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Held-out correlation by the number of draws",
            "subtitle": {"text": f"At {alpha} ablated. Means over examples; 95% intervals.{undefined_in(study.frame)}"},
        },
        xaxis={
            "type": "log",
            "title": {"text": f"draws of the fit ({escaped(study.provenance['method'])})"},
            "tickvals": sizes,
            "ticktext": [f"{size:,}" for size in sizes],
            "showgrid": False,
        },
        yaxis={"title": {"text": "Pearson correlation, cosine"}, "range": measure_range(values)},
        height=HEIGHT,
        margin={"t": TOP},
        showlegend=True,
    )
    return figure


def model_effect(study: ModelEffect, *, theme: Theme = LIGHT) -> go.Figure:
    """Accuracy, and correlation of outputs before and after ablation across examples, against the ablated fraction.

    Args:
        study: what `al.studies.model_effect` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, ModelEffect, "al.studies.model_effect(model, data)")
    table = ordered(study.table(), "alpha")
    whole = float(numbers(table, "accuracy")[0])
    rows = table.iloc[1:]
    alphas = numbers(rows, "alpha").tolist()
    labels = [f"{percent(alpha)} ablated" for alpha in alphas]
    unit = escaped(output_name(study.provenance))
    figure = go.Figure()
    name = f"{unit}: correlation before and after"
    if np.isfinite(numbers(rows, "pearson")).any():
        add_means(figure, rows, alphas, name=name, place=0, labels=labels)
    if np.isfinite(whole):
        add_means(
            figure,
            rows,
            alphas,
            name="accuracy",
            place=1,
            labels=labels,
            value="accuracy",
            limits=("accuracy_low", "accuracy_high"),
        )
        figure.add_scatter(
            x=[alphas[0], alphas[-1]],
            y=[whole, whole],
            mode="lines",
            line={"color": NEUTRAL, "width": 1.5, "dash": "dash"},
            name=f"unablated ({fixed(whole)})",
            hoverinfo="skip",
        )
    examples = len(set(study.frame["example"]))
    draws = (len(study.frame) - examples) // examples  # the first rows are the unmodified model
    missing = undefined(int(numbers(rows, "undefined").sum()), draws)
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "The model itself under ablation",
            "subtitle": {
                "text": f"Across {counted(examples, 'example')}, means over random masks; 95% intervals.{missing}"
            },
        },
        xaxis={
            "type": "log",
            "title": {"text": "ablated fraction of components (alpha)"},
            "tickvals": alphas,
            "ticktext": [percent(alpha) for alpha in alphas],
            "showgrid": False,
        },
        yaxis={
            "title": {"text": "correlation, accuracy"},
            "range": [min([0.0, *(low - 0.05 for low in numbers(rows, "low") if low < 0)]), 1.03],
        },
        height=HEIGHT,
        margin={"t": TOP},
        showlegend=True,
    )
    return figure
