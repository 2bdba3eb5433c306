"""Forward passes under gates, against modules added up component by component and against edited weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.spd import Decomposition, Part
from ablationlens.spd.forward import GatedModel, Gates
from ablationlens.spd.routing import routed
from tests import models
from tests.conftest import ALL_HOSTS, HOSTS, Host, host_of
from tests.spd.small import COUNT, PLACES, decomposed, logits_under

LINEAR = [one for one in ALL_HOSTS if one[1] in (*models.TRANSFORMERS, "mlp", "tied")]
LANGUAGE = [(held, name) for held in HOSTS for name in ("gpt2", "llama_biased")]


def gates(
    host: Host, parts: float | None = None, remainder: float | None = None, examples: int = 3
) -> dict[Any, Gates]:
    """The same gates everywhere, or random ones."""
    generator = torch.Generator().manual_seed(1)
    rows = (examples, 7) if host.transformer else (examples,)
    found: dict[Any, Gates] = {}
    for where in decomposed(host).places:
        own = [torch.rand(*rows, width, generator=generator) for width in (COUNT, 1)]
        given = [
            one if value is None else torch.full_like(one, value)
            for one, value in zip(own, (parts, remainder), strict=True)
        ]
        found[where] = Gates(*given)
    return found


def run(host: Host, under: dict[Any, Gates], examples: int = 3) -> Tensor:
    with torch.no_grad(), GatedModel(host.adapter, decomposed(host)).session() as runs:
        return runs.gated(host.data(examples), under)


@pytest.mark.parametrize(("held", "name"), LINEAR)
def test_spd_requirement_01_everything_kept_is_bit_equal_to_the_model(held: str, name: str) -> None:
    host = host_of(held, name)
    data = host.data(3)
    plain = models.logits_of(models.module_in(host.adapter.model), host.inputs(3))
    assert torch.equal(run(host, gates(host, 1.0, 1.0)), plain)
    masked = al.MaskedModel(host.adapter, decomposed(host).registry(host.adapter), output=al.Logit(2))
    assert torch.equal(masked.logits(masked.mask(), data), plain)
    with torch.no_grad(), GatedModel(host.adapter, decomposed(host)).session() as runs:
        assert torch.equal(runs.target(data).logits, plain)
        assert torch.equal(runs.gated(data, {}), plain)


@pytest.mark.parametrize(("held", "name"), LINEAR)
def test_spd_requirement_02_random_gates_are_the_sum_of_components_and_remainder(held: str, name: str) -> None:
    host = host_of(held, name)
    under = gates(host)
    expected = logits_under(host.reference, decomposed(host), under, host.inputs(3))
    assert models.close(run(host, under), expected)
    assert models.distance(run(host, gates(host, 1.0, 1.0)), expected) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_spd_requirement_02_per_module_in_float64(seed: int) -> None:
    """One module of a plain float64 model, where no norm rounds."""
    module = nn.Linear(6, 5).double()
    models.scramble(module, seed).requires_grad_(False)
    model = nn.Sequential(module)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    adapter = al.adapt(model, example=x)
    (only,) = adapter.layout.modules
    V, U = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 8), (8, 5)))
    decomposition = Decomposition({(only.layer, only.name): Part(V, U)})
    m, d = torch.rand(4, 8, generator=generator).double(), torch.rand(4, 1, generator=generator).double()
    with torch.no_grad(), GatedModel(adapter, decomposition).session() as runs:
        found = runs.gated(al.batch(x), {(only.layer, only.name): Gates(m, d)})
    remainder = module.weight - torch.einsum("ic,co->oi", V, U)
    expected = torch.einsum("bi,ic,bc,co->bo", x, V, m, U) + d * (x @ remainder.T) + module.bias
    assert float((found - expected).abs().max()) < 1e-12 * float(expected.abs().max())


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_spd_requirement_04_components_without_remainders_are_another_weight(held: str, name: str) -> None:
    host = host_of(held, name)
    own = models.untied(host.reference)
    with torch.no_grad():
        for where, part in decomposed(host).items():
            models.part(own, *where)[0].copy_((part.V @ part.U).T)
    assert models.close(run(host, gates(host, 1.0, 0.0)), models.logits_of(own, host.inputs(3)))


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_spd_requirement_05_an_ablated_component_is_gone_from_the_weight(held: str, name: str) -> None:
    host = host_of(held, name)
    under, off = gates(host, 1.0, 1.0), (((0, "attn.v"), 4), ((1, "mlp.out"), 0))
    own = models.untied(host.reference)
    for where, component in off:
        under[where].parts[..., component] = 0
        part = decomposed(host)[where]
        with torch.no_grad():
            models.part(own, *where)[0].sub_(torch.outer(part.U[component], part.V[:, component]))
    found = run(host, under)
    assert models.close(found, models.logits_of(own, host.inputs(3)))
    assert models.distance(found, models.logits_of(host.reference, host.inputs(3))) > 1e-3


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_spd_requirement_05_with_nothing_kept_a_module_writes_its_bias(held: str, name: str) -> None:
    host = host_of(held, name)
    own = models.untied(host.reference)
    with torch.no_grad():
        for where in PLACES:
            models.part(own, *where)[0].zero_()
    assert models.close(run(host, gates(host, 0.0, 0.0)), models.logits_of(own, host.inputs(3)), 1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
def test_spd_requirement_27_every_host_gives_the_same_logits(name: str) -> None:
    found = [run(host_of(held, name), gates(host_of(held, name))) for held in HOSTS]
    assert models.close(found[1], found[0])
    assert models.close(found[2], found[0])


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_spd_requirement_27_the_model_is_as_it_was_also_after_an_exception(held: str, name: str) -> None:
    adapter = al.adapt(host_of(held, name).fresh())
    host = Host(held, name, host_of(held, name).reference, adapter)
    model = models.module_in(adapter.model)
    model.train()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    before = state(model)
    decomposition = copy.deepcopy(decomposed(host_of(held, name))).requires_grad_(True)
    for fails in (False, True):
        try:
            with GatedModel(adapter, decomposition).session() as runs:
                runs.gated(host.data(2), gates(host, examples=2)).sum().backward()
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert state(model) == before
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(part.V.grad is not None and part.U.grad is not None for _, part in decomposition.items())


def state(model: Any) -> list[Any]:
    """Everything on a model that a call may not change."""
    hooks = [
        (len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks), one.training)
        for one in model.modules()
    ]
    attributes = [sorted(vars(one)) for one in model.modules()]
    return [hooks, attributes, [(one.requires_grad, one.grad is None, one._version) for one in model.parameters()]]


def test_gradients_of_gates_and_factors_are_those_of_the_sum() -> None:
    """Autograd through one plain module, and through the gated pass."""
    host = host_of("torch", "mlp")
    decomposition = copy.deepcopy(decomposed(host)).requires_grad_(True)
    under = {where: Gates(*(one.requires_grad_() for one in own)) for where, own in gates(host).items()}
    with GatedModel(host.adapter, decomposition).session() as runs:
        runs.gated(host.data(3), under).square().sum().backward()
    plain = copy.deepcopy(host.reference).double().requires_grad_(False)
    factors = {
        where: [one.detach().double().requires_grad_() for one in (p.V, p.U)] for where, p in decomposition.items()
    }
    kept = {where: [one.detach().double().requires_grad_() for one in own] for where, own in under.items()}
    for (where, (V, U)), (m, d) in zip(factors.items(), kept.values(), strict=True):
        module = plain.get_submodule(where[1])

        def instead(module: Any, args: Any, _: Any, V: Any = V, U: Any = U, m: Any = m, d: Any = d) -> Tensor:
            x, remainder = args[0], module.weight - torch.einsum("ic,co->oi", V, U)
            parts = torch.einsum("bi,ic,bc,co->bo", x, V, m, U)
            return parts + d * torch.einsum("bi,oi->bo", x, remainder) + module.bias

        module.register_forward_hook(instead)
    plain(host.inputs(3).double()).square().sum().backward()
    for where, part in decomposition.items():
        for ours, theirs in zip((part.V, part.U, *under[where]), (*factors[where], *kept[where]), strict=True):
            assert ours.grad is not None
            assert models.close(ours.grad.double(), theirs.grad, 1e-4)


@pytest.mark.parametrize("held", HOSTS)
def test_the_inputs_of_a_target_are_those_of_its_modules(held: str) -> None:
    host = host_of(held, "gpt2")
    with torch.no_grad(), GatedModel(host.adapter, decomposed(host)).session() as runs:
        found = runs.target(host.data(3)).inputs
    assert tuple(found) == PLACES
    for where, x in found.items():
        seen: list[Tensor] = []
        module, _ = models.module_of(host.reference, *where)
        handle = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
        models.logits_of(host.reference, host.inputs(3))
        handle.remove()
        assert models.close(x, seen[0])
        assert not x.requires_grad


@pytest.mark.parametrize("where", PLACES)
def test_spd_requirement_29_layerwise_touches_one_module(where: tuple[int, str]) -> None:
    """The pass of one module is that of its own gates, with every other weight the model's."""
    host = host_of("torch", "llama")
    under = gates(host)
    passes = list(routed(under, "layerwise", torch.Generator()))
    (own,) = [one for one in passes if where in one]
    assert tuple(own) == (where,)
    expected = logits_under(host.reference, decomposed(host), {where: under[where]}, host.inputs(3))
    assert models.close(run(host, own), expected)


