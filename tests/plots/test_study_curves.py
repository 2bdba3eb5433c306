"""Figures of studies in which a number is varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from ablationlens.plots import DARK, fit_alpha, model_effect, sample_size
from tests.plots.studies import NAN, broken, fitted_at, sized

FITS = fitted_at({(0.3, 0.3): 0.6, (0.05, 0.3): 0.5, (0.3, 0.05): 0.7, (0.05, 0.05): 0.8})
SIZES = sized({400: 0.9, 25: 0.7}, {400: 0.8, 25: 0.5})
EFFECT = broken({0.0: 1.0, 0.5: 0.4, 0.1: 0.95}, {0.0: 0.75, 0.5: 0.25, 0.1: 0.5})


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.name}


def ends(trace: go.Scatter) -> np.ndarray:
    """[row, 2]: where the whiskers end."""
    return np.stack([trace.y - trace.error_y.arrayminus, trace.y + trace.error_y.array], axis=1)


def subtitle(figure: go.Figure) -> str:
    return figure.layout.title.subtitle.text


def test_a_line_for_each_alpha_of_the_fit() -> None:
    figure = fit_alpha(FITS)
    assert list(traces(figure)) == ["fitted at 5%", "fitted at 30%"]
    low, high = traces(figure).values()
    np.testing.assert_allclose(low.y, [0.8, 0.5])
    np.testing.assert_allclose(high.y, [0.7, 0.6])
    np.testing.assert_allclose(ends(low), [[0.77, 0.85], [0.47, 0.55]])
    np.testing.assert_allclose((np.array(low.x) + high.x) / 2, [0, 1])  # side by side
    assert list(low.x) < list(high.x)
    assert (list(low.marker.symbol), list(high.marker.symbol)) == (["diamond", "circle"], ["circle", "diamond"])
    assert list(figure.layout.xaxis.ticktext) == ["5%", "30%"]
    assert figure.layout.xaxis.title.text == "ablated fraction that is tested"
    assert figure.layout.yaxis.title.text == "Pearson correlation"
    assert low.customdata[1][0] == "tested at 30%"
    assert "Undefined" not in subtitle(figure)


def test_draws_are_ascending_on_a_logarithmic_axis() -> None:
    figure = sample_size(SIZES)
    correlation, similar = figure.data
    assert list(correlation.x) == list(similar.x) == [25, 400]
    np.testing.assert_allclose(correlation.y, [0.7, 0.9])
    np.testing.assert_allclose(similar.y, [0.5, 0.8])
    np.testing.assert_allclose(ends(correlation), [[0.67, 0.75], [0.87, 0.95]])
    np.testing.assert_allclose(ends(similar), [[0.46, 0.52], [0.76, 0.82]])
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["25", "400"]
    assert figure.layout.xaxis.title.text == "draws of the fit (&lt;path&gt; gradient)"
    assert "At 5% ablated" in subtitle(figure)
    assert figure.layout.yaxis.range[0] <= 0.4


def test_the_model_itself_before_and_after() -> None:
    figure = model_effect(EFFECT)
    correlation, accuracy, whole = figure.data
    assert correlation.name == "logit difference: correlation before and after"
    assert list(correlation.x) == list(accuracy.x) == [0.1, 0.5]  # alpha 0 has no place on a logarithmic axis
    np.testing.assert_allclose(correlation.y, [0.95, 0.4])
    np.testing.assert_allclose(accuracy.y, [0.5, 0.25])
    np.testing.assert_allclose(ends(accuracy), [[0.4, 0.6], [0.15, 0.35]])
    assert list(whole.y) == [0.75, 0.75]
    assert whole.name == "unablated (0.75)"
    assert figure.layout.xaxis.title.text == "ablated fraction of components (alpha)"
    assert subtitle(figure) == "Across 4 examples, means over random masks; 95% intervals."


def test_without_labels_there_is_no_accuracy() -> None:
    figure = model_effect(broken({0.0: 1.0, 0.1: -0.2}, {0.0: NAN, 0.1: NAN}, examples=3, output="Margin"))
    assert [trace.name for trace in figure.data] == ["margin: correlation before and after"]
    assert figure.layout.yaxis.range[0] < -0.23


def test_of_too_few_examples_only_the_accuracy_is_drawn() -> None:
    figure = model_effect(broken({0.0: NAN, 0.1: NAN}, {0.0: 1.0, 0.1: 0.5}, examples=1, draws=3))
    assert [trace.name for trace in figure.data] == ["accuracy", "unablated (1.00)"]
    assert subtitle(figure).startswith("Across 1 example, ")
    assert subtitle(figure).endswith("Undefined: all correlations.")


def test_what_is_undefined_is_said() -> None:
    some = fitted_at({(0.3, 0.3): 0.6, (0.3, 0.05): NAN})
    assert subtitle(fit_alpha(some)).endswith("Undefined: 2 of 4 correlations.")
    np.testing.assert_array_equal(fit_alpha(some).data[0].y, [NAN, 0.6])
    assert np.isfinite(fit_alpha(some).data[0].error_y.array).all()  # a NaN would be drawn as a whisker to 0
    assert fit_alpha(some).data[0].customdata[0][1] == "no interval"
    assert subtitle(sample_size(sized({5: NAN}, {5: 0.5}))).endswith("Undefined: all correlations.")
    rows = broken({0.0: 1.0, 0.1: 0.9, 0.5: NAN}, {0.0: NAN, 0.1: NAN, 0.5: NAN}, draws=5)
    assert subtitle(model_effect(rows)).endswith("Undefined: 5 of 10 correlations.")


@pytest.mark.parametrize(("draw", "study"), [(fit_alpha, FITS), (sample_size, SIZES), (model_effect, EFFECT)])
def test_themes_and_saved_studies(draw: object, study: object) -> None:
    figure = draw(study, theme=DARK)  # type: ignore[operator]
    assert figure.layout.template.layout.paper_bgcolor == DARK.surface
    again = replace(study, frame=pd.DataFrame(study.frame.to_dict("list")))  # type: ignore[attr-defined,type-var]
    assert draw(again).to_json() == draw(study).to_json()  # type: ignore[operator]
