"""Bars of completeness gaps."""

from __future__ import annotations

import numpy as np

from ablationlens.plots import DARK, completeness
from tests.plots.results import gaps


def test_bars_are_mean_gaps_with_intervals() -> None:
    result = gaps()
    figure, table = completeness(result), gaps().table()
    weights, bias = figure.data
    np.testing.assert_allclose(weights.x, [2, 4])
    np.testing.assert_allclose(bias.x, [1, 1])
    np.testing.assert_allclose(weights.x + np.array(weights.error_x.array), table["high"])
    np.testing.assert_allclose(weights.x - np.array(weights.error_x.arrayminus), table["low"])
    assert [note.text for note in figure.layout.annotations] == ["25% of the change", "50% of the change"]
    assert list(figure.layout.yaxis.ticktext) == ["COAR", "leave-&lt;b&gt;one&lt;/b&gt;-out"]
    assert "margin" in figure.layout.xaxis.title.text
    assert "Mean over 3 examples" in figure.layout.title.subtitle.text


def test_words_stand_behind_the_whiskers_and_fit() -> None:
    figure, table = completeness(gaps()), gaps().table()
    assert [note.x for note in figure.layout.annotations] == table["high"].tolist()
    assert figure.layout.xaxis.range[1] > table["high"].max()


def test_one_example_without_a_change() -> None:
    result = gaps(1)
    result.frame["relative"] = np.nan
    figure = completeness(result, theme=DARK)
    assert [note.text for note in figure.layout.annotations] == ["no change", "no change"]
    assert figure.layout.title.subtitle.text.startswith("One example.")
    assert figure.layout.template.layout.paper_bgcolor == DARK.surface
