"""Noise ceilings."""

from __future__ import annotations

import numpy as np

from ablationlens.plots import DARK, ceiling
from tests.plots.results import NAMES, ceilings


def test_dots_are_correlations_and_diamonds_ceilings() -> None:
    figure = ceiling(ceilings())
    traces = {trace.name: trace for trace in figure.data if trace.name}
    reached, limit = traces["COAR: correlation"], traces["COAR: ceiling"]
    np.testing.assert_allclose(reached.y, [0.7, 0.6])  # alphas ascend
    np.testing.assert_allclose(limit.y, [0.75, 0.7])
    np.testing.assert_allclose(limit.y + np.array(limit.error_y.array), [0.79, 0.74])
    np.testing.assert_allclose(limit.y - np.array(limit.error_y.arrayminus), [0.71, 0.66])
    np.testing.assert_array_equal(reached.x, limit.x)
    assert list(figure.layout.xaxis.ticktext) == ["5%", "10%"]
    assert "leave-&lt;b&gt;one&lt;/b&gt;-out: ceiling" in traces
    assert len(NAMES) * 2 == len(traces)


def test_intervals_above_1_are_in_the_figure_and_undefined_ceilings_are_not() -> None:
    figure = ceiling(ceilings(), theme=DARK)
    assert figure.layout.yaxis.range[1] > 1.1
    assert figure.layout.yaxis.range[0] <= 0
    assert figure.layout.template.layout.paper_bgcolor == DARK.surface
    values = [trace.y for trace in figure.data if trace.name and trace.name.endswith("out: ceiling")]
    assert np.isnan(np.asarray(values[0], float)).tolist() == [True, False]
