"""What the figures of studies share: means with whiskers, and an axis of correlations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.plots.whiskers import (
    add_examples,
    add_means,
    categories,
    interval,
    matching,
    measure_range,
    ordered,
    shifts,
    undefined,
    undefined_in,
)

NAN = float("nan")
TABLE = pd.DataFrame({"pearson": [0.5, 0.7, NAN], "low": [0.4, NAN, NAN], "high": [0.8, NAN, NAN]})


def test_means_have_their_intervals_and_what_has_none_has_no_whisker() -> None:
    figure = go.Figure()
    add_means(figure, TABLE, [0.0, 1.0, 2.0], name="<i>", place=0, labels=["<b>", "second", "third"])
    (trace,) = figure.data
    np.testing.assert_array_equal(trace.y, [0.5, 0.7, NAN])
    np.testing.assert_allclose(trace.error_y.array, [0.3, 0, 0])
    np.testing.assert_allclose(trace.error_y.arrayminus, [0.1, 0, 0])
    assert trace.name == "&lt;i&gt;"
    hover = [list(each) for each in trace.customdata]
    assert hover[:2] == [["&lt;b&gt;", "95% interval 0.400 to 0.800"], ["second", "no interval"]]


def test_other_columns_and_colours() -> None:
    figure = go.Figure()
    table = TABLE.rename(columns={"pearson": "cosine", "low": "a", "high": "b"})
    for place in (0, 1):
        add_means(
            figure, table, [1, 2, 3], name="x", place=place, labels=["", "", ""], value="cosine", limits=("a", "b")
        )
    np.testing.assert_array_equal(figure.data[1].y, [0.5, 0.7, NAN])
    assert figure.data[0].marker.color != figure.data[1].marker.color


def test_examples_without_a_value_are_left_out() -> None:
    figure = go.Figure()
    add_examples(figure, TABLE.assign(example=["<b>", "second", "third"]), 1.5, place=0)
    (trace,) = figure.data
    assert list(trace.x) == [1.5, 1.5]
    np.testing.assert_array_equal(trace.y, [0.5, 0.7])
    assert list(trace.customdata) == ["&lt;b&gt;", "second"]


def test_intervals_in_words() -> None:
    assert interval(-0.25, 0.5) == "95% interval \u22120.250 to 0.500"
    assert interval(NAN, 0.5) == interval(0.5, NAN) == "no interval"


@given(st.lists(st.floats(-1, 1), min_size=1))
def test_the_axis_holds_every_value(values: list[float]) -> None:
    low, high = measure_range([*values, NAN])
    assert low < min(values)
    assert high > max(1.0, *values)
    assert min(values) - low <= 0.12 + 1e-9
    assert round(10 * low) == pytest.approx(10 * low)


def test_the_axis_without_values_and_above_1() -> None:
    assert measure_range([NAN]) == pytest.approx([0, 1.03])
    assert measure_range([0.5, 1.4])[1] > 1.4


def test_series_stand_side_by_side() -> None:
    assert shifts(1, 0.2) == [0]
    assert shifts(3, 0.2) == pytest.approx([-0.2, 0, 0.2])
    assert shifts(2, 0.2) == pytest.approx([-0.1, 0.1])


def test_rows_by_value_and_by_size() -> None:
    table = pd.DataFrame({"size": [3, 1, 2], "name": ["a", "b", "a"]})
    assert matching(table, "name", "a")["size"].tolist() == [3, 2]
    assert ordered(table, "size")["name"].tolist() == ["b", "a", "a"]


def test_names_on_an_axis_are_escaped() -> None:
    axis = categories(["<b>", "c"], "title")
    assert axis["ticktext"] == ["&lt;b&gt;", "c"]
    assert axis["tickvals"] == [0, 1]
    assert axis["title"]["text"] == "title"


def test_what_is_undefined_in_words() -> None:
    assert undefined(0, 5) == ""
    assert undefined(1200, 5000) == " Undefined: 1,200 of 5,000 correlations."
    assert undefined(5, 5) == " Undefined: all correlations."
    assert undefined_in(TABLE) == " Undefined: 1 of 3 correlations."
