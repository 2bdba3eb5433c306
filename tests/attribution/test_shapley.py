"""Shapley values against captum on gate functions written by hand."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ablationlens as al
from ablationlens.attribution import shapley
from ablationlens.attribution.shapley import exact_values
from ablationlens.randomness import permutation
from tests.attribution.gates import gated_heads, gated_mlp, last_logit, spread
from tests.conftest import HOSTS, Host, host_of
from tests.passes import before_each_pass

METHODS = ("sampling", "kernel", "exact")
FIVE = (0, 7, 16, 20, 30)
"""Rows of the perceptron that the small game is played with."""


def small_game(small: Host, output: Any = last_logit) -> tuple[al.MaskedModel, al.Batch, Any]:
    """Five rows of the perceptron, and the same by hand: the others are always kept."""
    rows, inputs = small.registry("row"), small.inputs(3)
    chosen = {rows.names[column] for column in FIVE}
    registry = rows.select(where=lambda component: component.name in chosen)
    whole = gated_mlp(small.reference, inputs, last_logit)

    def gates(own: Tensor) -> Tensor:
        every = torch.ones(len(own), 33)
        every[:, FIVE] = own
        return whole(every)

    return al.MaskedModel(small.adapter, registry, output=output), al.batch(inputs), gates


def test_exact_values_are_captums(small: Host) -> None:
    model, data, gates = small_game(small)
    with torch.no_grad():
        theirs = captum.attr.ShapleyValues(gates).attribute(torch.ones(3, 5), perturbations_per_eval=5).numpy()
    ours = shapley(model, data, method="exact")
    assert np.abs(ours.weights.values - theirs).max() < 1e-5
    assert np.abs(theirs).max() > 0.1
    assert np.abs(ours.provenance["completeness_gap"]).max() < 1e-6


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
def test_on_heads_of_every_host_samples_are_captums(holder: str, name: str) -> None:
    """Captum itself with the same orders, or with the same seed, on the plain model."""
    host = host_of(holder, name)
    inputs, registry = host.inputs(2), host.registry("head")
    model, data = al.MaskedModel(host.adapter, registry, output=spread), al.batch(inputs)
    gates, ones = gated_heads(host.reference, inputs, spread), torch.ones(2, 8)
    theirs = captum.attr.ShapleyValueSampling(gates)
    theirs.permutation_generator = lambda count, draws: (
        permutation(4, "shapley", draw, count).tolist() for draw in range(draws)
    )
    sampled = shapley(model, data, samples=6, seed=4)
    assert np.abs(sampled.weights.values - theirs.attribute(ones, n_samples=6).numpy()).max() < 1e-5
    kernel = shapley(model, data, method="kernel", samples=40, seed=4)
    for example in range(2):
        one = gated_heads(host.reference, inputs[example : example + 1], spread)
        torch.manual_seed(4)
        alone = captum.attr.KernelShap(one).attribute(torch.ones(1, 8), n_samples=40, perturbations_per_eval=8)
        assert np.abs(kernel.weights.values[example] - alone[0].numpy()).max() < 1e-3
    assert np.abs(kernel.weights.values - sampled.weights.values).max() > 1e-3


def test_samples_approach_the_exact_values_as_their_errors_say(small: Host) -> None:
    model, data, _ = small_game(small)
    exact = shapley(model, data, method="exact").weights.values
    runs = [shapley(model, data, samples=16, seed=seed) for seed in range(16)]
    errors = np.stack([run.errors.values for run in runs])  # type: ignore[union-attr]
    off = np.stack([run.weights.values for run in runs]) - exact
    assert 0.7 < np.sqrt((off**2).mean()) / np.sqrt((errors**2).mean()) < 1.4
    assert (np.abs(off) <= 1.96 * errors + 1e-5).mean() > 0.85
    assert (np.abs(off.mean(0)) <= 4 * np.sqrt((errors**2).mean(0) / 16) + 1e-5).all()
    assert max(np.abs(run.provenance["completeness_gap"]).max() for run in runs) < 1e-5
    kernel = shapley(model, data, method="kernel", samples=400)
    assert np.abs(kernel.weights.values - exact).max() < 0.15 * np.abs(exact).max()
    assert np.abs(kernel.provenance["completeness_gap"]).max() < 1e-3


@given(
    outputs=st.integers(1, 6).flatmap(
        lambda count: st.lists(st.floats(-5, 5), min_size=2**count, max_size=2**count).map(np.array)
    )
)
@settings(max_examples=60, deadline=None)
def test_the_axioms_hold(outputs: np.ndarray) -> None:
    """Efficiency, symmetry, the null player and linearity, of any game."""
    count = len(outputs).bit_length() - 1
    values = exact_values(outputs[:, None])[0]
    assert abs(values.sum() - (outputs[0] - outputs[-1])) < 1e-9
    masks = np.arange(len(outputs))
    null = exact_values(outputs[masks | 1][:, None])[0]  # component 0 makes no difference
    assert abs(null[0]) < 1e-12
    if count > 1:
        swapped = masks & ~3 | (masks & 1) << 1 | (masks & 2) >> 1
        both = exact_values((outputs + outputs[swapped])[:, None])[0]
        assert abs(both[0] - both[1]) < 1e-9
        assert np.abs(both - (values + exact_values(outputs[swapped][:, None])[0])).max() < 1e-9


def test_it_costs_what_it_says(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, _ = small_game(small)
    rows: list[int] = []
    before_each_pass(small.adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    for options, passes in (
        ({"samples": 7}, 7 * 5 + 2),
        ({"method": "kernel", "samples": 20}, 20 + 2),
        ({"method": "exact"}, 32),
    ):
        rows.clear()
        shapley(model, data, **options)  # type: ignore[arg-type]
        assert sum(rows) == passes * 3
    rows.clear()
    shapley(model, data, method="kernel", samples=20, rows=64)
    assert len(rows) == 2  # the two ends, and all masks of all examples in one pass


@pytest.mark.parametrize("method", METHODS)
def test_packing_changes_nothing(small: Host, method: Any) -> None:
    model, data, _ = small_game(small)
    samples = {"sampling": 4, "kernel": 20, "exact": None}[method]
    whole = shapley(model, data, method=method, samples=samples).weights.values
    for rows in (1, 2, 5):
        again = shapley(model, data, method=method, samples=samples, rows=rows).weights.values
        assert np.abs(again - whole).max() < (1e-4 if method == "kernel" else 1e-5)


def test_a_seed_decides_and_leaves_the_users_random_numbers_alone(small: Host) -> None:
    model, data, _ = small_game(small)
    for method in ("sampling", "kernel"):
        torch.manual_seed(11)
        expected = torch.randn(3)
        torch.manual_seed(11)
        one = shapley(model, data, method=method, samples=9, seed=2)  # type: ignore[arg-type]
        assert torch.equal(torch.randn(3), expected)
        same = shapley(model, data, method=method, samples=9, seed=2)  # type: ignore[arg-type]
        other = shapley(model, data, method=method, samples=9, seed=3)  # type: ignore[arg-type]
        assert np.array_equal(one.weights.values, same.weights.values)
        assert np.abs(one.weights.values - other.weights.values).max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_an_example_that_is_not_finite_has_no_values(
    small: Host, caplog: pytest.LogCaptureFixture, method: Any
) -> None:
    clean, data, _ = small_game(small)
    first = data.inputs["input"][:, 0]

    def broken(logits: Tensor, batch: al.Batch) -> Tensor:
        return torch.where(batch.inputs["input"][:, 0] == first[1], torch.nan, last_logit(logits))

    model, _, _ = small_game(small, broken)
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        found = shapley(model, data, method=method)
    assert "not finite" in caplog.text
    assert found.provenance["quarantined_outputs"] > 0
    assert np.isnan(found.weights.values[1]).all()
    same = shapley(clean, data, method=method)
    assert np.abs(found.weights.values[[0, 2]] - same.weights.values[[0, 2]]).max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_it_is_labelled_and_kept(small: Host, method: Any, tmp_path: Path) -> None:
    model, data, _ = small_game(small)
    found = shapley(model, data, method=method)
    assert found.method == "Shapley"
    assert found.components == model.registry.names
    json.dumps(found.provenance)
    for key in ("estimator", "full_output", "empty_output", "completeness_gap", "model", "output", "data", "packages"):
        assert key in found.provenance
    full, empty = found.provenance["full_output"], found.provenance["empty_output"]
    assert np.abs(found.predict(np.ones(5))[0] - full).max() < 1e-5
    assert np.abs(found.predict(np.zeros(5))[0] - empty).max() < 1e-3
    loaded = al.Attribution.load(found.save(tmp_path / "kept.safetensors"))
    assert np.array_equal(loaded.weights.values, found.weights.values)
    assert (loaded.errors is not None) == (method == "sampling")
    assert shapley(model, data, samples=1).errors is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "permutation"}, "sampling.*kernel.*exact"),
        ({"method": "exact"}, r"33 components take 2\*\*33 forward passes.*up to 20"),
        ({"method": "exact", "samples": 5}, "takes every mask"),
        ({"samples": 0}, "number of orders, an integer from 1"),
        ({"samples": True}, "orders"),
        ({"method": "kernel", "samples": 34}, "an integer from 35"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    small: Host, monkeypatch: pytest.MonkeyPatch, options: dict, match: str
) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), output=last_logit)
    before_each_pass(small.adapter, monkeypatch, _refuse)
    with pytest.raises((al.InputError, TypeError), match=match):
        shapley(model, small.data(2), **options)


def _refuse(_: al.Batch) -> None:
    raise AssertionError("the model was run")


def test_too_many_components_are_refused_with_their_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of("torch", "gpt2")
    monkeypatch.setattr(sys.modules["ablationlens.attribution.shapley"], "MOST_COMPONENTS", 500)
    before_each_pass(host.adapter, monkeypatch, _refuse)
    model = al.MaskedModel(host.adapter, host.registry("row"), output=spread)
    with pytest.raises(al.InputError, match=r"576 components take 18,432 forward passes of every example.*path_grad"):
        shapley(model, host.data(2))
    with pytest.raises(al.InputError, match="take 9,216 forward passes.*row_block"):
        shapley(model, host.data(2), method="kernel")


def test_without_captum_it_says_what_to_install(small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    model, data, _ = small_game(small)
    assert np.isfinite(shapley(model, data, method="exact").weights.values).all()  # does without
    for method in ("sampling", "kernel"):
        with pytest.raises(al.MissingExtraError, match=r"pip install 'ablationlens\[captum\]'"):
            shapley(model, data, method=method)  # type: ignore[arg-type]


def test_the_users_model_is_left_as_it_was() -> None:
    from tests import models
    from tests.identities import test_law_7_the_users_model as law_7

    held = law_7.lived_in("torch", "gpt2")
    adapter = al.adapt(held)
    before = law_7.state(held)
    for method in METHODS:
        shapley(
            al.MaskedModel(adapter, adapter.registry("head"), output=spread),
            al.batch(models.inputs_of("gpt2", 2)),
            method=method,
            samples=None if method == "exact" else 12,
        )
    assert law_7.differences(before, law_7.state(held)) == []
