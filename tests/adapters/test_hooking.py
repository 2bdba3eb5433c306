"""Module hooks: what they pass on, and that they come off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.base import Place
from ablationlens.adapters.hooking import first_tensor, hook, keep
from ablationlens.types import Side


def place(module: nn.Module, side: Side) -> Place:
    return Place("here", module, side, slice(0, 3), 3, 0, -1, 2, fresh=side == "out")


class Pair(nn.Module):
    """Gives a tuple or a list, and takes its input by position or by name."""

    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, scale: float = 1.0) -> object:
        return self.kind((x * scale, "note"))


def test_the_tensor_of_an_output() -> None:
    tensor = torch.ones(2)
    for value in (tensor, (tensor, 1), [tensor], (tensor, tensor + 1)):
        assert first_tensor(value) is tensor
    for value in ((), ("a", tensor), {"a": tensor}, None):
        with pytest.raises(al.AdapterError, match=f"got {type(value).__name__}"):
            first_tensor(value)


@pytest.mark.parametrize("side", ["in", "out"])
def test_a_hook_changes_an_activation_and_comes_off(side: Side) -> None:
    linear, x = nn.Linear(3, 3), torch.randn(2, 3)
    plain = linear(x)
    handle = hook(place(linear, side), lambda activation: activation * 2)
    expected = linear.forward(x * 2) if side == "in" else plain * 2
    assert torch.equal(linear(x), expected)
    assert torch.equal(linear(input=x), expected)  # by name too
    handle.remove()
    assert torch.equal(linear(x), plain)
    assert not linear._forward_hooks
    assert not linear._forward_pre_hooks


@pytest.mark.parametrize("side", ["in", "out"])
def test_none_leaves_an_activation_as_it_is(side: Side) -> None:
    linear, x = nn.Linear(3, 3), torch.randn(2, 3)
    plain = linear(x)
    seen: dict[tuple[int, Side], Tensor] = {}
    here = place(linear, side)
    handle = hook(here, keep(seen, here.key))
    assert torch.equal(linear(x), plain)
    assert torch.equal(seen[here.key], x if side == "in" else plain)
    handle.remove()


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_rest_of_a_tuple_is_passed_on(kind: type) -> None:
    module, x = Pair(kind), torch.ones(2, 3)
    with_change = hook(place(module, "out"), lambda activation: activation + 1)
    out = module(x, scale=3.0)
    assert type(out) is kind
    assert torch.equal(out[0], torch.full((2, 3), 4.0))
    assert out[1] == "note"
    with_change.remove()
    before = hook(place(module, "in"), lambda activation: activation + 1)
    assert torch.equal(module(x, 3.0)[0], torch.full((2, 3), 6.0))
    assert torch.equal(module(x=x, scale=3.0)[0], torch.full((2, 3), 6.0))
    before.remove()
    nothing = hook(place(module, "out"), lambda _activation: None)
    assert torch.equal(module(x)[0], x)
    nothing.remove()


def test_what_is_kept_as_a_copy_is_not_overwritten() -> None:
    linear, seen = nn.Linear(3, 3), {}
    at = place(linear, "out")
    for copy in (False, True):
        handle = hook(at, keep(seen, at.key, copy=copy))
        output = linear(torch.randn(2, 3))
        before = output.detach().clone()
        handle.remove()
        output.detach().mul_(0)
        assert torch.equal(seen[at.key], before) == copy
