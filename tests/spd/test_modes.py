"""The three modes as bases of a masked model, against modules computed component by component."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import T5Config, T5ForConditionalGeneration

import ablationlens as al
from ablationlens.masks.base import Base
from ablationlens.spd import PGD, Decomposition, Deterministic, Part, Stochastic
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.passes import before_each_pass
from tests.spd.small import COUNT, PLACES, decomposed, logits_under

MODES: dict[str, Any] = {
    "deterministic": Deterministic,
    "deterministic, remainder kept": lambda d: Deterministic(d, remainder="kept"),
    "stochastic": Stochastic,
    "binomial": lambda d: Stochastic(d, sampling="binomial", seed=3, remainder="dropped"),
    "pgd": lambda d: PGD(d, 3, 0.2),
    "pgd, shared": lambda d: PGD(d, 2, 0.2, scope="shared", starts=("ones", "zeros"), remainder="kept"),
}
LANGUAGE = [(host, name) for host in HOSTS for name in ("gpt2", "llama")]


@pytest.fixture(params=MODES, ids=lambda name: name.replace(" ", "_"))
def mode(request: pytest.FixtureRequest) -> Any:
    return MODES[request.param]


def masked(host: Host, base: Base | None, output: Any = None) -> al.MaskedModel:
    registry = decomposed(host).registry(host.adapter)
    return al.MaskedModel(host.adapter, registry, output=al.KL() if output is None else output, base=base)


def ablate(gates: Any, *off: tuple[Any, int]) -> dict[Any, tuple[torch.Tensor, torch.Tensor]]:
    """Gates by hand with some components at 0; the remainder is component COUNT."""
    own = {where: (one.parts.clone(), one.remainder.clone()) for where, one in gates.items()}
    for where, index in off:
        own[where][index == COUNT][..., 0 if index == COUNT else index] = 0
    return own


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_logits_are_those_of_modules_added_up_component_by_component(held: str, name: str, mode: Any) -> None:
    host = host_of(held, name)
    base = mode(decomposed(host))
    model, data = masked(host, base), host.data(3)
    gates = base.module_gates(host.adapter, data)
    kept = logits_under(host.reference, decomposed(host), ablate(gates), host.inputs(3))
    assert models.close(model.logits(model.mask(), data), kept)
    off = ["L0.attn.q rank_one 2", "L1.mlp.out remainder", "L1.attn.o rank_one 5"]
    without = logits_under(
        host.reference,
        decomposed(host),
        ablate(gates, ((0, "attn.q"), 2), ((1, "mlp.out"), COUNT), ((1, "attn.o"), 5)),
        host.inputs(3),
    )
    assert models.close(model.logits(model.mask(off), data), without)
    assert models.distance(without, kept) > 1e-4


def test_spd_requirement_09_ablating_nothing_changes_exactly_nothing(gpt2: Host, mode: Any) -> None:
    model, data = masked(gpt2, mode(decomposed(gpt2))), gpt2.data(3)
    found = model.sweep(torch.ones(4, len(model.registry)), data, rows=3)  # a pass for each mask, all of one shape
    assert torch.equal(found, found[:1].expand_as(found))
    assert float(found.min()) > 1e-3  # the mode itself is far from the model


def test_spd_requirement_09_sources_are_the_same_on_both_arms(torch_gpt2: Host) -> None:
    base, data = Stochastic(decomposed(torch_gpt2), 2), torch_gpt2.data(3)
    model = masked(torch_gpt2, base)
    bound = model.bind(data)
    model.sweep(torch.stack([model.mask()[0], model.mask(0)[0]]), data)
    assert model.bind(data) is bound  # the gates are made once, before there is a mask
    gates = base.gates(torch_gpt2.adapter, model.registry, data)
    assert bound.base is not None
    assert torch.equal(bound.base.gates, gates)


def test_spd_requirement_10_ablated_is_zero_in_every_mode_also_where_the_importance_is(
    torch_gpt2: Host, mode: Any
) -> None:
    """An edit of the weights: with component c gone from V and U, its gate does not matter."""
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(2)
    model = masked(torch_gpt2, mode(decomposition), al.Logit(3))
    edits = model.edits(model.mask("L0.attn.v rank_one 1").expand(2, -1), model.bind(data).under(0))
    of_v = next(edit for edit in edits if edit.write.address.endswith("c_attn") and edit.edit.features == slice(64, 96))
    gate = 1 - of_v.edit.off
    assert bool((gate[..., 1] == 0).all())
    assert bool((gate[..., 0] > 0).any())


def test_spd_requirement_07_stochastic_gates(torch_gpt2: Host) -> None:
    decomposition = decomposed(torch_gpt2)
    data = torch_gpt2.data(64, seed=5)
    importances = decomposition.importances(torch_gpt2.adapter, data)
    uniform: list[np.ndarray] = []
    for sample in range(2):
        continuous = Stochastic(decomposition, 2).module_gates(torch_gpt2.adapter, data, sample)
        binomial = Stochastic(decomposition, 2, sampling="binomial").module_gates(torch_gpt2.adapter, data, sample)
        ones: list[bool] = []
        for where, lower in importances.items():
            gate = continuous[where].parts
            assert bool((gate >= lower).all())
            assert bool((gate <= 1).all())
            assert bool((gate[lower == 1] == 1).all())
            uniform.append(gate[lower == 0].numpy())
            either = binomial[where].parts
            assert bool(((either == 1) | (either == lower)).all())
            ones += either[lower == 0].bool().tolist()
            uniform.append(continuous[where].remainder.flatten().numpy())
        assert stats.binomtest(sum(ones), len(ones)).pvalue > 1e-4
    assert stats.kstest(np.concatenate(uniform), "uniform").pvalue > 1e-4
    assert any(bool((lower == 1).any()) and bool((lower == 0).any()) for lower in importances.values())


def test_spd_requirement_08_sources_depend_on_seed_sample_example_and_module_alone(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(5)
    base, adapter = Stochastic(decomposition, 2, seed=7), torch_gpt2.adapter
    registry = decomposition.registry(adapter)
    whole = base.gates(adapter, registry, data)
    assert torch.equal(whole, base.gates(adapter, registry, data))
    assert torch.equal(whole[:, :2], base.gates(adapter, registry, data.take([0, 1])))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, Stochastic(decomposition, 2, seed=8).gates(adapter, registry, data))
    first = Stochastic(decomposition, 1, seed=7).gates(adapter, registry, data)
    assert torch.equal(first[0], whole[0])


def test_outputs_are_means_over_samples_and_so_are_gradients(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    both = masked(torch_gpt2, Stochastic(decomposition, 2))
    masks = torch.rand(3, len(both.registry), generator=torch.Generator().manual_seed(0))
    each = [_single(torch_gpt2, decomposition, sample) for sample in range(2)]
    expected = torch.stack([model.sweep(masks, data) for model in each])
    assert torch.allclose(both.sweep(masks, data), expected.mean(0), atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 1e-4
    assert torch.allclose(both(masks[:1], data), both.sweep(masks[:1], data)[0], atol=1e-6)
    gradients = torch.stack([model.sweep_gradient(masks, data) for model in each])
    assert torch.allclose(both.sweep_gradient(masks, data), gradients.mean(0), atol=1e-6)


def test_importances_are_computed_once_for_all_samples(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    registry, rows = decomposition.registry(torch_gpt2.adapter), list[int]()
    before_each_pass(torch_gpt2.adapter, monkeypatch, lambda batch: rows.append(len(batch)))
    assert len(Stochastic(decomposition, 8).gates(torch_gpt2.adapter, registry, data)) == 8
    assert rows == [3]


def test_settings_may_be_numpys_numbers(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users have no check of types at run time
    one, two = np.int64(1), np.int32(2)
    own = decomposed(torch_gpt2)
    for mode, same in (
        (Stochastic(own, two, seed=one), Stochastic(own, 2, seed=1)),  # type: ignore[arg-type]
        (PGD(own, two, np.float32(0.25), seed=one), PGD(own, 2, 0.25, seed=1)),  # type: ignore[arg-type]
        (PGD(own, 3, reoptimise=True, reoptimise_steps=two), PGD(own, 3, reoptimise=True, reoptimise_steps=2)),  # type: ignore[arg-type]
    ):
        assert json.dumps(mode.describe()) == json.dumps(same.describe())
        assert mode.version == same.version


class _OneSample(Base):
    """One of the samples of another base."""

    def __init__(self, base: Base, sample: int) -> None:
        self.base, self.sample = base, sample

    def gates(self, adapter: al.Adapter, registry: al.Registry, data: al.Batch) -> torch.Tensor:
        return self.base.gates(adapter, registry, data)[self.sample : self.sample + 1]

    def describe(self) -> dict[str, Any]:
        return {"base": "one sample", "sample": self.sample}


def _single(host: Host, decomposition: Decomposition, sample: int) -> al.MaskedModel:
    return masked(host, _OneSample(Stochastic(decomposition, 2), sample))


def test_every_method_takes_a_base(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    model = masked(torch_gpt2, Stochastic(decomposition, 2), al.Logit(3))
    alone = al.leave_one_out(model, data)
    gradient = al.path_gradient(model, data, alpha=0.1, draws=40)
    assert alone.provenance["base"]["base"] == "Stochastic"
    assert gradient.weights.shape == alone.weights.shape
    scores = al.evaluate(model, data, {"loo": alone, "path": gradient}, alphas=[0.1], draws=20)
    assert float(scores.table()["pearson"].min()) > 0.3
    expected = model(model.mask(), data) - model(model.mask("L0.attn.q rank_one 2"), data)
    assert np.allclose(alone.weights.sel(component="L0.attn.q rank_one 2").values, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_heads_are_ablated_in_a_model_whose_weights_are_in_a_mode(held: str, name: str, mode: Any) -> None:
    """The oracle silences the head in the input of `attn.o`, whose components then read what is left."""
    host = host_of(held, name)
    base, data = mode(decomposed(host)), host.data(3)
    model = al.MaskedModel(host.adapter, host.adapter.registry("head"), base=base, output=al.KL())
    gates = ablate(base.module_gates(host.adapter, data))
    kept = logits_under(host.reference, decomposed(host), gates, host.inputs(3))
    assert models.close(model.logits(model.mask(), data), kept)
    module, _ = models.module_of(host.reference, 1, "attn.o")
    size = models.WIDTH // models.HEADS

    def silence(_: Any, args: Any) -> Any:
        x = args[0].clone()
        x[..., 2 * size : 3 * size] = 0
        return (x, *args[1:])

    handle = module.register_forward_pre_hook(silence)
    try:
        without = logits_under(host.reference, decomposed(host), gates, host.inputs(3))
    finally:
        handle.remove()
    assert models.close(model.logits(model.mask("L1.head 2"), data), without)
    assert models.distance(without, kept) > 1e-4
    found = model.sweep(torch.stack([model.mask()[0], model.mask("L1.head 2")[0]]), data)
    assert models.close(found[1:], model(model.mask("L1.head 2"), data)[None])
    assert not models.close(found[:1], found[1:])


def test_components_of_other_kinds_are_kept_as_they_are(torch_gpt2: Host) -> None:
    decomposition = Decomposition({(0, "attn.q"): decomposed(torch_gpt2)[0, "attn.q"]})
    sites = [*decomposition.registry(torch_gpt2.adapter).parts, *torch_gpt2.adapter.registry("neuron").parts]
    registry = al.Registry([(part.site, part.indices) for part in sites])
    gates = Deterministic(decomposition).gates(torch_gpt2.adapter, registry, torch_gpt2.data(2))
    assert bool((gates[..., COUNT + 1 :] == 1).all())
    assert not bool((gates[..., :COUNT] == 1).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, h: Stochastic(d, 0), "n_samples is a whole number from 1; got 0"),
        (lambda d, h: Stochastic(d, sampling="gaussian"), "'continuous' or 'binomial'"),
        (lambda d, h: Stochastic(d, remainder="half"), "source, kept, dropped"),
        (lambda d, h: Deterministic(d, remainder="source"), "'dropped' or 'kept'"),
        (lambda d, h: Stochastic(d, seed=-1), "seed is a whole number"),
        (lambda d, h: d.registry(h.adapter.model), r"expected an adapter, al.adapt\(model\)"),
        (lambda d, h: d.importances(h.adapter, h.inputs(2)), "the data is a Batch"),
        (lambda d, h: d.importances(h.adapter, h.data(2), rows=0), "rows is a whole number"),
        (lambda d, h: Decomposition({(7, "attn.q"): d[0, "attn.q"]}).registry(h.adapter), "layer 7"),
        (lambda d, h: Decomposition({(0, "attn.q"): (d[0, "attn.q"].V, 1)}), r"al.spd.Part\(V, U\)"),
        (lambda d, h: Deterministic("run/1"), "al.spd.load"),
        (lambda d, h: masked(h, Deterministic), "a base is a mode such as"),
        (
            lambda d, h: masked(h, Deterministic(decomposed(h, seed=1))),
            r"are not those of the decomposition: make the registry with decomposition.registry\(adapter\)",
        ),
        (lambda d, h: masked(h, Deterministic(d)).having(ablation=al.Mean(h.data())), r"ablated to is al.Zero\(\)"),
        (lambda d, h: masked(h, Stochastic(d, 2)).logits(torch.ones(1, 28), h.data(2)), "2 samples"),
        (lambda d, h: al.direct_effect(masked(h, Deterministic(d)), h.data(2)), "base"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, message: str, torch_gpt2: Host) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        call(decomposed(torch_gpt2), torch_gpt2)


def test_gates_out_of_range_are_refused(torch_gpt2: Host) -> None:
    class Wrong(Base):
        def gates(self, adapter: al.Adapter, registry: al.Registry, data: al.Batch) -> torch.Tensor:
            return torch.full((1, len(data), len(registry)), 1.5)

        def describe(self) -> dict[str, Any]:
            return {"base": "wrong"}

    with pytest.raises(al.InputError, match=r"numbers from 0 to 1; Wrong\(\) gives \[1, 2, 28\], 1.5 to 1.5"):
        masked(torch_gpt2, Wrong())(torch.ones(1, 28), torch_gpt2.data(2))


def test_places_are_those_of_the_tests() -> None:
    assert tuple(decomposed(host_of("torch", "gpt2")).places) == PLACES


class Halved(Base):
    """A gate of each example's own, the same at all positions."""

    def gates(self, adapter: al.Adapter, registry: al.Registry, data: al.Batch) -> torch.Tensor:
        gates = torch.ones(1, len(data), len(registry))
        gates[0, :, 0] = torch.linspace(0, 1, len(data))
        return gates

    def describe(self) -> dict[str, Any]:
        return {"base": "halved"}


