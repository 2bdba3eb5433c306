"""Figures of a study of domains: weights that are known, in figures whose cells and points can be read off."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens.diagnostics import Domains
from ablationlens.plots.domains import domain_held_out, domain_similarity, domain_weights
from ablationlens.plots.theme import DARK, LIGHT
from tests.diagnostics.known_domains import study, three
from tests.plots.known_domains import named

NAN = float("nan")


def by_layer() -> Domains:
    """Layers weigh 1, -2 and 0.5 in <i>, and ten times less in b; the two examples of <i> lie 0.2 apart."""
    layer = np.repeat([1.0, -2.0, 0.5], 12)
    return named({"<i>": np.stack([layer - 0.1, layer + 0.1]), "b": 0.1 * layer[None]})


# -- weights ----------------------------------------------------------------------------------------------------------


def test_cells_are_means_of_groups_with_domains_across() -> None:
    figure = domain_weights(by_layer())
    (cells,) = figure.data
    np.testing.assert_allclose(cells.z, [[1, 0.1], [-2, -0.2], [0.5, 0.05]], atol=1e-6)
    assert list(figure.layout.xaxis.ticktext) == ["&lt;i&gt;", "b"]
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first layer is at the top
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == pytest.approx((-2, 2))
    assert [row[0] for row in cells.text] == ["1.0", "\u22122.0", "0.5"]
    assert cells.customdata[0][0].startswith("<b>0</b>, &lt;i&gt;<br>weight +1.00 ± 0.1 (standard error)")
    assert "standard error" not in cells.customdata[0][1]  # a single example has none
    assert "12 components" in cells.customdata[2][1]
    subtitle = figure.layout.title.subtitle.text
    assert "raises the logit difference" in subtitle
    assert subtitle.endswith("36 components, mean of 1 to 2 examples of a domain.")


def test_groups_of_several_columns_are_named_by_all_of_them() -> None:
    figure = domain_weights(by_layer(), ["layer", "module"])
    assert list(figure.layout.yaxis.ticktext)[:4] == ["0 attn.q", "0 attn.o", "0 mlp.in", "1 attn.q"]
    assert figure.layout.title.text == "Mean weight by layer and module in each domain"
    with pytest.raises(al.InputError, match="grouped by"):
        domain_weights(by_layer(), "colour")


def test_what_rounds_to_nothing_has_no_sign() -> None:
    figure = domain_weights(
        named({"a": np.repeat([[2.0, -0.001, 0.5]], 2, 0).repeat(12, 1), "b": np.full((2, 36), NAN)})
    )
    assert [row[0] for row in figure.data[0].text] == ["2.0", "0.0", "0.5"]
    assert [row[1] for row in figure.data[0].text] == ["", "", ""]


# -- similarity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [False, True])
def test_similar_domains_stand_side_by_side(corrected: bool) -> None:
    result = study(three())
    found = result.similarity()
    for given in (result, found):
        figure = domain_similarity(given, corrected=corrected)
        (cells,) = figure.data
        names = list(figure.layout.xaxis.ticktext)
        assert names == list(figure.layout.yaxis.ticktext) == list(found.order)
        assert abs(names.index("python") - names.index("cpp")) == 1
        expected = found.matrix(corrected=corrected)
        np.testing.assert_allclose(cells.z, expected)
        assert cells.text[0][1] == f"{expected.iloc[0, 1]:.2f}"
    assert len(figure.layout.shapes) == 3
    assert ("corrected" in figure.layout.title.text) == corrected
    assert ("ceiling" in figure.layout.title.subtitle.text) == (not corrected)


def test_a_cell_says_its_interval_and_the_diagonal_its_halves() -> None:
    result = study({f"<{name}>": one for name, one in three().items()})
    found = result.similarity()
    (cells,) = domain_similarity(result).data
    a, b = found.order[:2]
    row = found.arrays.sel(domain=a, other=b)
    assert cells.customdata[0][1].startswith(f"<b>{a.replace('<', '&lt;').replace('>', '&gt;')}</b> and ")
    assert f"95% interval {float(row['low']):.3f} to {float(row['high']):.3f}" in cells.customdata[0][1]
    assert f"corrected for noise {float(row['corrected']):.3f}" in cells.customdata[0][1]
    assert f"halves of them: {float(found.halves.sel(domain=a)):.3f}" in cells.customdata[0][0]


def test_colours_have_a_sign_only_where_similarities_have_one() -> None:
    weights = three()
    layout = domain_similarity(study(weights)).layout
    assert layout.coloraxis2.cmin == 0
    layout = domain_similarity(study({"a": weights["python"], "b": -weights["python"]})).layout
    assert (layout.coloraxis.cmin, layout.coloraxis.cmax) == (-1, 1)


def test_a_similarity_of_another_kind_is_refused() -> None:
    result = study(three())
    assert "Cosine" in domain_similarity(result, kind="cosine").layout.title.text
    assert "Cosine" in domain_similarity(result.similarity("cosine")).layout.title.text
    with pytest.raises(al.InputError, match=r"of kind 'pearson'.*domain_similarity\(study"):
        domain_similarity(result.similarity(), kind="cosine")


# -- held out ---------------------------------------------------------------------------------------------------------


def held_out() -> Domains:
    """What masks that were held out would say; b has one example."""
    rows = [
        {"domain": domain, "weights": weights, "pearson": value, "low": value - 0.1, "high": value + 0.05}
        for domain, weights, value in (
            ("<i>", "each example", 0.9),
            ("<i>", "mean of <i>", 0.5),
            ("<i>", "mean of b", 0.4),
            ("b", "each example", 0.8),
            ("b", "mean of <i>", 0.3),
        )
    ]
    one = by_layer()
    frame = pd.DataFrame(rows).assign(spearman=0.5, undefined=0)
    return Domains(one.attributions, frame)


def test_weights_of_every_domain_are_tested_on_every_domain() -> None:
    figure = domain_held_out(held_out())
    own, of_i, of_b = figure.data
    assert [trace.name for trace in figure.data] == ["each example's own", "mean of &lt;i&gt;", "mean of b"]
    np.testing.assert_allclose(own.y, [0.9, 0.8])
    np.testing.assert_allclose(of_i.y, [0.5, 0.3])
    np.testing.assert_allclose(of_b.y, [0.4])  # a domain of one example has no mean of the others
    np.testing.assert_allclose(of_i.error_y.arrayminus, [0.1, 0.1])
    np.testing.assert_allclose(of_i.error_y.array, [0.05, 0.05])
    assert list(of_i.marker.symbol) == ["diamond", "circle"]
    assert list(np.round(own.x)) == list(np.round(of_i.x)) == [0, 1]
    assert len({trace.marker.color for trace in figure.data}) == 3
    assert figure.layout.yaxis.range[0] < 0.2
    assert list(figure.layout.xaxis.ticktext) == ["&lt;i&gt;", "b"]


def test_what_was_not_tested_is_refused_and_what_is_undefined_said() -> None:
    with pytest.raises(al.InputError, match="held_out=200"):
        domain_held_out(by_layer())
    one = held_out()
    assert one.held_out is not None
    one.held_out.loc[0, ["pearson", "low", "high"]] = NAN
    figure = domain_held_out(one)
    assert figure.layout.title.subtitle.text.endswith("Undefined: 1 of 5 correlations.")
    assert np.isfinite(figure.data[0].error_y.array).all()


def test_every_figure_is_in_the_theme_that_is_given_and_has_a_height() -> None:
    for theme in (LIGHT, DARK):
        for figure in (
            domain_weights(by_layer(), theme=theme),
            domain_similarity(study(three()), theme=theme),
            domain_held_out(held_out(), theme=theme),
        ):
            assert figure.layout.template.layout.paper_bgcolor == theme.surface
            assert math.isfinite(figure.layout.height)
            assert figure.layout.title.subtitle.text
