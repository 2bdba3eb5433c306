"""Attributions of components: labelled, predicted with, saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import ablationlens as al
from ablationlens.results import attribution
from tests.conftest import Host


@pytest.fixture
def one(torch_gpt2: Host) -> al.Attribution:
    registry = torch_gpt2.adapter.registry(["head", "neuron"])
    rng = np.random.default_rng(0)
    weights, bias = rng.standard_normal((3, len(registry))), rng.standard_normal(3)
    flags = rng.random(len(registry)) < 0.1
    provenance = {"masks": {"design": "bernoulli"}, "list": [1, 2.5, None]}
    return attribution("COAR", weights, bias, registry, ["a", "b", "c"], provenance=provenance, unidentified=flags)


def test_weights_carry_the_registrys_coordinates(one: al.Attribution) -> None:
    for coordinate in ("layer", "module", "kind", "index"):
        expected = [
            component.index if coordinate == "index" else getattr(component.site, coordinate)
            for component in one.registry
        ]
        assert one.weights[coordinate].values.tolist() == expected
    means = one.weights.groupby("layer").mean()
    heads_and_neurons_of_1 = [c for c, component in enumerate(one.registry) if component.site.layer == 1]
    assert np.allclose(means.sel(layer=1).values, one.weights.values[:, heads_and_neurons_of_1].mean(1))
    assert (
        float(one.weights.sel(example="b", component="L1.head 2"))
        == one.weights.values[1, one.registry.column("L1.head 2")]
    )
    assert one.components == one.registry.names


def test_predictions_are_bias_plus_kept_weights(one: al.Attribution) -> None:
    masks = np.random.default_rng(1).random((4, len(one.registry))) < 0.5
    expected = [
        [one.bias.values[e] + sum(one.weights.values[e, j] for j in np.flatnonzero(mask)) for e in range(3)]
        for mask in masks
    ]
    for given in (masks, masks.astype(np.float32), torch.from_numpy(masks)):
        assert np.allclose(one.predict(given), expected)
    assert np.allclose(one.predict(masks[0]), expected[0])
    with pytest.raises(al.InputError, match=str(len(one.registry))):
        one.predict(masks[:, :5])
    spoiled = attribution("x", one.weights.values.copy(), one.bias.values, one.registry, ["a", "b", "c"], provenance={})
    spoiled.weights.values[0, 3] = np.nan
    assert np.isfinite(spoiled.predict(masks)).all()


def test_the_table_is_sorted_by_size(one: al.Attribution) -> None:
    table = one.table()
    assert table.columns.tolist() == ["component", "layer", "module", "kind", "weight", "spread"]
    means = one.weights.values.mean(0)
    assert table["component"].tolist() == [one.registry.names[j] for j in np.argsort(-np.abs(means), kind="stable")]
    column = one.registry.column(table["component"][0])
    assert abs(table["weight"][0] - means[column]) < 1e-12
    assert abs(table["spread"][0] - one.weights.values[:, column].std()) < 1e-12
    assert table.index.tolist() == list(range(len(one.registry)))


def test_save_and_load_lose_nothing(one: al.Attribution, tmp_path: Path) -> None:
    path = one.save(tmp_path / "new" / "folder" / "a.safetensors")
    back = al.Attribution.load(path)
    xr.testing.assert_identical(back.weights, one.weights)
    xr.testing.assert_identical(back.bias, one.bias)
    assert back.registry == one.registry
    assert back.method == one.method
    assert back.provenance == one.provenance
    assert np.array_equal(back.unidentified, one.unidentified)  # type: ignore[arg-type]
    assert not list(path.parent.glob("*.partial"))
    one.save(path)  # again, over itself


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(one: al.Attribution, tmp_path: Path, share: float) -> None:
    path = one.save(tmp_path / "a.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(al.StoreError, match="damaged"):
        al.Attribution.load(path)


def test_files_of_something_else_are_refused(one: al.Attribution, tmp_path: Path) -> None:
    import pickle

    from safetensors.numpy import save_file

    with pytest.raises(al.StoreError, match="there is no file"):
        al.Attribution.load(tmp_path / "none")
    save_file({"weights": np.zeros((1, 1))}, tmp_path / "other")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"weights": 1}))
    header = {
        "format": "1",
        "method": "COAR",
        "registry": one.registry.to_json(),
        "provenance": "{}",
        "examples": json.dumps(["a"]),
    }
    arrays = {"weights": np.zeros((1, 3)), "bias": np.zeros(1)}  # not the registry's width
    save_file(arrays, tmp_path / "narrow", metadata=header)
    save_file(arrays, tmp_path / "garbled", metadata={**header, "registry": "{}"})
    save_file({"weights": np.zeros((1, 3))}, tmp_path / "no_bias", metadata=header)
    for name in ("other", "pickle", "narrow", "garbled", "no_bias"):
        with pytest.raises(al.StoreError):
            al.Attribution.load(tmp_path / name)


def test_shapes_that_do_not_fit_are_refused(one: al.Attribution) -> None:
    for weights, bias, examples in [
        (np.zeros((2, len(one.registry))), np.zeros(3), ["a", "b", "c"]),
        (np.zeros((3, 5)), np.zeros(3), ["a", "b", "c"]),
        (np.zeros((3, len(one.registry))), np.zeros(2), ["a", "b"]),
    ]:
        with pytest.raises((al.InputError, TypeError)):
            attribution("x", weights, bias, one.registry, examples, provenance={})


def test_masks_of_a_graph_and_of_words(one: al.Attribution) -> None:
    ones = torch.ones(2, len(one.registry), requires_grad=True)
    assert np.array_equal(one.predict(ones), one.predict(np.ones((2, len(one.registry)))))
    with pytest.raises(al.InputError, match="masks are numbers"):
        one.predict("all of them")
