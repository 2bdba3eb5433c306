"""Heat map of agreement, and scatter of two attributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ablationlens.errors import InputError
from ablationlens.plots import DARK, LIGHT, agreement, scatter
from ablationlens.results import Attribution
from tests.plots.results import again, comparison


def test_cells_are_the_matrix(rows: Attribution) -> None:
    made = comparison(rows)
    for measure, axis in (("spearman", "coloraxis"), ("top_3", "coloraxis2")):
        figure = agreement(made, measure)
        np.testing.assert_array_equal(figure.data[0].z, made.matrix(measure))
        assert figure.data[0].coloraxis == axis
        assert figure.layout[axis].cmax == 1
    assert agreement(made).layout.coloraxis.cmin == -1
    assert agreement(made, "top_3").layout.coloraxis2.cmin == 0


def test_the_diagonal_is_framed_and_says_where_there_is_no_second_seed(rows: Attribution) -> None:
    figure = agreement(comparison(rows))
    assert len(figure.layout.shapes) == 2
    (note,) = figure.layout.annotations
    assert (note.x, note.y, note.text) == (1, 1, "no second<br>seed")
    hover = np.asarray(figure.data[0].customdata, dtype=str)
    assert "another seed of it" in hover[0, 0]
    assert "no second seed" in hover[1, 1]
    assert "COAR with another seed" in hover[0, 1]
    assert hover[0, 1] == hover[1, 0]
    assert "95% interval" in hover[0, 1]


def test_names_are_no_markup(rows: Attribution) -> None:
    figure = agreement(comparison(rows))
    assert list(figure.layout.xaxis.ticktext) == ["COAR", "leave-&lt;b&gt;one&lt;/b&gt;-out"]
    assert "&lt;b&gt;" in figure.data[0].customdata[0][1]


def test_what_differs_is_said(rows: Attribution) -> None:
    made = comparison(rows)
    made.provenance["differ"] = ["ablation", "output"]
    assert "differ in ablation and output" in agreement(made).layout.title.subtitle.text


def test_points_are_mean_weights_or_those_of_one_example(rows: Attribution) -> None:
    other = again(rows, 0.5, 0)
    for example in (None, 1):
        figure = scatter(rows, other, example=example)
        line, *points = figure.data
        assert list(line.x) == list(line.y)
        a, b = (one.weights.mean("example") if example is None else one.weights[example] for one in (rows, other))
        drawn = {
            name: (x, y) for trace in points for name, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
        }
        assert len(drawn) == 36
        for name, (x, y) in drawn.items():
            assert x == pytest.approx(float(a.sel(component=name)))
            assert y == pytest.approx(float(b.sel(component=name)))
        assert f"r = {stats.pearsonr(a, b).statistic:.2f}" in figure.layout.title.text
        assert f"rank correlation {stats.spearmanr(a, b).statistic:.2f}" in figure.layout.title.text
        assert [trace.name for trace in points] == ["attn.q", "attn.o", "mlp.in"]


def test_of_many_points_the_strongest_are_drawn(rows: Attribution) -> None:
    figure = scatter(rows, rows, points=10)
    names = [name for trace in figure.data[1:] for name in trace.customdata]
    assert len(names) == len(set(names)) == 10
    weights = rows.weights.mean("example")
    strongest = weights.component.values[np.argsort(-np.abs(weights.values))[:5]]
    assert set(strongest) <= set(names)
    assert "10 of 36" in figure.layout.title.subtitle.text
    assert "r = 1.00" in figure.layout.title.text


def test_weights_that_are_not_finite_are_left_out(rows: Attribution) -> None:
    broken = again(rows, 0.1, 0)
    broken.weights[:, 4] = np.nan
    broken.weights[0, 5] = np.inf
    figure = scatter(rows, broken, names=("<i>a", "b"))
    assert sum(len(trace.x) for trace in figure.data[1:]) == 35
    assert figure.layout.xaxis.title.text.startswith("&lt;i&gt;a: weight")
    assert "logit difference" in figure.layout.xaxis.title.text


def test_wrong_input(rows: Attribution, heads_only: Attribution) -> None:
    for call, match in [
        (lambda: scatter(rows, heads_only), "different registries"),
        (lambda: scatter(rows, rows, example=3), "example=3: there are 3 examples, 0 to 2"),
        (lambda: scatter(rows, rows, points=1), "at least 2"),
        (lambda: agreement(comparison(rows), "kendall"), "no measure 'kendall'"),
    ]:
        with pytest.raises(InputError, match=match):
            call()


def test_themes_are_explicit(rows: Attribution) -> None:
    for figure in (agreement(comparison(rows), theme=DARK), scatter(rows, rows, theme=DARK)):
        assert figure.layout.template.layout.paper_bgcolor == DARK.surface
    assert agreement(comparison(rows)).layout.template.layout.paper_bgcolor == LIGHT.surface
