"""Law 5: on a function that is multilinear in the gates, the path gradient converges to the least-squares coefficients.

The multilinear functions are real models: rows of the last MLP, whose activation function is the identity by a hook of
the user's own, in front of an unembedding whose norm is skipped by another. Rows of ``mlp.in`` and ``mlp.out`` multiply
one another; in a gated MLP, rows of ``mlp.gate`` are a third factor. The truth is scikit-learn's: a regression on every
mask, each with its probability as a weight, of outputs that a gate function written by hand gives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

import ablationlens as al
from ablationlens.attribution import integrated_gradients, path_gradient, shapley
from ablationlens.attribution.path_sums import PathSums
from ablationlens.counterfactuals.gradients import gradients
from tests import models
from tests.conftest import HOSTS
from tests.identities.test_law_4_regression import output, without_final_norm

EXAMPLES = 3
SIZE = 16
"""Rows of a block: 10 components in GPT-2, 5 or 8 in Llama, few enough to list all masks."""
PAIRS = ("mlp.in", "mlp.out")
TRIPLES = ("mlp.gate", "mlp.in", "mlp.out")
CASES = [(holder, name) for holder in HOSTS for name in ("gpt2", "llama")]


def multilinear(model: Any, name: str) -> Any:
    """A model whose last MLP has no activation function, and whose final norm is skipped."""
    original = models.module_in(without_final_norm(model, name))
    last = original.transformer.h[1].mlp.act if name == "gpt2" else original.model.layers[1].mlp.act_fn
    last.register_forward_hook(lambda module, args, out: args[0])
    return model


@cache
def held(holder: str, name: str, modules: tuple[str, ...] = PAIRS) -> tuple[al.MaskedModel, al.Batch]:
    adapter = al.adapt(multilinear(models.held_by(holder, models.MODELS[name]()), name))
    registry = adapter.registry("row_block", layers=[1], modules=list(modules), size=SIZE)
    return al.MaskedModel(adapter, registry, al.Zero(), output), al.batch(models.inputs_of(name, EXAMPLES))


@cache
def everything(name: str, modules: tuple[str, ...] = PAIRS) -> tuple[np.ndarray, np.ndarray]:
    """All masks [mask, component], and the output of each example under each of them: by hooks on the plain model."""
    model = multilinear(models.MODELS[name](), name)
    inputs, components = models.inputs_of(name, EXAMPLES), len(held("torch", name, modules)[0].registry)
    masks = (np.arange(2**components)[:, None] >> np.arange(components)) & 1 == 0
    gates, start = torch.from_numpy(masks).float(), 0
    for module_name in [one for one in ("mlp.gate", "mlp.in", "mlp.out") if one in modules]:
        module, _ = models.module_of(model, 1, module_name)
        weight, bias = models.part(model, 1, module_name)
        blocks = weight.shape[0] // SIZE
        own = gates[:, start : start + blocks].repeat_interleave(SIZE, 1).repeat_interleave(EXAMPLES, 0)[:, None]
        module.register_forward_hook(_scaled(own, torch.zeros(()) if bias is None else bias))
        start += blocks
    assert start == components
    outputs = output(models.logits_of(model, inputs.repeat(len(masks), 1)))
    return masks.astype(float), outputs.view(len(masks), EXAMPLES).numpy()


def _scaled(gates: Tensor, bias: Tensor) -> Callable[..., Tensor]:
    return lambda module, args, out: (out - bias) * gates + bias


def least_squares(name: str, alpha: float, modules: tuple[str, ...] = PAIRS) -> np.ndarray:
    """Coefficients of scikit-learn's regression on all masks, weighted by their probability: [example, component]."""
    masks, outputs = everything(name, modules)
    probability = np.prod(np.where(masks == 1, 1 - alpha, alpha), axis=1)
    return LinearRegression().fit(masks, outputs, sample_weight=probability).coef_


