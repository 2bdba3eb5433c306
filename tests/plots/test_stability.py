"""Figures of stability: tables whose bars and points can be read off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ablationlens.diagnostics.stability import AGREEMENTS, SHARES
from ablationlens.plots.stability import stability, stability_shares
from ablationlens.plots.theme import DARK
from tests.diagnostics.known_stability import NAN, stable

ONE = {("data", 25): (0.5, 0.1, 0.3), ("data", 100): (0.6, 0.02, 0.36)}
TWO = {("<i>", 25): (0.5, 0.1, 0.3), ("b", 25): (0.9, 0.06, 0.05)}


def test_comparisons_stand_side_by_side_at_their_draws() -> None:
    figure = stability(stable(ONE))
    assert [trace.name for trace in figure.data] == list(AGREEMENTS)
    masks, neither, examples = figure.data
    np.testing.assert_allclose(neither.y, [0.5, 0.6])
    np.testing.assert_allclose(masks.y, [0.6, 0.62])
    np.testing.assert_allclose(examples.y, [0.8, 0.96])
    np.testing.assert_allclose(neither.x, [0, 1])
    assert list(masks.x) < list(neither.x) < list(examples.x)
    np.testing.assert_allclose(neither.error_y.arrayminus, [0.04, 0.04])
    np.testing.assert_allclose(neither.error_y.array, [0.02, 0.02])
    assert list(figure.layout.xaxis.ticktext) == ["25 draws", "100 draws"]
    assert figure.layout.xaxis.title.text == "draws of the fit"
    assert "half of the examples (10)" in figure.layout.title.subtitle.text
    assert "over seeds 0.490 to 0.510" in neither.customdata[0][0]
    assert figure.layout.yaxis.range[0] < 0.46


def test_several_data_sets_are_named() -> None:
    for figure in (stability(stable(TWO)), stability_shares(stable(TWO))):
        assert list(figure.layout.xaxis.ticktext) == ["&lt;i&gt;<br>25 draws", "b<br>25 draws"]
        assert figure.layout.xaxis.title.text == "data and draws of the fit"
        np.testing.assert_allclose(figure.data[1].x, [0, 1])
    assert stability(stable(TWO)).data[0].customdata[0][0].startswith("&lt;i&gt;, 25 draws")


def test_shares_are_stacked_to_one() -> None:
    figure = stability_shares(stable(ONE))
    assert figure.layout.barmode == "relative"
    np.testing.assert_allclose(np.sum([trace.y for trace in figure.data], axis=0), 1)
    common, masks, examples, _ = figure.data
    np.testing.assert_allclose(common.y, [0.5, 0.6])
    np.testing.assert_allclose(masks.y, [0.1, 0.02])
    np.testing.assert_allclose(examples.y, [0.3, 0.36])
    assert list(common.text) == ["50%", "60%"]
    assert list(masks.text) == ["10%", ""]  # a bar that is too low for a number
    assert common.customdata[0] == "95% interval 0.460 to 0.520"
    assert len({trace.marker.color for trace in figure.data}) == len(SHARES)


def test_what_is_undefined_is_said_rather_than_drawn() -> None:
    one = stable({("a", 25): (NAN, NAN, NAN), ("b", 25): (0.9, 0.06, 0.05)})
    agreement, shares = stability(one), stability_shares(one)
    assert agreement.layout.title.subtitle.text.endswith("Undefined: 3 of 6 correlations.")
    assert shares.layout.title.subtitle.text.endswith("Undefined: 4 of 8 shares.")
    assert shares.data[0].text[0] == ""
    assert np.isfinite(agreement.data[0].error_y.array).all()


def test_the_axis_says_what_is_measured_in_the_theme_that_is_given() -> None:
    one = stable(ONE)
    cosine = replace(one, provenance={"kind": "cosine"})
    assert stability(one).layout.yaxis.title.text == "Pearson correlation over components"
    assert stability(cosine).layout.yaxis.title.text == "cosine"
    for draw in (stability, stability_shares):
        assert draw(one, theme=DARK).layout.template.layout.paper_bgcolor == DARK.surface
