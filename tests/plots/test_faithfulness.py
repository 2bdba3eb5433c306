"""Curves of faithfulness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ablationlens.plots import DARK, deletion_insertion, faithfulness
from tests.plots.results import curves


def test_lines_are_faithfulness_and_the_band_holds_the_random_orders() -> None:
    result = curves()
    figure = faithfulness(result)
    traces = {trace.name.split(" (")[0]: trace for trace in figure.data if trace.mode == "lines+markers"}
    share = result.counts / 20
    np.testing.assert_allclose(traces["COAR"].x, share)
    np.testing.assert_allclose(traces["COAR"].y, np.sqrt(share))
    np.testing.assert_allclose(traces["leave-&lt;b&gt;one&lt;/b&gt;-out"].y, share)
    np.testing.assert_array_equal(np.asarray(traces["COAR"].customdata)[:, 0], result.counts)
    (band,) = (trace for trace in figure.data if trace.name == "3 random orders")
    np.testing.assert_allclose(band.y[:5], share + 0.1 * share * (1 - share))
    np.testing.assert_allclose(band.y[5:][::-1], share - 0.2 * share * (1 - share))
    assert len({trace.line.color for trace in traces.values()}) == 2


def test_the_legend_names_the_areas() -> None:
    result = curves()
    table = result.table().set_index(["method", "measure"])["value"]
    (name,) = (trace.name for trace in faithfulness(result).data if trace.showlegend and "COAR" in trace.name)
    assert name == f"COAR (CPR {table['COAR', 'cpr']:.2f}, CMD {table['COAR', 'cmd']:.2f})"
    assert "20 components most positive first; 3 examples" in faithfulness(result).layout.title.subtitle.text


def test_a_logarithmic_axis_has_no_0() -> None:
    figure = faithfulness(curves(), log=True)
    assert figure.layout.xaxis.type == "log"
    assert all(min(trace.x) > 0 for trace in figure.data)


def test_deletion_and_insertion_stand_side_by_side() -> None:
    result = curves()
    figure = deletion_insertion(result)
    lines = [trace for trace in figure.data if trace.mode == "lines+markers" and trace.name == "COAR"]
    share = result.counts / 20
    assert [trace.xaxis for trace in lines] == ["x", "x2"]
    np.testing.assert_allclose(lines[0].y, 1 - np.sqrt(share))
    np.testing.assert_allclose(lines[1].y, np.sqrt(share))
    assert [trace.showlegend for trace in lines] == [True, False]
    assert [(line.yref, line.y0) for line in figure.layout.shapes] == [("y", 1), ("y2", 1)]  # the whole model
    assert "ablated" in figure.layout.xaxis.title.text
    assert "kept" in figure.layout.xaxis2.title.text


def test_one_example_has_no_interval() -> None:
    several, one = faithfulness(curves()), faithfulness(curves(examples=1))
    assert (len(several.data), len(one.data)) == (5, 3)


@pytest.mark.parametrize("draw", [faithfulness, deletion_insertion])
def test_what_is_undefined_is_said(draw: object) -> None:
    result = curves()
    flat = replace(result, full=result.empty.copy())
    notes = [note.text for note in draw(flat).layout.annotations]  # type: ignore[operator]
    assert any("Undefined" in note for note in notes)
    assert draw(result, theme=DARK).layout.template.layout.paper_bgcolor == DARK.surface  # type: ignore[operator]
