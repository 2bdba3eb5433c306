"""Figures of scores."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.errors import InputError
from ablationlens.evaluate import Scores
from ablationlens.plots import correlation, predicted_vs_true


def test_points_are_the_held_out_outputs(scores: Scores) -> None:
    figure = predicted_vs_true(scores, "leave-one-out", 0.1)
    line, *examples = figure.data
    assert list(line.x) == list(line.y)
    for column, trace in enumerate(examples):
        assert trace.type == "scatter"
        np.testing.assert_allclose(trace.x, scores.true[0.1][:, column])
        np.testing.assert_allclose(trace.y, scores.predicted["leave-one-out", 0.1][:, column])
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    assert "margin" in figure.layout.xaxis.title.text
    assert len({trace.marker.color for trace in examples}) == 3


def test_names_are_no_markup(scores: Scores) -> None:
    assert predicted_vs_true(scores).data[1].name == "&lt;b&gt;first&lt;/b&gt; example"


def test_points_that_are_not_finite_are_left_out(scores: Scores) -> None:
    figure = predicted_vs_true(scores, "COAR", 0.05)
    assert [len(trace.x) for trace in figure.data[1:]] == [50, 49, 50]


def test_points_are_limited(scores: Scores) -> None:
    figure = predicted_vs_true(scores, "COAR", 0.1, points=30)
    assert sum(len(trace.x) for trace in figure.data[1:]) == 30
    assert "10 of 50" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "coar"}, "'coar' was not evaluated: use one of 'COAR', 'leave-one-out'"),
        ({"alpha": 0.2}, r"alpha=0.2 was not evaluated: use one of 0.05, 0.1, or evaluate\(.*alphas=\[0.2\]"),
        ({"points": 0}, "at least 1"),
    ],
)
def test_wrong_input(scores: Scores, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predicted_vs_true(scores, **arguments)  # type: ignore[arg-type]


def test_correlation_has_means_and_intervals(scores: Scores) -> None:
    figure, table = correlation(scores), scores.table()
    assert [trace.name for trace in figure.data] == ["COAR", "leave-one-out"]
    for trace in figure.data:
        rows = table[table["method"] == trace.name]
        np.testing.assert_allclose(trace.y, rows["pearson"])
        np.testing.assert_allclose(trace.y + np.array(trace.error_y.array), rows["high"])
        np.testing.assert_allclose(trace.y - np.array(trace.error_y.arrayminus), rows["low"])
    assert list(figure.layout.xaxis.ticktext) == ["5%", "10%"]
    assert figure.layout.yaxis.range[1] > 1
