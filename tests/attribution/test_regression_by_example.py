"""Regression on fractional masks, against coefficients that are known and against other people's solvers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, Ridge

import ablationlens as al
from ablationlens.attribution.regression_by_example import fit_by_example
from ablationlens.attribution.stochastic_masks import StochasticMasks
from ablationlens.spd import Decomposition, Stochastic
from tests.attribution import additive
from tests.conftest import HOSTS, Host, host_of
from tests.spd.small import decomposed

DRAWS = 32


@pytest.fixture(params=HOSTS)
def llama(request: pytest.FixtureRequest) -> Host:
    return host_of(request.param, "llama")


def written(host: Host, own: Decomposition) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, own.registry(host.adapter), output=additive.Written())


@pytest.mark.parametrize("sampling", ["continuous", "binomial"])
def test_the_coefficients_of_a_sum_are_found_exactly(llama: Host, sampling: Any) -> None:
    own = additive.decomposition(llama)
    true = additive.coefficients(llama, own).numpy()
    mode = Stochastic(own, sampling=sampling, seed=4)
    found = al.coar(written(llama, own), additive.data(), design=mode, draws=DRAWS, solver="least_squares")
    known = np.isfinite(found.weights.values)
    assert known.tolist() == [[True] * 4 + [False] * 2 + [True]] * 3
    # the two that hardly move are in the bias, with what importance 0.995 still lets them move as noise
    fifth = 0.005 * np.abs(true[:, 5]).max()
    assert np.abs(found.weights.values - true)[known].max() < 10 * fifth
    assert np.abs(found.bias.values - true[:, 4] - true[:, 5]).max() < 10 * fifth
    still = additive.decomposition(llama, (0.0, 0.3, 0.9, 0.5, 1.0))
    true = additive.coefficients(llama, still).numpy()
    mode = Stochastic(still, sampling=sampling, seed=4)
    found = al.coar(written(llama, still), additive.data(), design=mode, draws=DRAWS, solver="least_squares")
    known = np.isfinite(found.weights.values)
    size = np.abs(true).max()
    assert np.abs(found.weights.values - true)[known].max() < 1e-5 * size
    assert np.abs(found.bias.values - true[:, 4]).max() < 1e-5 * size
    hard = torch.tensor([[1.0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]])
    assert np.abs(found.predict(hard) - hard.numpy() @ true.T).max() < 1e-5 * size


def collected(model: al.MaskedModel, mode: Stochastic, data: al.Batch, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks [draw, example, component], means over positions, and outputs [draw, example], one call for each draw."""
    many = Stochastic(mode.decomposition, draws, sampling=mode.sampling, seed=mode.seed, remainder=mode.remainder)
    gates = many.gates(model.adapter, model.registry, data)
    outputs = torch.stack([model(one, data) for one in gates])
    real = data.attended
    if real is None:
        return gates.double().numpy(), outputs.double().numpy()
    assert bool(real.all())
    return gates.double().mean(2).numpy(), outputs.double().numpy()


@pytest.mark.parametrize(
    ("held", "remainder"), [("torch", "source"), ("torch", "kept"), ("transformer_lens", "source"), ("nnsight", "kept")]
)
def test_least_squares_is_numpys_on_masks_and_outputs_that_were_collected(held: str, remainder: Any) -> None:
    host = host_of(held, "gpt2")
    own, data = decomposed(host), host.data(3)
    model = al.MaskedModel(host.adapter, own.registry(host.adapter), output=al.Logit(3))
    mode = Stochastic(own, sampling="binomial", seed=2, remainder=remainder)
    found = al.coar(model, data, design=mode, draws=DRAWS, solver="least_squares", rows=4)
    x, y = collected(model, mode, data, DRAWS)
    moves = np.ptp(x, axis=0) > 0
    assert 0 < int((~moves).sum()) < moves.size / 2  # of some the importance is 1 at every position
    for example in range(3):
        columns = np.hstack([x[:, example, moves[example]], np.ones((DRAWS, 1))])
        *theirs, constant = np.linalg.lstsq(columns, y[:, example], rcond=None)[0]
        size = np.abs(theirs).max()
        assert np.abs(found.weights.values[example, moves[example]] - theirs).max() < 1e-3 * size
        assert abs(found.bias.values[example] - constant) < 1e-3 * size
    assert np.array_equal(np.isnan(found.weights.values), ~moves)
    assert found.provenance["unidentified_weights"] == int((~moves).sum())
    assert np.array_equal(found.unidentified, ~moves.any(0))
    remainders = [name.endswith("remainder") for name in model.registry.names]
    assert bool(moves[:, remainders].any()) == (remainder == "source")


def test_ridge_and_lasso_are_sklearns_at_their_penalty(small: Host) -> None:
    own, data = decomposed(small), small.data(3)
    model = al.MaskedModel(small.adapter, own.registry(small.adapter), output=al.Logit(1))
    mode = Stochastic(own, seed=1)
    x, y = collected(model, mode, data, DRAWS)
    moves = np.ptp(x, axis=0) > 0
    assert 0 < int((~moves).sum()) < moves.size / 2
    for solver, theirs in (("ridge", Ridge), ("lasso", Lasso)):
        found = fit_by_example(StochasticMasks(mode, model, data, DRAWS), y, solver)  # type: ignore[arg-type]
        attribution = al.coar(model, data, design=mode, draws=DRAWS, solver=solver)  # type: ignore[arg-type]
        assert np.abs(attribution.weights.values - found.weights).max() < 1e-4 * np.abs(found.weights).max()
        size = np.abs(found.weights).max()
        assert size > 0
        for example, fit in enumerate(found.fits):
            options = {"tol": 1e-10, "max_iter": 100_000} if theirs is Lasso else {}
            own_fit = theirs(alpha=float(fit.penalty[0]), **options).fit(x[:, example, moves[example]], y[:, example])
            assert np.abs(found.weights[example, moves[example]] - own_fit.coef_).max() < 1e-5 * size
            assert abs(found.bias[example] - own_fit.intercept_) < 1e-5 * size
            assert bool((found.weights[example, ~moves[example]] == 0).all())


