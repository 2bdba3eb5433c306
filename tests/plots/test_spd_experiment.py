"""The figure of an ablation experiment, against the tables that it is drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.plots.spd_experiment import ablation_experiment
from ablationlens.plots.theme import DARK
from ablationlens.spd import Deterministic, Stochastic
from tests.conftest import host_of
from tests.spd.small import decomposed


@pytest.fixture(scope="module")
def result() -> Any:
    host = host_of("torch", "gpt2")
    own = decomposed(host)
    return al.spd.ablation_experiment(
        host.adapter,
        own,
        host.data(2),
        {"head": "L0.head 3", "<b>part</b>": "L0.attn.q rank_one 2", "nothing": None},
        free={"freed": "L0.attn.v rank_one 0"},
        modes=[al.spd.Whole(own), Deterministic(own), Stochastic(own, 3)],
        gaps="whole",
    )


@pytest.mark.parametrize("measure", ["kl", "reverse_kl", "js", "top1_changed"])
def test_a_panel_for_each_mode_has_its_effects_and_whiskers(result: Any, measure: str) -> None:
    figure: Any = ablation_experiment(result, measure=measure, theme=DARK)
    table, gaps = result.table(), result.gap_table()
    for bars, mode in zip(figure.data, result.modes, strict=True):
        own = table[table["mode"] == mode]
        assert np.allclose(bars.x, own[measure].to_numpy(dtype=float))
        assert bars.error_x.visible == (mode == "stochastic")
        if mode == "stochastic":
            assert np.allclose(bars.error_x.array, own[f"{measure}_se"].to_numpy(dtype=float))
        assert list(bars.marker.pattern.shape) == ["", "", "", "/"]
    end = figure.layout.xaxis.range[1]
    assert figure.layout.xaxis2.range == figure.layout.xaxis3.range == figure.layout.xaxis.range
    drawn = [shape.x0 for shape in figure.layout.shapes]
    assert np.allclose(drawn, [gap for gap in gaps[measure] if gap <= end])
    titles = [title.text for title in figure.layout.annotations]
    for title, mode, gap in zip(titles, result.modes, gaps[measure], strict=True):
        assert f"<b>{mode}</b>" in title
        assert f"gap {gap:.3g}" in title
        assert ("\u2192" in title) == (gap > end)
    assert [text for text in figure.layout.yaxis.ticktext if "part" in text] == ["&lt;b&gt;part&lt;/b&gt;"]


def test_the_largest_are_drawn_in_the_order_of_the_result(result: Any) -> None:
    figure: Any = ablation_experiment(result, top=2)
    largest = result.table().groupby("ablation")["kl"].max().nlargest(2).index
    expected = [name for name in result.ablations if name in set(largest)]
    assert [text.replace("&lt;", "<").replace("&gt;", ">") for text in figure.layout.yaxis.ticktext] == expected
    assert "The 2 largest of 4." in figure.layout.title.subtitle.text


def test_patterns_before_and_after_are_drawn_as_others_are(result: Any) -> None:
    before_and_after = result.pattern("stochastic", "head")
    assert before_and_after.dims == ("mask", "example", "layer", "head", "query", "key")
    figure: Any = al.plots.attention(before_and_after, layer=1, head=0)
    expected = result.patterns.sel(mode="stochastic", ablation="head").values[0, 1, 0]
    assert np.allclose(np.asarray(figure.data[1].z, dtype=float), expected)
    for wrong in (("nobody", "head"), ("stochastic", "baseline")):
        with pytest.raises(al.InputError, match="no mode 'nobody'|no ablation 'baseline'"):
            result.pattern(*wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda r: ablation_experiment(r, measure="rank_change"), "the measures are kl, reverse_kl, js, top1_changed"),
        (lambda r: ablation_experiment(r, top=0), "an integer from 1"),
        (lambda r: ablation_experiment(r.table()), "al.spd.ablation_experiment"),
    ],
)
def test_bad_input(wrong: Any, message: str, result: Any) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        wrong(result)