def test_spd_requirement_29_a_position_that_is_routed_away_is_bit_equal() -> None:
    """With a causal model and the modules gated at the last position alone, all before it is untouched."""
    host = host_of("torch", "gpt2")
    under = gates(host)
    for own in under.values():
        own.parts[:, :-1] = 1
        own.remainder[:, :-1] = 1
    found, plain = run(host, under), models.logits_of(host.reference, host.inputs(3))
    assert torch.equal(found[:, :-1], plain[:, :-1])
    assert not torch.equal(found[:, -1], plain[:, -1])


def test_spd_requirement_29_subsets_leave_other_rows_bit_equal() -> None:
    """In the plain perceptron a row that no module gates but the last: its first layers are the model's own."""
    host = host_of("torch", "mlp")
    (chosen,) = routed(gates(host, 0.3, 0.2, examples=64), "subset", torch.Generator().manual_seed(0))
    untouched = torch.stack([(own.parts == 1).all(-1) for where, own in chosen.items() if where[1] != "last"]).all(0)
    assert 3 < int(untouched.sum()) < 60
    last = next(where for where in chosen if where[1] == "last")
    seen: dict[str, Tensor] = {}
    module = host.adapter.model.get_submodule("last")
    handle = module.register_forward_pre_hook(lambda _, args: seen.__setitem__("gated", args[0].detach()))
    run(host, {where: own for where, own in chosen.items() if where != last}, examples=64)
    handle.remove()
    handle = host.reference.last.register_forward_pre_hook(lambda _, args: seen.__setitem__("plain", args[0].detach()))
    models.logits_of(host.reference, host.inputs(64))
    handle.remove()
    same = (seen["gated"] == seen["plain"]).all(1)
    assert torch.equal(same, untouched)