def test_a_component_that_never_moves_is_0_with_ridge(llama: Host) -> None:
    own = additive.decomposition(llama)
    found = al.coar(written(llama, own), additive.data(), design=Stochastic(own), draws=DRAWS)
    assert np.array_equal(found.weights.values[:, 4:6], np.zeros((3, 2)))
    assert found.unidentified is not None
    assert found.unidentified.tolist() == [False] * 4 + [True] * 2 + [False]
    assert found.provenance["unidentified"] == 2
    assert found.provenance["unidentified_weights"] == 6
    assert float(np.abs(found.weights.values[:, :4]).min()) > 0


def test_an_example_in_which_nothing_moves_has_its_output_as_bias(llama: Host) -> None:
    own = additive.decomposition(llama, (1.0, 1.0, 1.0, 3.0))
    model, mode = written(llama, own), Stochastic(own, remainder="kept")
    for solver, weight in (("least_squares", np.nan), ("ridge", 0.0)):
        found = al.coar(model, additive.data(), design=mode, draws=20, solver=solver)  # type: ignore[arg-type]
        assert np.array_equal(found.weights.values, np.full((3, 5), weight), equal_nan=True)
        whole = model(model.mask(), additive.data()).numpy()
        assert np.abs(found.bias.values - whole).max() < 1e-5
        assert np.abs(found.predict(np.ones(5))[0] - whole).max() < 1e-5


def test_outputs_that_are_not_finite_are_left_out_for_their_example_alone(small: Host) -> None:
    own, data = decomposed(small), small.data(3)
    model = al.MaskedModel(small.adapter, own.registry(small.adapter), output=al.Logit(1))
    mode = Stochastic(own, seed=1)
    x, y = collected(model, mode, data, DRAWS)
    y[7, 1] = np.nan
    y[3:, 2] = np.inf
    masks = StochasticMasks(mode, model, data, DRAWS)
    found = fit_by_example(masks, y, "least_squares")
    assert found.quarantined == 1 + DRAWS - 3
    assert found.dropped == 1
    assert np.isnan(found.bias).tolist() == [False, False, True]
    assert np.isnan(found.weights[2]).all()
    rows = np.delete(np.arange(DRAWS), 7)
    with_constant = np.hstack([x[rows, 1], np.ones((DRAWS - 1, 1))])
    theirs = np.linalg.lstsq(with_constant, y[rows, 1], rcond=None)[0]
    known = np.isfinite(found.weights[1])
    assert np.abs(found.weights[1] - theirs[:-1])[known].max() < 1e-5 * np.abs(theirs).max()
    with pytest.raises(al.InputError, match="no example has enough finite outputs"):
        fit_by_example(masks, np.full_like(y, np.nan), "ridge")


def test_an_attribution_is_evaluated_saved_and_named(torch_gpt2: Host, tmp_path: Path) -> None:
    own, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    model = al.MaskedModel(torch_gpt2.adapter, own.registry(torch_gpt2.adapter), output=al.Logit(3))
    mode = Stochastic(own, sampling="binomial", seed=5)
    found = al.coar(model, data, design=mode, draws=DRAWS, store=tmp_path / "run", rows=7)
    assert found.provenance["masks"]["mode"] == mode.describe()
    assert found.provenance["design"] == "stochastic"
    assert found.provenance["seed"] == 5
    assert "alpha" not in found.provenance
    assert "base" not in found.provenance
    json.dumps(found.provenance, allow_nan=False)
    scores = al.evaluate(model, data, found, alphas=[0.2], draws=30)
    assert np.isfinite(scores.table()["pearson"]).all()
    loaded = al.Attribution.load(tmp_path / "run" / "attribution.safetensors")
    assert np.array_equal(loaded.weights.values, found.weights.values)


def test_a_run_that_was_stopped_goes_on_and_another_mode_is_refused(
    torch_gpt2: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("ablationlens.counterfactuals.record"), "PASSES_PER_BLOCK", 1)
    own, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    model = al.MaskedModel(torch_gpt2.adapter, own.registry(torch_gpt2.adapter), output=al.Logit(3))
    mode = Stochastic(own, seed=5)
    options: dict[str, Any] = {"design": mode, "draws": 20, "rows": 6}
    whole = al.coar(model, data, store=tmp_path / "whole", **options)
    al.coar(model, data, store=tmp_path / "half", **{**options, "draws": 10})
    blocks = len(list((tmp_path / "half" / "blocks").iterdir()))
    calls: list[int] = []
    masks = StochasticMasks.masks
    monkeypatch.setattr(StochasticMasks, "masks", lambda self, a, b: calls.append(b - a) or masks(self, a, b))
    longer = al.coar(model, data, store=tmp_path / "half", **options)
    assert blocks == 5
    assert sum(calls) == 10
    assert np.array_equal(longer.weights.values, whole.weights.values)
    for other in (Stochastic(own, seed=6), Stochastic(own, seed=5, sampling="binomial")):
        with pytest.raises(al.StoreError, match="belongs to another run"):
            al.coar(model, data, store=tmp_path / "half", **{**options, "design": other})
    with pytest.raises(al.StoreError, match="belongs to another run"):
        al.coar(model, data, store=tmp_path / "half", alpha=0.2, draws=20)
