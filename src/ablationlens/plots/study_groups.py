"""Figures of studies in which a choice is varied: the ablation, the output, or the domain of the examples."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ablationlens.evaluate.studies import AblationMethod, OutOfDistribution, OutputFunction, Study
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, percent
from ablationlens.plots.theme import LIGHT, Theme, template_of
from ablationlens.plots.whiskers import (
    add_examples,
    add_means,
    categories,
    matching,
    measure_range,
    shifts,
    undefined_in,
    values_of,
    words,
)

BESIDE = 0.035
"""How far left of its mean an example stands, as a share of the axis."""


def ablation_method(study: AblationMethod, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation under each ablation, of the attributions fitted under each.

    Args:
        study: what `al.studies.ablation_method` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, AblationMethod, "al.studies.ablation_method(model, data)")
    table = study.table()
    tested, fitted = (list(dict.fromkeys(words(table, name))) for name in ("tested", "fitted"))
    figure = go.Figure()
    for place, (own, shift) in enumerate(zip(fitted, shifts(len(fitted), 0.26), strict=True)):
        rows = matching(table, "fitted", own)
        under = words(rows, "tested")
        for position, name in enumerate(tested):
            examples = matching(matching(study.frame, "fitted", own), "tested", name)
            add_examples(figure, examples, position + shift - BESIDE * max(len(tested), 2), place=place)
        add_means(
            figure,
            rows,
            [tested.index(name) + shift for name in under],
            name=f"fitted under {own}",
            place=place,
            labels=[f"tested under {name}" for name in under],
            mode="markers",
            symbols=["diamond" if name == own else "circle" for name in under],
        )
    missing = undefined_in(study.frame)
    figure.update_layout(
        **_layout(study, table, tested, "ablation that is tested", theme, legend=True),
        title={
            "text": "Held-out correlation by ablation",
            "subtitle": {"text": f"{_at(study)} Diamonds: tested as it was fitted; pale: single examples.{missing}"},
        },
    )
    return figure


def output_function(study: OutputFunction, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation of attributions of several outputs, each on its own.

    Args:
        study: what `al.studies.output_function` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, OutputFunction, "al.studies.output_function(model, data)")
    return _groups(study, "output", "output that is attributed and tested", "Held-out correlation by output", theme)


def out_of_distribution(study: OutOfDistribution, *, theme: Theme = LIGHT) -> go.Figure:
    """Held-out correlation on the examples of each domain.

    Args:
        study: what `al.studies.out_of_distribution` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(study, OutOfDistribution, "al.studies.out_of_distribution(model, {...})")
    return _groups(study, "domain", "domain of the examples", "Held-out correlation by domain", theme)


def _groups(study: Study, column: str, axis: str, title: str, theme: Theme) -> go.Figure:
    table = study.table()
    names = words(table, column)
    figure = go.Figure()
    for position, name in enumerate(names):
        add_examples(figure, matching(study.frame, column, name), position - BESIDE * max(len(names), 2), place=0)
    every = words(study.frame, column)
    counts = [counted(every.count(name), "example") for name in names]
    labels = [f"{name}, {count}" for name, count in zip(names, counts, strict=True)]
    add_means(figure, table, list(range(len(names))), name="mean", place=0, labels=labels, mode="markers")
    missing = undefined_in(study.frame)
    figure.update_layout(
        **_layout(study, table, names, axis, theme, legend=False),
        title={
            "text": title,
            "subtitle": {"text": f"{_at(study)} Means with 95% intervals; pale: single examples.{missing}"},
        },
    )
    return figure


def _layout(
    study: Study, table: pd.DataFrame, names: list[str], axis: str, theme: Theme, *, legend: bool
) -> dict[str, Any]:
    values = [*values_of(table, ["pearson", "low"]), *values_of(study.frame, ["pearson"])]
    return {
        "template": template_of(theme),
        "xaxis": categories(names, axis),
        "yaxis": {"title": {"text": "Pearson correlation"}, "range": measure_range(values)},
        "height": 380,
        "margin": {"t": 104 if legend else 72},
        "hovermode": "closest",
        "showlegend": legend,
    }


def _at(study: Study) -> str:
    return f"At {percent(float(study.provenance['alpha']))} ablated."