@pytest.mark.parametrize("held", HOSTS)
def test_spd_requirement_22_a_mask_of_two_axes_is_by_example_also_with_as_many_positions(held: str) -> None:
    host = host_of(held, "gpt2")
    data = host.data(7)  # of 7 positions each
    masked = al.MaskedModel(host.adapter, decomposed(host).registry(host.adapter), output=al.Logit(2))
    mask = torch.rand(7, len(masked.registry), generator=torch.Generator().manual_seed(0))
    explicit = mask[:, None].expand(7, 7, -1).contiguous()
    assert data.length == 7
    assert models.close(masked.logits(mask, data), masked.logits(explicit, data))
    by_position = mask[None].expand(7, 7, -1).contiguous()
    assert models.distance(masked.logits(by_position, data), masked.logits(mask, data)) > 1e-3
    with pytest.raises(al.InputError, match=r"\[7, 28\], \[1, 28\] or \[7, 7, 28\]; got \[7, 1, 28\]"):
        masked.logits(mask[:, None], data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_dtypes(dtype: torch.dtype) -> None:
    host = host_of("torch", "llama")
    adapter = al.adapt(copy.deepcopy(host.reference).to(dtype))
    decomposition, data = decomposed(host), host.data(3)
    under = gates(host)
    with torch.no_grad(), GatedModel(adapter, decomposition).session() as runs:
        plain = runs.target(data).logits
        assert torch.equal(runs.gated(data, gates(host, 1.0, 1.0)), plain)
        found = runs.gated(data, under)
    assert found.dtype == dtype
    expected = logits_under(host.reference, decomposition, under, host.inputs(3))
    assert models.distance(found.float(), expected) < (0.1 if dtype == torch.bfloat16 else 1e-5)
    assert all(one.dtype == torch.float32 for one in decomposition.importances(adapter, data).values())


def test_a_decomposition_of_another_model_is_refused_at_once() -> None:
    host = host_of("torch", "gpt2")
    with pytest.raises(al.UnknownNameError):
        GatedModel(host_of("torch", "mlp").adapter, decomposed(host))
