"""The token embedding as rank-one parts: against edited weights, and rows of V that PyTorch looks up."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ablationlens as al
from ablationlens.sites import Tap
from ablationlens.spd import PGD, Decomposition, Deterministic, Part, Stochastic, importance_function
from ablationlens.spd.forward import GatedModel, Gates
from tests import families, models
from tests.conftest import HOSTS, Host, host_of
from tests.spd import runs
from tests.spd.small import COUNT, logits_under
from tests.spd.test_forward import state

LANGUAGE = [(held, name) for held in HOSTS for name in ("gpt2", "llama")]
EMBED, OTHER = (0, "embed"), (1, "mlp.out")


def table_of(model: Any) -> nn.Embedding:
    """The token embedding of a model of transformers."""
    return model.get_input_embeddings()


def embedded(host: Host, kind: str = "mlp") -> Decomposition:
    """Random components of the embedding, and of one matrix."""
    parts: dict[Any, Part] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for where in (EMBED, OTHER):
            weight = table_of(host.reference).weight.T if where == EMBED else models.part(host.reference, *where)[0]
            rows, columns = weight.shape
            function = importance_function(kind, COUNT, columns, (5,))
            list(function.layers)[-1].b.data.add_(0.5)
            parts[where] = Part(0.4 * torch.randn(columns, COUNT), 0.4 * torch.randn(COUNT, rows), function)
    return Decomposition(parts).requires_grad_(False)


def masked(host: Host, decomposition: Decomposition, **options: Any) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, decomposition.registry(host.adapter), output=last_logit, **options)


def last_logit(logits: Tensor) -> Tensor:
    return logits[:, -1, 2]


def expected_under(host: Host, decomposition: Decomposition, gates: Any) -> Tensor:
    """Logits with rows looked up and added part by part, in float64."""
    own = copy.deepcopy(host.reference)
    part, (kept, remainder) = decomposition[EMBED], gates[EMBED]

    def instead(module: Any, args: Any, _: Any) -> Tensor:
        V, U = part.V.double(), part.U.double()
        parts = functional.embedding(args[0], V)
        rest = functional.embedding(args[0], module.weight.double() - V @ U)
        return ((parts * kept.double()) @ U + remainder.double() * rest).to(module.weight)

    table_of(own).register_forward_hook(instead)
    others = {where: own for where, own in gates.items() if where != EMBED}
    return logits_under(own, decomposition, others, host.inputs(3))


def random_gates(value: float | None = None) -> dict[Any, Gates]:
    generator = torch.Generator().manual_seed(1)
    found = {at: [torch.rand(3, 7, width, generator=generator) for width in (COUNT, 1)] for at in (EMBED, OTHER)}
    return {
        at: Gates(*(one if value is None else torch.full_like(one, value) for one in own)) for at, own in found.items()
    }


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_everything_kept_is_bit_equal_to_the_model(held: str, name: str) -> None:
    host = host_of(held, name)
    decomposition, data = embedded(host), host.data(3)
    plain = models.logits_of(models.module_in(host.adapter.model), host.inputs(3))
    model = masked(host, decomposition)
    assert torch.equal(model.logits(model.mask(), data), plain)
    with torch.no_grad(), GatedModel(host.adapter, decomposition).session() as own:
        assert torch.equal(own.gated(data, random_gates(1.0)), plain)
        assert torch.equal(own.target(data).inputs[EMBED], host.inputs(3))


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_an_ablated_component_is_gone_from_the_embedding_and_not_from_what_is_tied_to_it(held: str, name: str) -> None:
    host = host_of(held, name)
    decomposition, inputs = embedded(host), host.inputs(3)
    part, model = decomposition[EMBED], masked(host, decomposition)
    names = ["L0.embed rank_one 0", "L0.embed rank_one 4", "L0.embed remainder"]
    found = model.logits(torch.cat([model.mask([one]) for one in names]), host.data(3))
    plain = models.logits_of(host.reference, inputs)
    taken = [torch.outer(part.V[:, c], part.U[c]) for c in (0, 4)]
    taken.append(table_of(host.reference).weight.detach() - part.V @ part.U)
    for row, matrix in enumerate(taken):
        own = models.untied(host.reference)
        table_of(own).weight.data -= matrix
        expected = models.logits_of(own, inputs[row : row + 1])
        assert models.close(found[row : row + 1], expected)
        assert models.distance(expected, plain[row : row + 1]) > 1e-3


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_random_gates_are_the_sum_of_components_and_remainder(held: str, name: str) -> None:
    host = host_of(held, name)
    decomposition, gates = embedded(host), random_gates()
    expected = expected_under(host, decomposition, gates)
    with torch.no_grad(), GatedModel(host.adapter, decomposition).session() as own:
        assert models.close(own.gated(host.data(3), gates), expected)
    mask = torch.cat([one for own in gates.values() for one in own], -1)
    assert models.close(masked(host, decomposition).logits(mask, host.data(3)), expected)


@pytest.mark.parametrize("held", HOSTS)
def test_a_few_parts_without_the_remainder(held: str) -> None:
    host = host_of(held, "gpt2")
    part = embedded(host)[EMBED]
    registry = embedded(host).registry(host.adapter).select(name=["L0.embed rank_one 1", "L0.embed rank_one 3"])
    model = al.MaskedModel(host.adapter, registry, output=last_logit)
    own = models.untied(host.reference)
    table_of(own).weight.data -= torch.outer(part.V[:, 3], part.U[3])
    expected = models.logits_of(own, host.inputs(2))
    assert models.close(model.logits(model.mask(["L0.embed rank_one 3"]), host.data(2)), expected)
    other = model.having(ablation=al.Counterfactual(host.data(2)))
    assert models.close(other.logits(torch.zeros(1, 2), host.data(2)), models.logits_of(host.reference, host.inputs(2)))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_host_has_the_same_embedding(name: str) -> None:
    adapters = [host_of(held, name).adapter for held in HOSTS]
    assert len({adapter.layout for adapter in adapters}) == 1
    (module,) = adapters[0].layout.embeddings
    assert (module.rows, module.columns, module.operation) == (models.WIDTH, models.VOCAB, "embedding")
    assert "embed" not in adapters[0].layout.names
    weight = table_of(host_of("torch", name).reference).weight
    for adapter in adapters:
        assert torch.equal(adapter.weight(0, "embed"), weight.T)
        assert adapter.bias(0, "embed") is None


@pytest.mark.parametrize("held", HOSTS)
def test_gradients_of_gates_and_factors_are_those_of_the_table(held: str) -> None:
    host = host_of(held, "llama")
    decomposition = embedded(host)
    own = models.untied(host.reference)
    last_logit(own(host.inputs(1)).logits).sum().backward()
    slope, part = table_of(own).weight.grad, copy.deepcopy(decomposition)[EMBED]
    model = masked(host, decomposition)
    mask = torch.ones(1, len(model.registry), requires_grad=True)
    model(mask, host.data(1)).sum().backward()
    assert mask.grad is not None
    assert models.close(mask.grad[0, :COUNT], torch.einsum("to,tc,co->c", slope, part.V, part.U))
    rest = table_of(host.reference).weight.detach() - part.V @ part.U
    assert models.close(mask.grad[0, COUNT], (slope * rest).sum(), 1e-4)
    learning = Decomposition({EMBED: part.requires_grad_(True)})
    with GatedModel(host.adapter, learning).session() as runs_:
        gates = {EMBED: Gates(torch.full((1, 7, COUNT), 0.5), torch.zeros(1, 7, 1))}
        last_logit(runs_.gated(host.data(1), gates)).sum().backward()
    V, U = (one.detach().clone().requires_grad_() for one in (part.V, part.U))
    plain = models.untied(host.reference)
    handle = table_of(plain).register_forward_hook(lambda _, args, __: 0.5 * functional.embedding(args[0], V @ U))
    last_logit(plain(host.inputs(1)).logits).sum().backward()
    handle.remove()
    for ours, theirs in ((learning[EMBED].V, V), (learning[EMBED].U, U)):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert models.close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_the_model_is_as_it_was(held: str, name: str) -> None:
    adapter = al.adapt(host_of(held, name).fresh())
    model = models.module_in(adapter.model)
    decomposition = embedded(host_of(held, name)).requires_grad_(True)
    GatedModel(adapter, decomposition)
    before = state(model)
    with GatedModel(adapter, decomposition).session() as own:
        own.gated(host_of(held, name).data(3), random_gates()).sum().backward()
    assert state(model) == before


# --- what stands in ---------------------------------------------------------------------------------------------------


def replaced(host: Host, part: Part, names: list[str], rows: Tensor) -> Tensor:
    """Logits where the parts come from other one-hot rows, [position, token] or its mean."""
    own = copy.deepcopy(host.reference)
    weight = table_of(own).weight.detach().double()
    V, U = part.V.double(), part.U.double()
    taken = torch.zeros_like(weight)
    for name in names:
        taken += weight - V @ U if name == "remainder" else torch.outer(V[:, int(name)], U[int(name)])

    def instead(_: Any, args: Any, out: Tensor) -> Tensor:
        own_rows = functional.one_hot(args[0], models.VOCAB).double()
        return (out + (rows - own_rows) @ taken).to(out)

    table_of(own).register_forward_hook(instead)
    return models.logits_of(own, host.inputs(2))


@pytest.mark.parametrize("held", HOSTS)
@pytest.mark.parametrize("names", [["2"], ["remainder"], ["0", "5", "remainder"]])
def test_a_replacement_is_of_one_hot_rows(held: str, names: list[str]) -> None:
    """A counterfactual has other tokens, a mean the mean of the rows over examples and positions."""
    host = host_of(held, "gpt2")
    decomposition, other = embedded(host), host.inputs(2, seed=5)
    one_hot = functional.one_hot(other, models.VOCAB).double()
    data = al.batch(other)
    for ablation, rows in (
        (al.Counterfactual(data), one_hot),
        (al.Mean(data), one_hot.flatten(0, 1).mean(0)),
        (al.Mean(data, per_position=True), one_hot.mean(0)),
        (al.Resample(data.take(torch.tensor([1]))), one_hot[1]),
        (al.Zero(include_bias=True), torch.zeros(models.VOCAB).double()),
    ):
        model = masked(host, decomposition, ablation=ablation)
        off = ["L0.embed remainder" if name == "remainder" else f"L0.embed rank_one {name}" for name in names]
        found = model.logits(model.mask(off), host.data(2))
        assert models.close(found, replaced(host, decomposition[EMBED], names, rows)), ablation


# --- methods, modes, files, training ----------------------------------------------------------------------------------


def test_importances_are_those_of_codes_that_are_looked_up() -> None:
    host = host_of("torch", "gpt2")
    ids = host.inputs(3)
    attended = torch.ones_like(ids)
    attended[1, 4:] = 0
    decomposition = embedded(host)
    found = decomposition.importances(host.adapter, al.batch({"input_ids": ids, "attention_mask": attended}))[EMBED]
    part = decomposition[EMBED]
    assert part.function is not None
    expected = part.function(functional.one_hot(ids, models.VOCAB).float() @ part.V).clamp(0, 1)
    assert models.close(found[0], expected[0])
    assert models.close(found[1, :4], expected[1, :4])
    assert bool((found[1, 4:] == 0).all())
    assert float(expected.std()) > 0.1


@pytest.mark.parametrize("mode", [Deterministic, Stochastic, lambda d: PGD(d, 2, 0.2)])
@pytest.mark.parametrize(("held", "name"), [("torch", "gpt2"), ("transformer_lens", "llama"), ("nnsight", "gpt2")])
def test_modes(held: str, name: str, mode: Any) -> None:
    host = host_of(held, name)
    decomposition, data = embedded(host), host.data(3)
    base = mode(decomposition)
    model = masked(host, decomposition, base=base)
    expected = expected_under(host, decomposition, base.module_gates(host.adapter, data))
    assert models.close(model.logits(model.mask(), data), expected)


def test_methods_run_unchanged() -> None:
    host = host_of("torch", "llama")
    model = masked(host, Decomposition({EMBED: embedded(host)[EMBED]}))
    data = host.data(2)
    whole, none = (model(mask, data) for mask in (model.mask(), torch.zeros(1, COUNT + 1)))
    alone = al.leave_one_out(model, data)
    each = torch.stack([whole - model(one[None], data) for one in 1 - torch.eye(COUNT + 1)], -1)
    np.testing.assert_allclose(alone.weights, each, atol=1e-5)
    found = al.integrated_gradients(model.having(ablation=al.Mean(host.data(8))), data, steps=64)
    assert np.isfinite(found.weights).all()
    fitted, along = al.coar(model, data, alpha=0.2, draws=60), al.path_gradient(model, data, alpha=0.2, draws=60)
    assert fitted.weights.shape == along.weights.shape == (2, COUNT + 1)
    assert float((whole - none).abs().max()) > 1e-3


def test_what_comes_back_from_json_and_from_a_file(tmp_path: Path) -> None:
    host = host_of("torch", "gpt2")
    decomposition = embedded(host)
    registry = decomposition.registry(host.adapter)
    site = registry.parts[0].site
    assert (site.read, site.write) == (Tap(0, "embed", "in"), Tap(0, "embed", "out"))
    assert al.Registry.from_json(registry.to_json()) == registry
    al.spd.save(decomposition, tmp_path / "one.safetensors")
    again = al.spd.load(tmp_path / "one.safetensors", host.adapter)
    assert again.fingerprint == decomposition.fingerprint
    assert again.registry(host_of("nnsight", "gpt2").adapter) == registry


def test_singular_parts_and_training() -> None:
    host = host_of("torch", "gpt2")
    weight = table_of(host.reference).weight.detach()
    found = al.spd.svd(host.adapter, ["embed", "o"], 4, layers=0)
    assert found.places == (EMBED, (0, "attn.o"))
    left, values, right = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    np.testing.assert_allclose(found[EMBED].weight.T, (left[:, :4] * values[:4]) @ right[:4], atol=1e-5)
    options: dict[str, Any] = {"layers": 0, "hidden": (4,), "show_bar": False, "steps": 2, "warmup": 300}
    trained = al.spd.train(host.adapter, ["embed", "q"], 40, host.data(8), importance="mlp", **options)
    assert trained.places == (EMBED, (0, "attn.q"))
    table = trained.reconstruction(host.adapter)
    assert float(table["relative"].iloc[0]) < 0.6  # random factors are far above 1
    with pytest.raises(al.InputError, match=r'L0.embed is an embedding.*importance="mlp"; got \'vector_mlp\''):
        al.spd.train(host.adapter, ["embed"], 4, host.data(8), **options)


def test_a_run_of_goodfire_with_an_embedding(tmp_path: Path) -> None:
    """Masked logits against rows that are looked up, in float64; by the run's own target and the model's own path."""
    target = runs.llama_simple().state_dict()
    counts = {"wte": 3, "h.0.attn.q_proj": 5}
    parts = runs.random_parts(target, {"h.0.attn.q_proj": 5}, "mlp")
    parts |= runs.random_parts(target, {"wte": 3}, "mlp", transposed=True)  # V [vocab, C], U [C, width]
    config = runs.config_of("mlp", patterns=list(counts.items()))
    folder = runs.write(tmp_path, runs.whole_state(target, parts), config)
    batch = runs.tokens()
    V, U = (parts[f"_components.wte.{name}"].double() for name in "VU")
    by_path = al.adapt(runs.llama_simple(), example=batch)
    bridge = al.adapt(al.spd.load_target(folder))
    assert al.spd.load(folder).places == (EMBED, (0, "attn.q"))
    for adapter, where in ((bridge, EMBED), (by_path, (0, "wte"))):
        found = al.spd.load(folder, adapter)
        assert found.places[0] == where
        importances = found.importances(adapter, al.batch(batch))[where]
        raw = runs.raw_importances({**parts}, "wte", "mlp", functional.one_hot(batch, 29).double())
        torch.testing.assert_close(importances.double(), raw.clamp(0, 1), rtol=0, atol=1e-5)
        model = runs.llama_simple().double()
        rest = model.wte.weight - V @ U
        m = importances.double()
        model.wte.register_forward_hook(
            lambda _, args, __, m=m, rest=rest: (functional.embedding(args[0], V) * m) @ U + 0.3 * rest[args[0]]
        )
        expected = model(batch)[0]
        with torch.no_grad(), GatedModel(adapter, found).session() as own:
            logits = own.gated(al.batch(batch), {where: Gates(importances, torch.full((*batch.shape, 1), 0.3))})
        torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_importances_that_would_read_features_of_tokens_are_refused() -> None:
    host = host_of("torch", "gpt2")
    with pytest.raises(al.InputError, match=r'from its codes, "mlp"; this function is "shared_mlp"'):
        embedded(host, "shared_mlp").importances(host.adapter, host.data(2))


def test_embeddings_that_are_no_rows_of_their_weight_are_none() -> None:
    """Scaled ones, those of two stacks, and those of positions, which all examples share."""
    for name in ("gemma3", "t5"):
        assert al.adapt(families.model_of(name)).layout.embeddings == ()
    model = host_of("torch", "gpt2").adapter.model
    adapter = al.adapt(Wrapped(model), example=models.inputs_of("gpt2", 1))
    assert {module.name for module in adapter.layout.embeddings} == {"inner.transformer.wte", "inner.transformer.wpe"}
    V, U = torch.ones(32, 2), torch.ones(2, models.WIDTH)
    positions = Decomposition({(0, "inner.transformer.wpe"): Part(V, U)})
    with pytest.raises(al.AdapterError, match=r"transformer.wpe has 1 rows for 2 examples.*such as positions"):
        GatedModel(adapter, positions)
    tokens = Decomposition({(0, "inner.transformer.wte"): Part(torch.ones(models.VOCAB, 2), U)})
    found = al.MaskedModel(adapter, tokens.registry(adapter), output=last_logit)
    assert torch.equal(
        found.logits(found.mask(), al.batch(models.inputs_of("gpt2", 3))),
        models.logits_of(model, models.inputs_of("gpt2", 3)),
    )


class Wrapped(nn.Module):
    """A model that no family of the table is like, so its modules go by their paths."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.inner(input_ids).logits


def test_no_other_kind_cuts_an_embedding_and_none_by_default() -> None:
    adapter = host_of("torch", "gpt2").adapter
    for kind in ("row", "column", "matrix"):
        with pytest.raises(al.InputError, match=f"no component of kind '{kind}' in embed"):
            adapter.registry(kind, modules=["embed"])
    assert all(where[1] != "embed" for where in al.spd.svd(adapter, None, 1).places)
    with pytest.raises(al.InputError, match="'embed' is an embedding"):
        al.spd.svd(adapter, "embed.pre_identity", 2)
    wide = Decomposition({EMBED: Part(torch.ones(7, 2), torch.ones(2, models.WIDTH))})
    with pytest.raises(al.InputError, match=r"L0.embed is a 32 x 50 matrix, and its components are 32 x 7"):
        wide.registry(adapter)
