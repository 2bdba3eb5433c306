"""Where a batch enters a model as real numbers, on every host."""

from __future__ import annotations

import nnsight
import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.entrance import Entrance, plain
from tests import families, models
from tests.conftest import HOSTS, host_of


class Lookup(nn.Module):
    """A token model without an embedding module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 6))
        self.read = nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.read(self.table[tokens])


class Named(nn.Module):
    """A token model of the user's own, whose embedding comes second and is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(7, 6)
        self.tokens = nn.Embedding(9, 6)
        self.read = nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        places = self.positions(torch.arange(tokens.shape[1]))
        return self.read(torch.tanh(self.tokens(input=tokens) + places))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
def test_tokens_enter_as_their_embeddings(holder: str, name: str) -> None:
    host = host_of(holder, name)
    entrance = Entrance(host.adapter, host.data(3))
    assert entrance.name == "token embeddings"
    assert torch.equal(entrance.values, host.reference.get_input_embeddings()(host.inputs(3)))
    other, index = 0.3 * entrance.values[[2, 0, 2, 1]], torch.tensor([2, 0, 2, 1])
    with torch.no_grad(), entrance.open():
        logits, batch = entrance.run(other, index)
        same, _ = entrance.run(entrance.values, torch.arange(3))
        expected = host.reference(inputs_embeds=other).logits
    assert models.distance(logits, expected) < 1e-5
    assert models.distance(same, models.logits_of(host.reference, host.inputs(3))) < 1e-5
    assert torch.equal(batch.inputs["input_ids"], host.inputs(3)[index])
    assert models.distance(logits, same[index]) > 1e-2


def test_floats_enter_as_they_are() -> None:
    host = host_of("torch", "convnet")
    entrance = Entrance(host.adapter, host.data(2))
    assert entrance.name == "input"
    assert torch.equal(entrance.values, host.inputs(2))
    with torch.no_grad(), entrance.open():
        logits, _ = entrance.run(torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 0]))
    assert torch.equal(logits, models.logits_of(host.reference, torch.zeros(3, 3, 8, 8)))


def test_an_embedding_of_the_users_own_is_found() -> None:
    torch.manual_seed(0)
    model, tokens = Named(), torch.tensor([[0, 1, 2], [5, 8, 8]])
    entrance = Entrance(al.adapt(model, example=tokens), al.batch(tokens))
    assert torch.equal(entrance.values, model.tokens(tokens))
    with torch.no_grad(), entrance.open():
        logits, _ = entrance.run(torch.zeros(2, 3, 6), torch.arange(2))
    expected = model.read(torch.tanh(model.positions(torch.arange(3))))
    assert models.distance(logits, expected.expand(2, 3, 4)) < 1e-6


def test_the_embedding_is_the_models_own_between_passes() -> None:
    host = host_of("torch", "gpt2")
    entrance = Entrance(host.adapter, host.data(2))
    before = models.logits_of(host.reference, host.inputs(2))
    with torch.no_grad(), entrance.open():
        entrance.run(torch.zeros_like(entrance.values), torch.arange(2))
        assert models.distance(models.logits_of(host.adapter.model, host.inputs(2)), before) < 1e-6
        with pytest.raises(al.InputError, match="context"):
            entrance.run(torch.zeros(1, 40, 32), _too_long(entrance))
    assert entrance.running is None
    assert not any(module._forward_hooks for module in host.adapter.model.modules())


def _too_long(entrance: Entrance) -> Tensor:
    entrance.data = al.batch(torch.zeros(1, 40, dtype=torch.long))
    return torch.zeros(1, dtype=torch.long)


def test_gradients_reach_the_values_and_nothing_else() -> None:
    host = host_of("torch", "llama")
    entrance = Entrance(host.adapter, host.data(2))
    values = entrance.values.clone().requires_grad_()
    with entrance.open():
        logits, _ = entrance.run(values, torch.arange(2))
    logits.sum().backward()
    assert values.grad is not None
    assert float(values.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in host.adapter.model.parameters())


def test_what_cannot_be_moved_is_refused() -> None:
    tokens = torch.tensor([[0, 1, 2]])
    with pytest.raises(al.AdapterError, match="no module of Lookup turns the tokens into embeddings"):
        Entrance(al.adapt(Lookup(), example=tokens), al.batch(tokens))
    t5 = families.FAMILIES["t5"]
    with pytest.raises(al.InputError, match="reads two sequences"):
        Entrance(al.adapt(t5.make()), al.batch(t5.batch(2)))


def test_models_that_run_elsewhere_or_are_edited_are_refused() -> None:
    held = nnsight.NNsight(models.gpt2())
    assert plain(al.adapt(held)).model is held._module
    with held.edit() as (_, edited):
        edited.transformer.h[0].mlp.output[:] = 0.0
    with pytest.raises(al.AdapterError, match="past the edits"):
        plain(al.adapt(edited))
    adapter = al.adapt(nnsight.NNsight(models.gpt2()))
    adapter.remote = "local"
    with pytest.raises(al.AdapterError, match="without remote="):
        plain(adapter)
    with pytest.raises(al.AdapterError, match="no PyTorch module"):
        plain(al.Adapter.__new__(_Elsewhere))


class _Elsewhere(al.Adapter):
    """An adapter that is no adapter of PyTorch modules."""


_Elsewhere.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
