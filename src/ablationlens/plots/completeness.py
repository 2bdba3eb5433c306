"""Whether weights add up: bars of completeness gaps."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from ablationlens.evaluate import Completeness
from ablationlens.plots.checks import expect
from ablationlens.plots.labels import counted, escaped, minus, output_name, percent, shortened
from ablationlens.plots.theme import LIGHT, NEUTRAL, POSITIVE, Theme, template_of


def completeness(result: Completeness, *, theme: Theme = LIGHT) -> go.Figure:
    """Bars of the completeness gap |sum of weights - (f(all) - f(none))|, and of |bias - f(none)|, for each method.

    Beside each bar of weights is its gap relative to |f(all) - f(none)|. Whiskers are the bootstrap 95% interval of the
    mean over examples.

    Args:
        result: what `al.completeness` returned.
        theme: colours; `LIGHT` or `DARK`.
    """
    expect(result, Completeness, "al.completeness(model, data, {...})")
    table = result.table()
    unit = escaped(output_name(result.provenance))
    names = table["method"].astype(str).tolist()
    places = np.arange(len(names))
    gaps, low, high = (table[key].to_numpy(dtype=float) for key in ("gap", "low", "high"))
    relative = [percent(value) if np.isfinite(value) else "undefined" for value in table["relative"]]
    figure = go.Figure()
    figure.add_bar(
        y=places,
        x=gaps,
        orientation="h",
        name=minus("weights: |sum - (f(all) - f(none))|"),
        marker={"color": POSITIVE},
        error_x={"type": "data", "symmetric": False, "array": high - gaps, "arrayminus": gaps - low},
        customdata=np.column_stack([[escaped(name) for name in names], relative]),
        hovertemplate="<b>%{customdata[0]}</b><br>gap %{x:.4g}<br>%{customdata[1]} of the change<extra></extra>",
    )
    figure.add_bar(
        y=places,
        x=table["bias_gap"],
        orientation="h",
        name=minus("bias: |bias - f(none)|"),
        marker={"color": NEUTRAL},
        customdata=[escaped(name) for name in names],
        hovertemplate="<b>%{customdata}</b><br>bias misses by %{x:.4g}<extra></extra>",
    )
    for place, text in enumerate(relative):  # behind the whisker, where nothing is in its way
        end = float(np.nanmax([0.0, gaps[place], high[place]]))
        label = f"{text} of the change" if text != "undefined" else "no change"
        figure.add_annotation(x=end, y=place - 0.16, text=label, showarrow=False, xanchor="left", xshift=6)
    examples = len(set(result.frame["example"]))
    mean = f"Mean over {counted(examples, 'example')} and its 95% interval" if examples > 1 else "One example"
    largest = float(np.nanmax([1e-12, *high, *gaps, *table["bias_gap"]]))
    figure.update_layout(
        template=template_of(theme),
        title={
            "text": "Completeness: do the weights add up?",
            "subtitle": {"text": f"{mean}. 0: the weights sum to what all components do together."},
        },
        xaxis={"title": {"text": f"gap ({unit})"}, "range": [0, 1.3 * largest]},  # room for the words beside the bars
        yaxis={
            "tickvals": places,
            "ticktext": [escaped(shortened(name)) for name in names],
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
        },
        barmode="group",
        bargap=0.35,
        height=190 + 52 * max(len(names), 2),
        margin={"t": 104},
        showlegend=True,
    )
    return figure
