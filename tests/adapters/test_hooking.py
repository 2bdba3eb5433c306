"""Module hooks: what they pass on, and that they come off."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

import ablationlens as al
from ablationlens.adapters.base import Place
from ablationlens.adapters.hooking import first_tensor, hook, may_overwrite
from ablationlens.types import Side
from tests import models


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
    seen: list[Tensor] = []
    handle = hook(place(linear, side), seen.append)
    assert torch.equal(linear(x), plain)
    assert torch.equal(seen[0], x if side == "in" else plain)
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


class Handing(nn.Linear):
    """Gives what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Keeping(nn.Linear):
    """Keeps what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class Between(nn.Module):
    """Reads again, later, what the module between its layers was given and what it gave."""

    def __init__(self, between: nn.Linear) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(6, 6), between, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        given = self.first(x)
        found = self.last(torch.tanh(self.between(given))) + given
        return found + self.between.last if isinstance(self.between, Keeping) else found


@pytest.mark.parametrize("kind", ["rank_one", "row"])
@pytest.mark.parametrize("between", [Handing, Keeping])
def test_what_a_module_hands_on_or_keeps_is_not_overwritten(between: type[nn.Linear], kind: str) -> None:
    own, x = models.scramble(Between(between(6, 6))), torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    adapter = al.adapt(own, example=x)
    registry = adapter.registry(kind, modules=["between"], svd=3 if kind == "rank_one" else None)
    model = al.MaskedModel(adapter, registry)
    with torch.no_grad():
        given = own.first(x)
        expected = own.last(torch.tanh(own.between.bias.expand(3, 6))) + given  # with no weights, it writes its bias
        if between is Keeping:
            expected = expected + own.between(given)
        got = model.logits(torch.zeros(3, len(registry)), al.batch(x))
    assert models.close(got, expected)


def test_an_activation_may_be_overwritten_where_nobody_else_has_it() -> None:
    adapter = al.adapt(models.mlp(), example=models.inputs_of("mlp", 1))
    linear = adapter.model.middle
    at = adapter.place(al.Tap(1, "middle", "out"))
    assert may_overwrite(at)
    assert not may_overwrite(adapter.place(al.Tap(1, "middle", "in")))
    for hooked in (linear.register_forward_hook, every_module.register_module_forward_hook):
        handle = hooked(lambda *_: None)
        assert not may_overwrite(at)
        handle.remove()
        assert may_overwrite(at)


@pytest.mark.parametrize("kind", ["rank_one", "row"])
def test_what_a_hook_on_all_modules_keeps_stays_as_it_was(kind: str) -> None:
    own, x = models.mlp(), models.inputs_of("mlp", 3)
    adapter = al.adapt(own, example=x)
    registry = adapter.registry(kind, modules=["first"], svd=3 if kind == "rank_one" else None)
    model, data, kept = al.MaskedModel(adapter, registry), al.batch(x), []
    handle = every_module.register_module_forward_hook(
        lambda module, _, output: kept.append(output) if module is own.first else None
    )
    try:
        with torch.no_grad():
            model.logits(torch.zeros(3, len(registry)), data)
    finally:
        handle.remove()
    assert torch.equal(kept[-1], own.first(x).detach())
