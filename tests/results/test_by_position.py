"""Attributions by position: labelled, predicted with, reduced to components, saved and loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import ablationlens as al
from ablationlens.results import AttributionByPosition, attribution, attribution_by_position, of_components
from tests.conftest import Host

EXAMPLES, POSITIONS = ["a", "b", "c"], 4


@pytest.fixture
def one(torch_gpt2: Host) -> AttributionByPosition:
    registry = torch_gpt2.adapter.registry(["head", "neuron"])
    rng = np.random.default_rng(0)
    shape = (3, POSITIONS, len(registry))
    return attribution_by_position(
        "patching",
        rng.standard_normal(shape),
        rng.standard_normal(3),
        registry,
        EXAMPLES,
        provenance={"direction": "noising", "list": [1, 2.5, None]},
        errors=rng.random(shape),
    )


def masks(one: AttributionByPosition, draws: int = 5) -> np.ndarray:
    return np.random.default_rng(1).random((draws, POSITIONS, len(one.registry)))


def test_weights_carry_positions_and_the_registrys_coordinates(one: AttributionByPosition) -> None:
    assert one.weights.dims == ("example", "position", "component")
    assert one.weights["position"].values.tolist() == [0, 1, 2, 3]
    assert one.weights["layer"].values.tolist() == [component.site.layer for component in one.registry]
    cell = one.weights.sel(example="b", position=2, component="L1.head 2")
    assert float(cell) == one.weights.values[1, 2, one.registry.column("L1.head 2")]
    assert one.components == one.registry.names
    assert one.positions == POSITIONS
    assert repr(one) == f"AttributionByPosition(patching: 3 examples x 4 positions x {len(one.registry)} components)"
    assert one.errors is not None
    assert one.errors.dims == one.weights.dims


def test_predictions_are_bias_plus_the_weights_of_what_is_kept(one: AttributionByPosition) -> None:
    given = masks(one)
    expected = [[one.bias.values[e] + (mask * one.weights.values[e]).sum() for e in range(3)] for mask in given]
    assert np.allclose(one.predict(given), expected)
    assert np.allclose(one.predict(torch.from_numpy(given).requires_grad_()), expected)
    spoiled = replace(one, weights=one.weights.copy(deep=True))
    spoiled.weights.values[0, 1, 3] = np.nan
    known = np.array(expected)
    known[:, 0] -= given[:, 1, 3] * one.weights.values[0, 1, 3]
    assert np.allclose(spoiled.predict(given), known)


def test_masks_of_components_act_on_every_position_alike(one: AttributionByPosition) -> None:
    given = masks(one)[:, 0]
    everywhere = np.repeat(given[:, None], POSITIONS, axis=1)
    assert np.allclose(one.predict(given), one.predict(everywhere))
    assert np.allclose(one.predict(given[0]), one.predict(everywhere[:1]))


def test_masks_of_another_shape_are_refused(one: AttributionByPosition) -> None:
    given = masks(one)
    for bad in (given[:, :3], given[..., :5], given[:, 0, :5], given[None]):
        with pytest.raises(al.InputError, match=re.escape(f"[draw, 4, {len(one.registry)}], or [draw, ")):
            one.predict(bad)
    with pytest.raises(al.InputError, match="masks are numbers"):
        one.predict("all of them")


def test_one_position_predicts_what_is_kept_everywhere_else(one: AttributionByPosition) -> None:
    given = masks(one)
    for position in range(POSITIONS):
        elsewhere_kept = np.ones_like(given)
        elsewhere_kept[:, position] = given[:, position]
        there = one.at(position)
        assert isinstance(there, al.Attribution)
        assert np.array_equal(there.weights.values, one.weights.values[:, position])
        assert np.allclose(there.predict(given[:, position]), one.predict(elsewhere_kept))
        assert there.provenance == {**one.provenance, "position": position}
        assert there.errors is not None
        assert one.errors is not None
        assert np.array_equal(there.errors.values, one.errors.values[:, position])
    assert np.array_equal(one.at(np.int64(2)).weights.values, one.at(2).weights.values)
    for bad in (-1, POSITIONS):
        with pytest.raises(al.InputError, match=f"positions go from 0 to 3, padding included; got {bad}"):
            one.at(bad)
    with pytest.raises(al.InputError, match="a position is an integer from 0 to 3"):
        one.at.__wrapped__(one, "last")  # type: ignore[attr-defined]


def test_the_total_predicts_components_kept_or_ablated_everywhere(one: AttributionByPosition) -> None:
    given = masks(one)[:, 0]
    total = one.total()
    assert np.allclose(total.weights.values, one.weights.values.sum(1))
    assert np.allclose(total.predict(given), one.predict(given))
    assert total.provenance == {**one.provenance, "position": "all, summed"}
    assert total.errors is not None
    assert one.errors is not None
    assert np.allclose(total.errors.values, one.errors.values.sum(1))
    spoiled = replace(one, weights=one.weights.copy(deep=True))
    spoiled.weights.values[0, 1, 3] = np.nan
    spoiled.weights.values[1, :, 2] = np.nan
    found = spoiled.total().weights.values
    assert np.allclose(found[0, 3], np.delete(one.weights.values[0, :, 3], 1).sum())
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 2]]
    assert np.isfinite(spoiled.at(0).bias.values).all()


def test_the_table_has_a_row_for_each_component_and_position(one: AttributionByPosition) -> None:
    table = one.table()
    assert table.columns.tolist() == [
        "component", "position", "layer", "module", "kind", "weight", "spread", "error",
    ]  # fmt: skip
    assert len(table) == POSITIONS * len(one.registry)
    sizes = table["weight"].abs().to_numpy()
    assert (sizes[:-1] >= sizes[1:]).all()
    assert one.errors is not None
    for row in table.iloc[[0, 1, 100, -1]].itertuples():
        component = one.registry[one.registry.column(str(row.component))]
        cell = one.weights.values[:, row.position, one.registry.column(component)]
        assert abs(row.weight - cell.mean()) < 1e-12
        assert abs(row.spread - cell.std()) < 1e-12
        errors = one.errors.values[:, row.position, one.registry.column(component)]
        assert abs(row.error - np.sqrt((errors**2).sum()) / 3) < 1e-12
        assert (row.layer, row.module, row.kind) == (component.site.layer, component.site.module, component.site.kind)
    assert "error" not in replace(one, errors=None).table().columns


def test_save_and_load_lose_nothing(one: AttributionByPosition, tmp_path: Path) -> None:
    path = one.save(tmp_path / "new" / "a.safetensors")
    back = AttributionByPosition.load(path)
    xr.testing.assert_identical(back.weights, one.weights)
    xr.testing.assert_identical(back.bias, one.bias)
    xr.testing.assert_identical(back.errors, one.errors)
    assert back.registry == one.registry
    assert (back.method, back.provenance) == (one.method, one.provenance)
    assert AttributionByPosition.load(replace(one, errors=None).save(path)).errors is None


def test_each_type_says_which_loads_the_file(one: AttributionByPosition, tmp_path: Path) -> None:
    by_position, by_component = one.save(tmp_path / "positions"), one.total().save(tmp_path / "components")
    with pytest.raises(al.StoreError, match=re.escape(f"al.AttributionByPosition.load({str(by_position)!r})")):
        al.Attribution.load(by_position)
    with pytest.raises(al.StoreError, match=re.escape(f"al.Attribution.load({str(by_component)!r})")):
        AttributionByPosition.load(by_component)
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(al.StoreError):
        AttributionByPosition.load(tmp_path / "other")


def test_shapes_that_do_not_fit_are_refused(one: AttributionByPosition) -> None:
    width = len(one.registry)
    for shape, bias, examples in [
        ((2, 4, width), 3, EXAMPLES),
        ((3, 4, 5), 3, EXAMPLES),
        ((3, 4, width), 2, EXAMPLES),
        ((3, width), 3, EXAMPLES),
    ]:
        with pytest.raises((al.InputError, TypeError)):
            attribution_by_position("x", np.zeros(shape), np.zeros(bias), one.registry, examples, provenance={})
    with pytest.raises((al.InputError, TypeError)):
        attribution("x", np.zeros((3, 4, width)), np.zeros(3), one.registry, EXAMPLES, provenance={})


def test_what_is_of_components_refuses_positions(one: AttributionByPosition) -> None:
    total = one.total()
    assert of_components(total) is total
    with pytest.raises(al.InputError, match=re.escape("al.plots.heads takes weights of components, and these are by")):
        of_components(one, "al.plots.heads")
    with pytest.raises(al.InputError, match=re.escape("attribution.total(), or attribution.at(position)")):
        of_components(one)
    with pytest.raises(al.InputError, match="got ndarray"):
        of_components(one.weights.values)
