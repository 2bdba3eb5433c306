"""Histograms of the correlations of single examples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ablationlens import InputError
from ablationlens.evaluate import Scores
from ablationlens.plots import DARK, histogram
from ablationlens.plots.histogram import BINS, bins

NAN = float("nan")
VALUES = {
    ("<i>first</i>", 0.05): [0.933, 0.952, 0.957, 1.0000000002],
    ("second", 0.05): [0.911, NAN, 0.993, NAN],
    ("<i>first</i>", 0.1): [0.5, 0.6, 0.7, 0.8],
    ("second", 0.1): [-0.5, 0.6, 0.7, NAN],
}


def scores(values: dict[tuple[str, float], list[float]]) -> Scores:
    """Correlations of examples as they are written above; outputs are not looked at."""
    rows = [
        {"method": method, "alpha": alpha, "example": f"example {i}", "pearson": r}
        for (method, alpha), own in values.items()
        for i, r in enumerate(own)
    ]
    alphas = {alpha: np.zeros((50, 4)) for _, alpha in values}
    predicted = {key: np.zeros((50, 4)) for key in values}
    return Scores(pd.DataFrame(rows), alphas, predicted, dict.fromkeys(alphas, 0), 1250, {})


def bars(figure: go.Figure) -> list[go.Bar]:
    return [trace for trace in figure.data if trace.type == "bar"]


def lines(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.type == "scatter"]


def test_every_example_is_in_the_bar_of_its_correlation() -> None:
    figure = histogram(scores(VALUES))
    for trace, own in zip(bars(figure), list(VALUES.values())[:2], strict=True):
        finite = np.minimum([r for r in own if np.isfinite(r)], 1)
        assert sum(trace.y) == len(finite)
        for x, width, count in zip(trace.x, trace.width, trace.y, strict=True):
            half = width / 0.94 / 2
            assert count == ((finite > x - half) & (finite <= x + half + 1e-9)).sum()
    assert [trace.name for trace in bars(figure)] == ["&lt;i&gt;first&lt;/i&gt;", "second"]
    assert bars(figure)[0].customdata[-1].endswith("to 1.00")


def test_a_perfect_correlation_that_was_rounded_up_is_drawn() -> None:
    figure = histogram(scores({("a", 0.1): [1.0, 1.0000000000000002, 0.9999, 1.0]}))
    assert sum(bars(figure)[0].y) == 4


def test_dashed_lines_are_means() -> None:
    first, second = lines(histogram(scores(VALUES)))
    np.testing.assert_allclose(first.x, [np.mean(VALUES["<i>first</i>", 0.05])] * 2)
    np.testing.assert_allclose(second.x, [0.952] * 2)


def test_titles_name_the_mean_and_the_lowest_and_what_is_left_out() -> None:
    figure = histogram(scores(VALUES), 0.1)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == [
        "&lt;i&gt;first&lt;/i&gt;: 4 examples, mean 0.65, lowest 0.50",
        "second: 3 examples, mean 0.27, lowest \u22120.50",
    ]
    assert figure.layout.title.text == "Correlations of single examples at 10% ablated"
    said = "Pearson's r on 1,250 held-out masks; dashed: the mean. 1 without one is left out."
    assert figure.layout.title.subtitle.text == said
    assert figure.layout.xaxis2.title.text == "Pearson correlation"
    assert figure.layout.yaxis.title.text == "examples"


def test_a_method_without_a_correlation_says_so() -> None:
    figure = histogram(scores({("a", 0.1): [NAN] * 4, ("b", 0.1): [0.5] * 4}))
    assert figure.layout.annotations[0].text == "a: no correlation is defined"
    assert sum(bars(figure)[0].y) == 0
    assert len(lines(figure)) == 1
    assert "4 without one are left out" in figure.layout.title.subtitle.text


def test_the_first_alpha_by_default_and_no_other_than_those_evaluated() -> None:
    assert "at 5% ablated" in histogram(scores(VALUES)).layout.title.text
    with pytest.raises(InputError, match=r"alpha=0.2 was not evaluated: use one of 0.05, 0.1, or evaluate\(.*\[0.2\]"):
        histogram(scores(VALUES), 0.2)
    assert histogram(scores(VALUES), theme=DARK).layout.template.layout.paper_bgcolor == DARK.surface


@given(arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1)))
def test_bins_hold_every_value_up_to_1(values: np.ndarray) -> None:
    edges = bins(np.append(values, NAN))
    assert edges[-1] == 1
    assert edges[0] <= values.min() + 1e-9
    assert 1 <= len(edges) - 1 <= BINS
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0])


def test_bins_of_nothing() -> None:
    assert bins(np.array([NAN]))[[0, -1]].tolist() == [0, 1]