@pytest.mark.parametrize("examples", [3, 7])
def test_gates_without_positions_go_with_masks_by_position(examples: int, torch_gpt2: Host) -> None:
    """Seven examples of seven positions: neither may be taken for the other."""
    data, registry = torch_gpt2.data(examples), torch_gpt2.adapter.registry("head")
    model = al.MaskedModel(torch_gpt2.adapter, registry, output=al.KL(), base=Halved())
    mask = torch.ones(examples, len(registry))
    mask[:, 1] = 0.5
    by_position = mask[:, None].expand(examples, 7, len(registry)).clone()
    assert torch.equal(model(by_position, data), model(mask, data))
    assert float(model(mask, data).max()) > 1e-3


def test_gates_are_made_again_when_what_decides_them_changes(torch_gpt2: Host) -> None:
    base = Stochastic(Decomposition(dict(decomposed(torch_gpt2).items())), seed=0)
    model, data = masked(torch_gpt2, base), torch_gpt2.data(2)
    first = model(model.mask(), data)
    assert torch.equal(model(model.mask(), data), first)
    base.seed = 1
    assert not torch.equal(model(model.mask(), data), first)
    other = copy.deepcopy(base.decomposition)
    base = Stochastic(other, seed=0)
    model = masked(torch_gpt2, base)
    assert torch.equal(model(model.mask(), data), first)
    with torch.no_grad():
        list(other[0, "attn.q"].function.layers)[-1].b.sub_(100.0)
    assert not torch.equal(model(model.mask(), data), first)


