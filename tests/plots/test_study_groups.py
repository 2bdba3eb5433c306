"""Figures of studies in which a choice is varied."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest

from ablationlens.plots import DARK, ablation_method, out_of_distribution, output_function
from tests.plots.studies import NAN, elsewhere, measured, under

ABLATIONS = {("zero", "zero"): 0.9, ("<half>", "zero"): 0.6, ("zero", "<half>"): 0.7, ("<half>", "<half>"): 0.8}


def means(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name]


def examples(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if not trace.name]


def test_each_ablation_is_tested_with_all_fits() -> None:
    figure = ablation_method(under(ABLATIONS, alpha=0.125))
    first, second = means(figure)
    assert (first.name, second.name) == ("fitted under zero", "fitted under &lt;half&gt;")
    np.testing.assert_allclose(first.y, [0.9, 0.7])
    np.testing.assert_allclose(second.y, [0.6, 0.8])
    np.testing.assert_allclose((np.array(first.x) + second.x) / 2, [0, 1])
    assert list(first.marker.symbol) == ["diamond", "circle"]
    assert list(second.marker.symbol) == ["circle", "diamond"]
    np.testing.assert_allclose(first.y - first.error_y.arrayminus, [0.87, 0.67])
    assert list(figure.layout.xaxis.ticktext) == ["zero", "&lt;half&gt;"]
    assert figure.layout.xaxis.title.text == "ablation that is tested"
    assert "At 12.5% ablated" in figure.layout.title.subtitle.text
    assert figure.layout.showlegend


def test_single_examples_stand_beside_their_mean_in_its_colour() -> None:
    figure = ablation_method(under(ABLATIONS))
    assert len(examples(figure)) == 4
    for trace in examples(figure):
        (owner,) = [mean for mean in means(figure) if mean.marker.color == trace.marker.color]
        place = round(float(np.mean(trace.x)))
        np.testing.assert_allclose(trace.y, owner.y[place] + np.array([-0.02, 0.02]))
        assert 0 < owner.x[place] - trace.x[0] < 0.2
        assert list(trace.customdata) == ["&lt;b&gt;a&lt;/b&gt;", "b"]


def test_outputs_and_domains_in_their_order() -> None:
    figure = output_function(measured({"loss": 0.4, "margin": 0.9}, {"loss": 1.0, "margin": -0.5}))
    (mean,) = means(figure)
    np.testing.assert_allclose(mean.y, [0.4, 0.9])
    assert list(figure.layout.xaxis.ticktext) == ["loss", "margin"]
    assert figure.layout.xaxis.title.text == "output that is attributed and tested"
    assert figure.layout.yaxis.title.text == "Pearson correlation"
    figure = out_of_distribution(elsewhere({"near": 0.9, "far": -0.2}, examples=3))
    (mean,) = means(figure)
    np.testing.assert_allclose(mean.y, [0.9, -0.2])
    assert [label for label, _ in mean.customdata] == ["near, 3 examples", "far, 3 examples"]
    np.testing.assert_allclose([trace.y for trace in examples(figure)], [[0.88, 0.9, 0.92], [-0.22, -0.2, -0.18]])
    assert figure.layout.xaxis.title.text == "domain of the examples"
    assert figure.layout.yaxis.range[0] <= -0.23  # whiskers and examples fit in


def test_the_axis_holds_examples_beyond_the_whiskers() -> None:
    study = elsewhere({"near": 0.9})
    wide = replace(study, frame=study.frame.assign(pearson=[0.9, -0.77]))
    assert out_of_distribution(wide).layout.yaxis.range[0] < -0.77
    assert out_of_distribution(study).layout.yaxis.range[0] > 0.7


def test_what_is_undefined_is_said_rather_than_drawn() -> None:
    figure = out_of_distribution(elsewhere({"near": 0.9, "far": NAN}))
    assert figure.layout.title.subtitle.text.endswith("Undefined: 2 of 4 correlations.")
    assert [len(trace.x) for trace in examples(figure)] == [2, 0]
    np.testing.assert_array_equal(np.isnan(means(figure)[0].y), [False, True])
    assert np.isfinite(means(figure)[0].error_y.array).all()
    figure = ablation_method(under({("zero", "zero"): NAN}))
    assert figure.layout.title.subtitle.text.endswith("Undefined: all correlations.")
    assert np.isfinite(figure.layout.yaxis.range).all()
    assert "Undefined" not in ablation_method(under(ABLATIONS)).layout.title.subtitle.text


@pytest.mark.parametrize(
    ("draw", "study"),
    [
        (ablation_method, under(ABLATIONS)),
        (output_function, measured({"a": 0.5}, {"a": 1.0})),
        (out_of_distribution, elsewhere({"a": 0.5})),
    ],
)
def test_themes(draw: object, study: object) -> None:
    figure = draw(study, theme=DARK)  # type: ignore[operator]
    assert figure.layout.template.layout.paper_bgcolor == DARK.surface
