"""The state of the user's model: checked before a run, the same after one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.state import accepted_arguments, evaluating, fingerprint, frozen, refuse_compiled, version
from tests import models


def test_a_compiled_model_or_module_is_refused() -> None:
    model = models.mlp()
    refuse_compiled(model)
    with pytest.raises(al.AdapterError, match=r"compiled.*al\.adapt\(model\._orig_mod\)"):
        refuse_compiled(torch.compile(model))  # type: ignore[arg-type]
    inner = copy.deepcopy(model)
    inner.middle = torch.compile(inner.middle)  # type: ignore[assignment]
    with pytest.raises(al.AdapterError, match="module 'middle' is compiled"):
        refuse_compiled(inner)
    in_place = copy.deepcopy(model)
    in_place.first.compile()
    with pytest.raises(al.AdapterError, match="module 'first' is compiled"):
        refuse_compiled(in_place)
    in_place.compile()
    with pytest.raises(al.AdapterError, match="module 'model' is compiled"):
        refuse_compiled(in_place)
    refuse_compiled(model)


def test_the_arguments_that_a_forward_takes() -> None:
    assert accepted_arguments(models.mlp()) == {"x"}
    assert {"input_ids", "attention_mask", "position_ids", "use_cache"} <= accepted_arguments(models.gpt2())


@pytest.mark.parametrize("fails", [False, True])
def test_training_flags_come_back_one_by_one(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    model.train()
    model[1].eval()
    model[2][1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    try:
        with evaluating(model.modules()):
            assert not any(module.training for module in model.modules())
            if fails:
                raise ValueError("on purpose")
    except ValueError:
        assert fails
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("fails", [False, True])
def test_requires_grad_comes_back_one_by_one(fails: bool) -> None:
    model = models.mlp()
    model.first.weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            if fails:
                raise ValueError("on purpose")
    except ValueError:
        assert fails
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert model.last.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_fingerprint_sees_every_number_even_of_a_large_tensor(dtype: torch.dtype) -> None:
    model = nn.Linear(300, 300, bias=False).to(dtype)
    before = fingerprint(model)
    for at in (0, 1, 12_345, 89_999):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.weight.flatten()[at] += 0.5
        assert fingerprint(other) != before
    assert fingerprint(copy.deepcopy(model)) == before


def test_a_fingerprint_sees_names_shapes_and_buffers() -> None:
    model = nn.Linear(4, 4)
    renamed = nn.Module()
    renamed.other, renamed.bias = model.weight, model.bias
    cast = copy.deepcopy(model).double()
    buffered = copy.deepcopy(model)
    buffered.register_buffer("steps", torch.tensor([1, 2]))
    empty = copy.deepcopy(model)
    empty.register_buffer("nothing", torch.zeros(0))
    prints = [fingerprint(one) for one in (model, renamed, cast, buffered, empty)]
    assert len(set(prints)) == len(prints)


def test_a_version_sees_tensors_that_are_changed_and_tensors_that_are_exchanged() -> None:
    """A weight that is given up may leave its id to the next one, which is another weight all the same."""
    model = nn.Linear(4, 4)
    found = {version(model.parameters())}
    assert version(model.parameters()) in found
    with torch.no_grad():
        model.weight.add_(1)
    found.add(version(model.parameters()))
    model.bias = None
    found.add(version([*model.parameters(), None]))
    for _ in range(20):
        del model.weight
        model.weight = nn.Parameter(torch.zeros(4, 4))
        found.add(version(model.parameters()))
    with torch.inference_mode():
        assert version([torch.zeros(2)]) not in found
    assert len(found) == 3 + 20


def test_a_fingerprint_does_not_depend_on_the_number_of_threads() -> None:
    """A sum of floats does, in its last bits, so a run could not resume with other threads."""
    model = nn.Linear(4000, 2500, bias=False)
    before = torch.get_num_threads()
    try:
        prints = set()
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            prints.add(fingerprint(model))
    finally:
        torch.set_num_threads(before)
    assert len(prints) == 1