def test_factors_that_change_are_never_mixed_with_those_that_were(torch_gpt2: Host) -> None:
    """A model of heads has the decomposition as it is; a registry of components keeps those it was made of."""
    own, data = copy.deepcopy(decomposed(torch_gpt2)), torch_gpt2.data(2)
    registry = own.registry(torch_gpt2.adapter)
    before = [part.site.basis.V.clone() for part in registry.parts]

    def of_heads() -> al.MaskedModel:
        return al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"), output=al.KL(), base=Deterministic(own))

    heads, components = of_heads(), masked(torch_gpt2, None).having(base=Deterministic(own))
    first = heads(heads.mask(), data)
    for change in (
        lambda part: part.V.mul_(1.5),
        lambda part: setattr(part, "V", torch.nn.Parameter(1.2 * part.V, requires_grad=False)),
    ):
        with torch.no_grad():
            change(own[0, "attn.v"])
        assert torch.equal(heads(heads.mask(), data), of_heads()(heads.mask(), data))
        assert not torch.equal(heads(heads.mask(), data), first)
        with pytest.raises(al.InputError, match=r"of L0.attn.v in this registry are not those of the decomposition"):
            components(components.mask(), data)
    assert all(torch.equal(part.site.basis.V, V) for part, V in zip(registry.parts, before, strict=True))
    assert registry != own.registry(torch_gpt2.adapter)


def test_importances_of_an_encoder_go_by_its_own_padding() -> None:
    reads, decoder = torch.randint(1, 40, (2, 5)), torch.randint(1, 40, (2, 5))
    settings = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, **settings)).eval()
    decomposition = Decomposition({(0, "encoder.attn.q"): Part(torch.randn(16, 3), torch.randn(3, 16))})
    padding = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    data = al.batch({"input_ids": reads, "decoder_input_ids": decoder, "decoder_attention_mask": padding})
    assert bool((decomposition.importances(al.adapt(model), data)[0, "encoder.attn.q"] == 1).all())


def test_a_model_is_pickled_with_the_gates_that_it_has_made(small: Host, mode: Any) -> None:
    d, data = decomposed(small), small.data(2)
    for base in (mode(d), PGD(d, 2, reoptimise=True)):
        model = masked(small, base)
        mask = model.mask(0)
        before = model(mask, data)
        assert torch.equal(pickle.loads(pickle.dumps(model))(mask, data), before)
