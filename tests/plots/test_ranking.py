"""The ranking shows the strongest components, in order and by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ablationlens.errors import InputError
from ablationlens.plots import ranking
from ablationlens.plots.theme import NEGATIVE, POSITIVE
from ablationlens.results import Attribution


def test_order_names_weights_spread(rows: Attribution) -> None:
    figure, table = ranking(rows, 7), rows.table().head(7)
    bar = figure.data[0]
    np.testing.assert_allclose(bar.x, table["weight"])
    assert (np.diff(np.abs(bar.x)) <= 0).all()
    assert list(figure.layout.yaxis.ticktext) == list(table["component"])
    np.testing.assert_allclose(bar.error_x.array, table["spread"])
    assert list(bar.marker.color) == [POSITIVE if weight >= 0 else NEGATIVE for weight in table["weight"]]
    # The first is on top: the axis runs downwards.
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


def test_says_what_is_seen(rows: Attribution) -> None:
    layout = ranking(rows, 7).layout
    assert layout.title.text == "7 strongest of 36 components (COAR)"
    assert "mean and standard deviation of 3 examples" in layout.title.subtitle.text
    assert "logit difference" in layout.xaxis.title.text


def test_fewer_components_than_asked_for(heads_only: Attribution) -> None:
    assert len(ranking(heads_only, 30).data[0].x) == 6


def test_one_example_has_no_whiskers(rows: Attribution) -> None:
    one = replace(rows, weights=rows.weights[:1], bias=rows.bias[:1])
    figure = ranking(one)
    assert not figure.data[0].error_x.visible
    assert figure.layout.title.subtitle.text.endswith("one example.")


def test_a_method_name_is_no_markup(rows: Attribution) -> None:
    assert "&lt;i&gt;" in ranking(replace(rows, method="<i>x</i>")).layout.title.text


def test_top_is_checked(rows: Attribution) -> None:
    with pytest.raises(InputError, match="at least 1"):
        ranking(rows, 0)
