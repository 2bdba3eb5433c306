"""Law 7: after any call, and after an exception in one, the user's model is what it was before `adapt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnsight
import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from tests import models

HOSTS = [
    ("torch", "gpt2"),
    ("torch", "llama"),
    ("torch", "convnet"),
    ("transformer_lens", "gpt2"),
    ("transformer_lens", "llama"),
    ("nnsight", "gpt2"),
    ("nnsight", "llama"),
    ("nnsight", "convnet"),
]
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


class BrokenError(Exception):
    """What a test raises inside a run."""


def state(held: Any) -> dict[str, Any]:
    """Everything that section 2 of the design promises to leave alone."""
    model = held._module if isinstance(held, nnsight.NNsight) else held
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for kind in (*HOOKS, "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_always_called"):
            found[f"{name}{kind}"] = [(key, id(value)) for key, value in getattr(module, kind).items()]
        for kind in ("fwd_hooks", "bwd_hooks"):
            found[f"{name}.{kind}"] = [id(hook) for hook in getattr(module, kind, [])]
        found[f"{name}.training"] = module.training
        found[f"{name}.forward"] = module.__dict__.get("forward")
    for name, parameter in model.named_parameters():
        found[f"{name}.requires_grad"] = parameter.requires_grad
        found[f"{name}.identity"] = id(parameter)
        found[f"{name}.values"] = parameter.detach().clone()
        found[f"{name}.grad"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in model.named_buffers():
        found[f"{name}.buffer"] = buffer.clone()
    original = models.module_in(model)
    config = getattr(original, "config", None)
    found["attention"] = getattr(config, "_attn_implementation", None)
    found["use_cache"] = getattr(config, "use_cache", None)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a is b or a == b)

    return [
        key for key in {*before, *after} if key not in before or key not in after or not same(before[key], after[key])
    ]


def lived_in(holder: str, name: str) -> Any:
    """A model as a user may have left it: mixed flags, some frozen parameters, gradients, hooks of their own."""
    held = models.held_by(holder, models.MODELS[name]())
    model = held._module if holder == "nnsight" else held
    inputs = models.inputs_of(name)
    model(inputs)  # what TransformerLens installs on its first forward is its own
    modules = [module for module in model.modules() if not list(module.children())]
    model.train()
    for number, module in enumerate(modules):
        module.training = number % 3 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 4 != 1)
        if number % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    modules[0].register_forward_hook(lambda m, a, out: None)
    modules[1].register_forward_pre_hook(lambda m, a: None)
    if holder == "transformer_lens":
        model.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value)
    return held


@pytest.fixture(params=HOSTS, ids=lambda p: f"{p[0]}-{p[1]}")
def used(request: pytest.FixtureRequest) -> tuple[Any, str]:
    return lived_in(*request.param), request.param[1]


def adapted(model: Any, name: str) -> al.Adapter:
    return al.adapt(model, example=models.inputs_of(name, 1) if name == "convnet" else None)


def test_the_snapshot_sees_a_change(used: tuple[Any, str]) -> None:
    """A test of the test."""
    model, _ = used
    before = state(model)
    assert differences(before, state(model)) == []
    model = model._module if isinstance(model, nnsight.NNsight) else model
    next(model.parameters()).requires_grad_(False)
    list(model.modules())[3].register_forward_hook(lambda *a: None)
    list(model.modules())[2].training ^= True
    assert len(differences(before, state(model))) == 3


def test_adapt_leaves_nothing(used: tuple[Any, str]) -> None:
    model, name = used
    before = state(model)
    adapter = adapted(model, name)
    adapter.registry("row")
    adapter.describe()
    assert differences(before, state(model)) == []


def runs(model: al.MaskedModel, data: al.Batch) -> dict[str, Callable[[], Any]]:
    width = len(model.registry)
    design = al.Bernoulli(width, 0.3, 3)
    return {
        "call": lambda: model(torch.zeros(1, width), data),
        "logits": lambda: model.logits(torch.zeros(1, width), data),
        "gradient": lambda: model(torch.ones(1, width, requires_grad=True), data).sum().backward(),
        "sweep": lambda: model.sweep(design, data),
        "sweep_gradient": lambda: model.sweep_gradient(design, data),
        "leave_one_out": lambda: al.leave_one_out(
            al.MaskedModel(
                model.adapter, model.registry.select(where=lambda c: c.index == 0), model.ablation, model.output
            ),
            data,
        ),
    }


RUNS = ["call", "logits", "gradient", "sweep", "sweep_gradient", "leave_one_out"]


@pytest.mark.parametrize("run", RUNS)
def test_a_run_leaves_nothing(used: tuple[Any, str], run: str) -> None:
    model, name = used
    data = al.batch(models.inputs_of(name))
    before = state(model)
    adapter = adapted(model, name)
    registry = adapter.registry(["filter", "row"] if name == "convnet" else "row")
    for ablation in (al.Zero(), al.Resample(), al.Mean(data)):
        masked = al.MaskedModel(adapter, registry, ablation, lambda logits: logits.flatten(1).sum(1))
        runs(masked, data)[run]()
    assert differences(before, state(model)) == []


@pytest.mark.parametrize("run", [run for run in RUNS if run != "logits"])  # which never calls the output
def test_an_output_that_raises_leaves_nothing(used: tuple[Any, str], run: str) -> None:
    model, name = used
    before = state(model)
    adapter = adapted(model, name)

    def output(logits: Tensor) -> Tensor:
        raise BrokenError

    masked = al.MaskedModel(adapter, adapter.registry("row"), al.Zero(), output)
    data = al.batch(models.inputs_of(name))
    with pytest.raises(BrokenError):
        runs(masked, data)[run]()
    assert differences(before, state(model)) == []


def module_to_break(model: Any, name: str) -> nn.Module:
    """One in the middle of the forward pass."""
    original = models.module_in(model)
    return original.second if name == "convnet" else models.module_of(original, 1, "mlp.out")[0]


@pytest.mark.parametrize("run", RUNS)
def test_a_model_that_raises_leaves_nothing(used: tuple[Any, str], run: str) -> None:
    model, name = used
    broken = {"now": False}

    def break_down(*args: Any) -> None:
        if broken["now"]:
            raise BrokenError

    module_to_break(model, name).register_forward_hook(break_down)
    before = state(model)
    adapter = adapted(model, name)
    data = al.batch(models.inputs_of(name))
    masked = al.MaskedModel(adapter, adapter.registry("row"), al.Mean(data), lambda logits: logits.flatten(1).sum(1))
    broken["now"] = True
    with pytest.raises(BrokenError):
        runs(masked, data)[run]()
    assert differences(before, state(model)) == []
    broken["now"] = False
    runs(masked, data)[run]()  # and the adapter still works
    assert differences(before, state(model)) == []


def test_an_exception_in_adapt_leaves_nothing(used: tuple[Any, str]) -> None:
    model, name = used

    def break_down(*args: Any) -> None:
        raise BrokenError

    module_to_break(model, name).register_forward_hook(break_down)
    before = state(model)
    with pytest.raises(BrokenError):
        adapted(model, name)
    assert differences(before, state(model)) == []


def test_a_sweep_that_is_interrupted_leaves_nothing(used: tuple[Any, str]) -> None:
    model, name = used
    before = state(model)
    adapter = adapted(model, name)
    calls = []

    def output(logits: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return logits.flatten(1).sum(1)

    masked = al.MaskedModel(adapter, adapter.registry("row"), al.Zero(), output)
    with pytest.raises(KeyboardInterrupt):
        masked.sweep(al.Bernoulli(len(masked.registry), 0.3, 20), al.batch(models.inputs_of(name)), rows=4)
    assert len(calls) == 3
    assert differences(before, state(model)) == []


def test_runs_are_in_eval_mode_whatever_the_flags() -> None:
    from transformers import GPT2Config

    model = models.gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    assert isinstance(model.config, GPT2Config)
    inputs = models.inputs_of("gpt2")
    expected = models.logits_of(models.gpt2(), inputs)
    model.train()
    adapter = al.adapt(model)
    registry = adapter.registry("head")
    masked = al.MaskedModel(adapter, registry)
    assert torch.equal(masked.logits(torch.ones(1, len(registry)), al.batch(inputs)), expected)
    assert all(module.training for module in model.modules())
