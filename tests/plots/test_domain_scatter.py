"""Two domains against each other: weights that are known, and SciPy's tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import ablationlens as al
from ablationlens.plots.domain_scatter import domain_scatter
from ablationlens.plots.theme import DARK, NEGATIVE, POSITIVE
from tests.plots.conftest import made
from tests.plots.known_domains import named

NAN = float("nan")


def apart() -> dict[str, np.ndarray]:
    """Component 7 is clearly higher in a, 20 in b; of the others nothing is known but noise."""
    noise = np.random.default_rng(3).normal(0, 0.1, (2, 6, 36))
    noise[0, :, 7] += 5
    noise[1, :, 20] += 5
    return {"a": noise[0], "b": noise[1]}


def test_the_components_that_differ_most_are_named_on_their_side() -> None:
    weights = apart()
    figure = domain_scatter(named(weights), "a", "b", top=2)
    line, rest, first, second = figure.data
    assert line.x == line.y
    registry = made(["row"]).registry
    for trace, component, colour in ((first, 7, POSITIVE), (second, 20, NEGATIVE)):
        assert trace.customdata[0][0] == registry.names[component]
        np.testing.assert_allclose(
            [*trace.x, *trace.y], [weights[name][:, component].mean() for name in "ab"], rtol=1e-5
        )
        assert trace.marker.color == colour
        t = stats.ttest_ind(weights["a"][:, component], weights["b"][:, component], equal_var=False).statistic
        assert f"t = {t:.1f},".replace("-", "\u2212") in trace.customdata[0][1]
    assert len(rest.x) == 34
    assert (first.name, second.name) == ("higher in a", "higher in b")
    right, left = figure.layout.annotations
    assert (right.text, left.text) == (registry.names[7], registry.names[20])
    assert right.x < right.ax
    assert left.x > left.ax
    low, high = figure.layout.xaxis.range
    assert low < left.ax < right.ax < high
    r = stats.pearsonr(weights["a"].mean(0), weights["b"].mean(0)).statistic
    assert figure.layout.title.text == f"b against a: r = {r:.2f}".replace("-", "\u2212")
    assert "Named: the 2 with the largest Welch t, of which 0% may be chance" in figure.layout.title.subtitle.text


def test_points_are_thinned_but_named_ones_stay() -> None:
    figure = domain_scatter(named(apart()), "a", "b", top=2, points=10)
    assert [len(trace.x) for trace in figure.data[1:]] == [8, 1, 1]
    assert len({name for name, _ in figure.data[1].customdata}) == 8
    figure = domain_scatter(named(apart()), "a", "b", top=0)
    assert [len(trace.x) for trace in figure.data[1:]] == [36, 0, 0]
    assert not figure.layout.annotations
    assert "Named" not in figure.layout.title.subtitle.text
    for wrong in ({"top": -1}, {"top": 5, "points": 4}):
        with pytest.raises(al.InputError, match=r"top=.*domain_scatter\(study"):
            domain_scatter(named(apart()), "a", "b", **wrong)
    with pytest.raises(al.InputError, match="no domain 'c'"):
        domain_scatter(named(apart()), "a", "c")


def test_components_without_a_t_are_drawn_and_not_named() -> None:
    weights = apart()
    weights["a"][0, 0] = NAN
    for name in "ab":
        weights[name][:, 1] = 2.0
    _, rest, first, second = domain_scatter(named(weights), "a", "b", top=36).data
    assert len(first.x) + len(second.x) == 34
    assert list(rest.x) == [2.0]
    assert rest.customdata[0][1] == "t is undefined"


def test_it_is_in_the_theme_that_is_given() -> None:
    figure = domain_scatter(named(apart()), "a", "b", theme=DARK)
    assert figure.layout.template.layout.paper_bgcolor == DARK.surface
    assert figure.layout.height
