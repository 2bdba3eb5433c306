"""OPT's MLP sees [batch * position, feature]: masks by example and position, reading and means are right there."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from tests import families, models
from tests.families import FAMILIES, model_of

OPT = FAMILIES["opt"]


def adapter_of(host: str) -> al.Adapter:
    if host == "torch":
        return al.adapt(model_of("opt"))
    import nnsight

    return al.adapt(nnsight.NNsight(OPT.make()))


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_masks_differ_by_example_and_by_position(host: str) -> None:
    model, adapter, inputs = model_of("opt"), adapter_of(host), OPT.batch(3)
    registry, data = adapter.registry("neuron"), al.batch(inputs)
    masked = al.MaskedModel(adapter, registry)
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    got = masked.logits(mask, data)
    for row in range(3):
        own = families.edited(OPT, model, [registry[int(column)] for column in (mask[row] == 0).nonzero()])
        expected = families.run(own, {"input_ids": inputs["input_ids"][row : row + 1]})
        assert models.close(got[row : row + 1], expected)
    where = masked.mask(off=list(registry), positions=4, data=data)
    got = masked.logits(where, data)
    plain = families.run(model, inputs)
    assert models.close(got[:, :4], plain[:, :4])
    whole = masked.logits(torch.zeros(3, len(registry)), data)
    assert models.distance(got[:, 4], plain[:, 4]) > 1e-2
    assert models.distance(got[:, 5], whole[:, 5]) > 1e-2
    where[:] = 0
    assert models.close(masked.logits(where, data), whole)


@pytest.mark.parametrize("host", ["torch", "nnsight"])
def test_reading_and_means(host: str) -> None:
    adapter, inputs = adapter_of(host), OPT.batch(3)
    registry, data = adapter.registry("neuron"), al.batch(inputs)
    seen: list[torch.Tensor] = []
    own = OPT.make()
    own.model.decoder.layers[1].fc2.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    families.run(own, inputs)
    tap = registry.parts[1].site.read
    found = adapter.read(data, [tap])[tap]
    assert models.close(found, seen[0].reshape(3, 6, -1))
    mean = al.Mean(data).bind(al.MaskedModel(adapter, registry).plan, data).values[tap]
    assert torch.allclose(mean.flatten(), seen[0].mean(0), atol=1e-6)


def test_gradients_of_a_mask() -> None:
    adapter, data = adapter_of("torch"), al.batch(OPT.batch(2))
    registry = adapter.registry("row", modules=["mlp.in"])
    masked = al.MaskedModel(adapter, registry)
    mask = torch.ones(2, len(registry), requires_grad=True)
    masked.logits(mask, data)[0].sum().backward()
    assert mask.grad is not None
    assert float(mask.grad[0].abs().min()) >= 0
    assert float(mask.grad[0].abs().max()) > 1e-3
    assert float(mask.grad[1].abs().max()) == 0  # of another example
