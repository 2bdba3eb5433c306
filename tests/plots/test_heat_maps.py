"""Heat maps show what a group-by of the weights says."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.errors import InputError
from ablationlens.plots import DARK, LIGHT, heads, layers
from ablationlens.registry import Registry
from ablationlens.results import Attribution, attribution
from ablationlens.sites import Coordinates, Cut, Site, Tap


def values(figure: object) -> np.ndarray:
    return np.asarray(figure.data[0].z, dtype=float)  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", ["weight", "mean"])
def test_cells_are_groupby_sums_and_means(rows: Attribution, by: str) -> None:
    figure = layers(rows, by=by)
    frame = rows.registry.frame()
    frame["w"] = rows.weights.mean("example").to_numpy()
    grouped = frame.groupby(["layer", "module"])["w"]
    expected = grouped.sum() if by == "weight" else grouped.mean()
    for i, layer in enumerate(figure.data[0].y):
        for j, module in enumerate(figure.data[0].x):
            assert values(figure)[i, j] == pytest.approx(expected[int(layer), module])
    assert list(figure.data[0].x) == ["attn.q", "attn.o", "mlp.in"]
    limit = np.abs(values(figure)).max()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == pytest.approx((-limit, limit))


def test_share_adds_up_to_100_percent(rows: Attribution) -> None:
    figure = layers(rows, by="share")
    assert values(figure).sum() == pytest.approx(100)
    assert (values(figure) >= 0).all()
    assert figure.layout.coloraxis2.cmin == 0


def test_hover_has_sum_mean_count_share(rows: Attribution) -> None:
    shown, hover = values(layers(rows)), np.asarray(layers(rows).data[0].customdata)
    np.testing.assert_allclose(hover[..., 0], shown)
    np.testing.assert_allclose(hover[..., 0], hover[..., 1] * hover[..., 2])
    assert (hover[..., 2] == 4).all()


def test_by_is_checked(rows: Attribution) -> None:
    with pytest.raises(InputError, match="'weight', 'mean', 'share'"):
        layers(rows, by="median")  # type: ignore[arg-type]


def test_heads_are_mean_weights(heads_only: Attribution) -> None:
    figure = heads(heads_only)
    assert values(figure).shape == (3, 2)
    expected = heads_only.weights.mean("example").sel(component="L2.head 1")
    assert values(figure)[2, 1] == pytest.approx(float(expected))
    assert "logit difference" in figure.layout.coloraxis.colorbar.title.text


def test_heads_without_heads_say_what_to_do(rows: Attribution) -> None:
    with pytest.raises(InputError, match=r'no heads, only components of kind row.*registry\("head"\)'):
        heads(rows)


def test_heads_are_found_among_others(mixed: Attribution) -> None:
    assert values(heads(mixed)).shape == (3, 2)
    assert list(layers(mixed).data[0].x) == ["attn", "attn.q"]


def test_a_network_without_repeated_layers_gets_one_column() -> None:
    sites = []
    for layer, module in enumerate(("conv1", "conv2", "fc")):
        tap = Tap(layer, module, "out")
        sites.append((Site("row", layer, module, tap, tap, Coordinates(2), Cut((module,), "row")), None))
    registry = Registry(sites)
    figure = layers(attribution("x", np.arange(6.0)[None], np.zeros(1), registry, ["only"], provenance={}))
    assert list(figure.data[0].y) == ["0 conv1", "1 conv2", "2 fc"]
    np.testing.assert_array_equal(values(figure), [[1], [5], [9]])


def test_modules_whose_shortened_names_are_equal_have_columns_of_their_own() -> None:
    modules = [f"transformer.block.{name}.projection.out" for name in ("<first>", "<other>")]
    sites = []
    for layer in range(2):
        for module in modules:
            tap = Tap(layer, module, "out")
            sites.append((Site("row", layer, module, tap, tap, Coordinates(1), Cut((module,), "row")), None))
    registry = Registry(sites)
    figure = layers(attribution("x", np.arange(4.0)[None], np.zeros(1), registry, ["only"], provenance={}))
    np.testing.assert_array_equal(values(figure), [[0, 1], [2, 3]])
    whole = [module.replace("<", "&lt;").replace(">", "&gt;") for module in modules]
    axis = figure.layout.xaxis
    assert list(figure.data[0].x) == list(axis.tickvals) == list(figure.data[0].text[0]) == whole
    assert len(set(axis.ticktext)) == 1 and len(axis.ticktext[0]) == 20


def test_missing_cells_stay_empty(mixed: Attribution) -> None:
    registry = mixed.registry.select(where=lambda c: c.site.kind == "head" or c.site.layer == 1)
    figure = layers(attribution("x", np.ones((1, len(registry))), np.zeros(1), registry, ["a"], provenance={}))
    np.testing.assert_array_equal(np.isnan(values(figure)), [[False, True], [False, False], [False, True]])


def test_themes_are_explicit(rows: Attribution) -> None:
    import plotly.io

    before = plotly.io.templates.default
    light, dark = layers(rows), layers(rows, theme=DARK)
    assert light.layout.template.layout.paper_bgcolor == LIGHT.surface
    assert dark.layout.template.layout.paper_bgcolor == DARK.surface
    assert plotly.io.templates.default == before
