"""Fused matrices as wholes, such as the c_attn of GPT-2: against edited weights, and sums of components."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.sites import Tap
from ablationlens.spd import PGD, Decomposition, Deterministic, Part, Stochastic
from ablationlens.spd.forward import GatedModel, Gates
from tests import families, models
from tests.conftest import Host, host_of
from tests.spd.small import COUNT, decomposed_at, logits_under

PLACES = ((0, "attn.qkv"), (1, "attn.qkv"), (1, "mlp.out"))
WHOLE = ("torch", "nnsight")
"""Hosts that have a fused matrix as one."""
FUSED = {"gpt2": "attn.qkv", "gpt_neox": "attn.qkv", "falcon": "attn.qkv", "phi3": "mlp.gate_in"}


def fused(host: Host) -> Decomposition:
    return decomposed_at(host, PLACES)


def random_gates(decomposition: Decomposition, rows: tuple[int, ...]) -> dict[Any, Gates]:
    generator = torch.Generator().manual_seed(1)
    return {
        where: Gates(torch.rand(*rows, COUNT, generator=generator), torch.rand(*rows, 1, generator=generator))
        for where in decomposition.places
    }


def last_logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 2]


@pytest.mark.parametrize("held", WHOLE)
def test_everything_kept_is_bit_equal_to_the_model(held: str) -> None:
    host = host_of(held, "gpt2")
    data, plain = host.data(3), models.logits_of(host.reference, host.inputs(3))
    registry = fused(host).registry(host.adapter)
    masked = al.MaskedModel(host.adapter, registry, output=al.Logit(2))
    assert torch.equal(masked.logits(masked.mask(), data), plain)
    ones = {where: Gates(torch.ones(3, 7, COUNT), torch.ones(3, 7, 1)) for where in PLACES}
    with torch.no_grad(), GatedModel(host.adapter, fused(host)).session() as runs:
        assert torch.equal(runs.gated(data, ones), plain)


@pytest.mark.parametrize("held", WHOLE)
@pytest.mark.parametrize("include_bias", [False, True])
def test_ablated_components_are_gone_from_the_whole_weight(held: str, include_bias: bool) -> None:
    """Each example of a batch against its own edited copy; the remainder takes the bias with it if it is asked to."""
    host = host_of(held, "gpt2")
    registry = fused(host).registry(host.adapter)
    model = al.MaskedModel(host.adapter, registry, ablation=al.Zero(include_bias=include_bias), output=al.Logit(2))
    off = [["L0.attn.qkv rank_one 0"], ["L1.attn.qkv remainder"], ["L0.attn.qkv rank_one 5", "L1.attn.qkv rank_one 2"]]
    mask = torch.cat([model.mask(names) for names in off])
    found, inputs = model.logits(mask, host.data(3)), host.inputs(3)
    plain = models.logits_of(host.reference, inputs)
    for row, names in enumerate(off):
        components = [registry[registry.column(name)] for name in names]
        edited = models.edited(host.reference, components, include_bias=include_bias)
        expected = models.logits_of(edited, inputs[row : row + 1])
        assert models.close(found[row : row + 1], expected)
        assert models.distance(expected, plain[row : row + 1]) > 1e-3


@pytest.mark.parametrize("held", WHOLE)
def test_random_gates_are_the_sum_of_components_and_remainder(held: str) -> None:
    host = host_of(held, "gpt2")
    under = random_gates(fused(host), (3, 7))
    with torch.no_grad(), GatedModel(host.adapter, fused(host)).session() as runs:
        found = runs.gated(host.data(3), under)
    assert models.close(found, logits_under(host.reference, fused(host), under, host.inputs(3)))


@pytest.mark.parametrize("name", FUSED)
def test_in_every_layout_of_a_fused_matrix(name: str) -> None:
    """Interleaved by head, with grouped keys, or gate and entry of an MLP: rows are those of the stored matrix."""
    family, module = families.FAMILIES[name], FUSED[name]
    reference = families.model_of(name)
    adapter = al.adapt(families.model_of(name))
    owner, _ = family.owner(reference, 1, module)
    rows, columns = families.matrix(owner).shape
    generator = torch.Generator().manual_seed(0)
    V, U = (torch.randn(shape, generator=generator) for shape in ((columns, 3), (3, rows)))
    registry = adapter.registry("rank_one", factors={(1, module): (V, U)})
    assert registry.parts[0].site.write == Tap(1, module, "out")
    model = al.MaskedModel(adapter, registry, output=al.Logit(2))
    inputs = family.batch()
    plain = families.run(reference, inputs)
    assert torch.equal(model.logits(model.mask(), al.batch(inputs)), plain)
    edited = models.untied(reference)
    with torch.no_grad():
        families.matrix(family.owner(edited, 1, module)[0]).sub_(torch.outer(U[1], V[:, 1]))
    expected = families.run(edited, inputs)
    assert models.close(model.logits(model.mask([f"L1.{module} rank_one 1"]), al.batch(inputs)), expected)
    assert models.distance(expected, plain) > 1e-3


@pytest.mark.parametrize("mode", [Deterministic, Stochastic, lambda d: PGD(d, 2, 0.2)])
def test_modes(mode: Any) -> None:
    host = host_of("torch", "gpt2")
    base, data = mode(fused(host)), host.data(3)
    model = al.MaskedModel(host.adapter, fused(host).registry(host.adapter), output=al.KL(), base=base)
    gates = base.module_gates(host.adapter, data)
    expected = logits_under(host.reference, fused(host), gates, host.inputs(3))
    assert models.close(model.logits(model.mask(), data), expected)


def test_a_registry_comes_back_from_json() -> None:
    host = host_of("torch", "gpt2")
    registry = fused(host).registry(host.adapter)
    again = al.Registry.from_json(registry.to_json())
    assert again == registry
    assert again.names[COUNT] == "L0.attn.qkv remainder"
    mask = torch.rand(1, len(registry), generator=torch.Generator().manual_seed(0))
    ours, theirs = (al.MaskedModel(host.adapter, one, output=al.Logit(2)) for one in (registry, again))
    assert torch.equal(ours.logits(mask, host.data(1)), theirs.logits(mask, host.data(1)))


def test_singular_parts_of_the_whole() -> None:
    host = host_of("torch", "gpt2")
    found = al.spd.svd(host.adapter, "qkv", 3)
    assert found.places == ((0, "attn.qkv"), (1, "attn.qkv"))
    weight, _ = models.part(host.reference, 0, "attn.qkv")
    left, values, right = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    np.testing.assert_allclose(found[0, "attn.qkv"].weight, (left[:, :3] * values[:3]) @ right[:3], atol=1e-5)


def test_training_on_the_whole() -> None:
    host = host_of("torch", "gpt2")
    found = al.spd.train(
        host.adapter, ["qkv"], 4, host.data(8), layers=0, steps=2, warmup=60, hidden=(4,), show_bar=False
    )
    assert found.places == ((0, "attn.qkv"),)
    assert found[0, "attn.qkv"].U.shape == (4, 3 * models.WIDTH)
    assert float(found.reconstruction(host.adapter)["relative"].iloc[0]) < 0.97  # random factors are far above 1


def test_a_bridge_has_no_fused_matrix() -> None:
    host = host_of("transformer_lens", "gpt2")
    message = r"a bridge splits the fused attn.qkv into attn.q, attn.k, attn.v .*al.adapt\(hf_model\)"
    decomposition = decomposed_at(host_of("torch", "gpt2"), PLACES)
    with pytest.raises(al.AdapterError, match=message):
        decomposition.registry(host.adapter)
    with pytest.raises(al.AdapterError, match=message):
        GatedModel(host.adapter, decomposition)
    with pytest.raises(al.AdapterError, match=message):
        host.adapter.registry("rank_one", modules=["qkv"], svd=2)


def test_a_matrix_and_a_part_of_it_are_not_decomposed_together() -> None:
    host = host_of("torch", "gpt2")
    message = "L0.attn.v is a part of L0.attn.qkv, and both are to be decomposed: keep one"
    with pytest.raises(al.InputError, match=message):
        al.spd.svd(host.adapter, ["v", "qkv"], 2)
    with pytest.raises(al.InputError, match=message):
        al.spd.train(host.adapter, ["v", "qkv"], 2, host.data(2), steps=1)
    V, U = torch.ones(models.WIDTH, 1), torch.ones(1, models.WIDTH)
    both = Decomposition({(0, "attn.v"): Part(V, U), (0, "attn.qkv"): Part(V, U.repeat(1, 3))})
    with pytest.raises(al.InputError, match=message):
        GatedModel(host.adapter, both)
    registry = fused(host).registry(host.adapter)
    for kind in ("row", "column", "head_value"):
        names = ["qkv"] if kind == "column" else ["v"]
        with pytest.raises(al.OverlapError, match="L0.attn.qkv rank_one 0"):
            _ = registry + host.adapter.registry(kind, modules=names)


@pytest.mark.parametrize("held", WHOLE)
def test_gradients_of_the_gates(held: str) -> None:
    """At ones, the gradient of a component's gate is the gradient of the weight times the component."""
    host = host_of(held, "gpt2")
    registry = fused(host).registry(host.adapter)
    model = al.MaskedModel(host.adapter, registry, output=last_logit)
    mask = torch.ones(1, len(registry), requires_grad=True)
    model(mask, host.data(1)).sum().backward()
    own = models.untied(host.reference)
    last_logit(own(host.inputs(1)).logits).sum().backward()
    gradient = own.transformer.h[0].attn.c_attn.weight.grad.T
    part = fused(host)[0, "attn.qkv"]
    expected: Tensor = torch.einsum("oi,ic,co->c", gradient, part.V, part.U)
    assert mask.grad is not None
    assert models.close(mask.grad[0, :COUNT], expected)