@pytest.mark.parametrize(("holder", "name"), CASES)
def test_the_gates_by_hand_are_those_of_the_host(holder: str, name: str) -> None:
    """And the function is no sum: what is tested below is more than law 4."""
    model, data = held(holder, name)
    masks, outputs = everything(name)
    assert np.abs(model.sweep(torch.from_numpy(masks), data).numpy() - outputs).max() < 1e-5 * np.abs(outputs).max()
    assert np.abs(least_squares(name, 0.1) - least_squares(name, 0.5)).max() > 0.1


@pytest.mark.parametrize("rho", [None, 0.3, 1e-3], ids=["default", "alpha", "one_gate"])
@pytest.mark.parametrize(("holder", "name"), CASES)
def test_path_gradient_finds_the_least_squares_coefficients(holder: str, name: str, rho: float | None) -> None:
    """Within its own standard errors, for every rho: one gate at a time is plain Bernoulli masks for the others."""
    model, data = held(holder, name)
    truth = least_squares(name, 0.3)
    found = path_gradient(model, data, alpha=0.3, draws=1200, rho=rho, seed=5)
    errors = found.errors.values  # type: ignore[union-attr]
    off = np.abs(found.weights.values - truth)
    assert (off <= 4.5 * errors + 1e-4).all()
    assert np.sqrt((off**2).mean()) < 0.1 * np.sqrt((truth**2).mean())
    assert errors.mean() < 0.1 * np.sqrt((truth**2).mean())


def test_three_factors_too() -> None:
    """One gate at a time, so that the others are independent: otherwise they are so up to a term of 1 / components."""
    model, data = held("torch", "llama", TRIPLES)
    truth = least_squares("llama", 0.3, TRIPLES)
    found = path_gradient(model, data, alpha=0.3, draws=3000, rho=1e-3)
    size = np.sqrt((truth**2).mean())
    assert np.sqrt(((found.weights.values - truth) ** 2).mean()) < 0.06 * size
    default = path_gradient(model, data, alpha=0.3, draws=3000)
    assert np.sqrt(((default.weights.values - truth) ** 2).mean()) < 0.06 * size


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_errors_fall_with_the_root_of_the_draws_and_are_known(name: str) -> None:
    """The means over paths are unbiased, with errors of the size that they say; shrinkage makes them smaller.

    The standard errors of the weights are right on the whole and not for every gate: gates that share a shrinkage
    weight share their noise.
    """
    model, data = held("torch", name)
    truth = least_squares(name, 0.3)
    distance: dict[int, float] = {}
    for draws in (64, 1024):
        sums = [PathSums.empty(EXAMPLES, len(model.registry)) for _ in range(8)]
        for seed, one in enumerate(sums):
            gradients(model, data, al.Paths(len(model.registry), 0.3, draws, seed), one.add)
        off = np.stack([one.means() for one in sums]) - truth
        errors = np.sqrt(np.stack([one.variances() for one in sums]))
        assert 0.88 < (np.abs(off) <= 1.96 * errors).mean() < 0.995
        bias = off.mean(0) / (off.std(0, ddof=1) / np.sqrt(len(sums)))
        assert np.sqrt((bias**2).mean()) < 2.5  # a root mean square of 1.2 is expected of t with 7 degrees
        estimates = [one.estimate(model.registry) for one in sums]
        shrunk = np.stack([one.weights for one in estimates]) - truth
        assert (np.abs(shrunk) <= 1.96 * np.stack([one.errors for one in estimates])).mean() > 0.85
        distance[draws] = float(np.sqrt((shrunk**2).mean()))
        assert distance[draws] < 1.1 * np.sqrt((off**2).mean())
    assert 2.5 < distance[64] / distance[1024] < 6.5  # 4 for 16 times as many


@pytest.mark.parametrize(("holder", "name"), CASES)
def test_integrated_gradients_are_shapley_values(holder: str, name: str) -> None:
    """Of a multilinear function (Owen, 1972): its integral along the diagonal is a polynomial, so few steps do."""
    model, data = held(holder, name)
    ours = integrated_gradients(model, data, steps=2)
    exact = shapley(model, data, method="exact")
    assert np.abs(ours.weights.values - exact.weights.values).max() < 1e-5 * np.abs(exact.weights.values).max()
    assert np.abs(ours.provenance["completeness_gap"]).max() < 1e-4
