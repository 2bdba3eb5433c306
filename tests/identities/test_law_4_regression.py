"""Law 4: on a function additive in the gates, every method agrees with the edited weights to 1e-5.

The additive functions are real models whose last module writes to the logits without anything non-linear after it:
the final norm of the transformers is skipped by a hook.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens import solvers
from ablationlens.attribution import gradient_x_parameter, integrated_gradients, path_gradient, shapley
from tests import models
from tests.conftest import HOSTS

CASES = [
    (holder, name, kind)
    for holder in HOSTS
    for name in ("gpt2", "llama")
    for kind in ("row", "neuron", "row_block", "rank_one")
] + [("torch", "convnet", kind) for kind in ("row", "column", "rank_one")]


def without_final_norm(model: Any, name: str) -> Any:
    """The norm before the unembedding hands its input on, by the user's own hook."""
    original = models.module_in(model)
    if name != "convnet":
        norm = original.transformer.ln_f if name == "gpt2" else original.model.norm
        norm.register_forward_hook(lambda module, args, out: args[0])
    return model


def output(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().flatten(1)[:, ::5].sum(1) / 5


def additive_case(holder: str, name: str, kind: str) -> tuple[al.MaskedModel, al.Batch, Any, torch.Tensor]:
    raw = models.MODELS[name]()
    model = without_final_norm(models.held_by(holder, raw), name)
    reference = without_final_norm(raw, name)
    inputs = models.inputs_of(name, 3)
    adapter = al.adapt(model, example=inputs if name == "convnet" else None)
    last = {"modules": ["classify"]} if name == "convnet" else {"layers": [1], "modules": ["mlp.out"]}
    match kind:
        case "rank_one":
            registry = adapter.registry("rank_one", svd=5, **last)
        case "neuron":
            registry = adapter.registry("neuron", layers=[1])
        case "row_block":
            registry = adapter.registry("row_block", size=7, **last)
        case _:
            registry = adapter.registry(kind, **last)
    return al.MaskedModel(adapter, registry, al.Zero(), output), al.batch(inputs), reference, inputs


def truth(model: al.MaskedModel, reference: Any, inputs: torch.Tensor) -> np.ndarray:
    """f(all) - f(all but j), by editing weights: [example, component]."""
    full = output(models.logits_of(reference, inputs))
    without = [output(models.logits_of(models.edited(reference, [component]), inputs)) for component in model.registry]
    return torch.stack([full - one for one in without], 1).numpy()


@pytest.mark.parametrize(("holder", "name", "kind"), CASES)
def test_regression_and_leave_one_out_agree_with_edited_weights(holder: str, name: str, kind: str) -> None:
    model, data, reference, inputs = additive_case(holder, name, kind)
    expected = truth(model, reference, inputs)
    components = len(model.registry)
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 1e-2
    loo = al.leave_one_out(model, data)
    assert np.abs(loo.weights.values - expected).max() < 1e-5 * scale
    coar = al.coar(model, data, alpha=0.3, draws=4 * components + 10, seed=1, solver="least_squares")
    assert np.abs(coar.weights.values - expected).max() < 1e-5 * scale
    exact = solvers.least_squares(  # N + 1 draws: all kept, and every one alone
        al.LeaveOneOut(components).masks(0, components + 1),
        model.sweep(al.LeaveOneOut(components), data).double().numpy(),
    )
    assert np.abs(exact.weights - expected).max() < 1e-5 * scale
    full = output(models.logits_of(reference, inputs)).numpy()
    for bias in (loo.bias.values, coar.bias.values, exact.bias):
        assert np.abs(bias - (full - expected.sum(1))).max() < 1e-5 * np.abs(expected).sum(1).max()
    everything_off = output(models.logits_of(models.edited(reference, list(model.registry)), inputs)).numpy()
    assert np.abs(coar.predict(np.zeros(components))[0] - everything_off).max() < 1e-5 * np.abs(expected).sum(1).max()


@pytest.mark.parametrize(("holder", "name", "kind"), CASES)
def test_gradients_and_shapley_values_agree_with_edited_weights(holder: str, name: str, kind: str) -> None:
    """One cycle of paths, one step or one order is as good as many: the gradient is the same everywhere."""
    model, data, reference, inputs = additive_case(holder, name, kind)
    expected = truth(model, reference, inputs)
    components = len(model.registry)
    found = {
        "gradient x parameter": gradient_x_parameter(model, data),
        "integrated gradients": integrated_gradients(model, data, steps=1),
        "path gradient, one cycle": path_gradient(model, data, alpha=0.3, draws=2),
        "path gradient": path_gradient(model, data, alpha=0.1, draws=40),
        "path gradient, one gate": path_gradient(model, data, alpha=0.3, draws=2 * components, rho=1e-6),
        "Shapley, one order": shapley(model, data, samples=1),
    }
    if components <= 10:
        found["Shapley, every mask"] = shapley(model, data, method="exact")
    scale = max(1.0, np.abs(expected).max())
    full = output(models.logits_of(reference, inputs)).numpy()
    none = full - expected.sum(1)
    for method, attribution in found.items():
        assert np.abs(attribution.weights.values - expected).max() < 1e-5 * scale, method
        assert np.abs(attribution.bias.values - none).max() < 1e-5 * np.abs(expected).sum(1).max(), method
    errors = found["path gradient"].errors
    assert errors is not None
    assert np.nanmax(errors.values) < 1e-3 * scale  # what is the same everywhere has no spread but single precision


def test_on_a_function_that_is_not_additive_they_differ() -> None:
    """What makes the agreement above mean something."""
    reference = models.gpt2()
    adapter = al.adapt(models.gpt2())
    model = al.MaskedModel(adapter, adapter.registry("head"), al.Zero(), output)
    data = al.batch(models.inputs_of("gpt2", 3))
    loo = al.leave_one_out(model, data)
    others = (
        al.coar(model, data, alpha=0.5, draws=100, solver="least_squares"),
        gradient_x_parameter(model, data),
        integrated_gradients(model, data),
        path_gradient(model, data, alpha=0.5, draws=100),
        shapley(model, data, method="exact"),
    )
    assert np.abs(loo.weights.values - truth(model, reference, models.inputs_of("gpt2", 3))).max() < 1e-4
    for one in others:
        assert np.abs(loo.weights.values - one.weights.values).max() > 1e-2, one.method
