"""Identities that are put before modules, and decomposed: against an explicit matrix before the module."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

import ablationlens as al
from ablationlens.sites import Tap
from ablationlens.spd import PGD, Decomposition, Deterministic, Part, Stochastic, importance_function
from ablationlens.spd.forward import GatedModel, Gates
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.spd import runs
from tests.spd.small import COUNT, decomposed_at, logits_under, module_before
from tests.spd.test_forward import state

PLACES = {
    "gpt2": (
        (0, "attn.qkv.pre_identity"),
        (0, "mlp.in.pre_identity"),
        (1, "attn.o.pre_identity"),
        (1, "attn.o"),
        (1, "mlp.out.pre_identity"),
    ),
    "llama": (
        (0, "attn.q.pre_identity"),
        (0, "attn.v.pre_identity"),
        (0, "attn.v"),
        (1, "mlp.gate.pre_identity"),
        (1, "mlp.out.pre_identity"),
    ),
}
"""Identities of every width, alone and before a module that is decomposed too."""
LANGUAGE = [(held, name) for held in HOSTS for name in PLACES]


def inserted(host: Host, kind: str = "vector_mlp") -> Decomposition:
    return decomposed_at(host, PLACES[host.name], kind)


def gates(decomposition: Decomposition, value: float | None = None) -> dict[Any, Gates]:
    generator = torch.Generator().manual_seed(1)
    found = {
        where: Gates(torch.rand(3, 7, COUNT, generator=generator), torch.rand(3, 7, 1, generator=generator))
        for where in decomposition.places
    }
    return found if value is None else {w: Gates(*(torch.full_like(one, value) for one in g)) for w, g in found.items()}


def with_matrix(model: Any, layer: int, name: str, matrix: Tensor) -> Any:
    """A copy of a model with a linear map before a module."""
    own = copy.deepcopy(model)
    module, _ = models.module_of(own, layer, name)
    module.register_forward_pre_hook(lambda _, args: (args[0] @ matrix.T,))
    return own


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_everything_kept_is_bit_equal_to_the_model(held: str, name: str) -> None:
    host = host_of(held, name)
    data, plain = host.data(3), models.logits_of(models.module_in(host.adapter.model), host.inputs(3))
    masked = al.MaskedModel(host.adapter, inserted(host).registry(host.adapter), output=al.Logit(2))
    assert torch.equal(masked.logits(masked.mask(), data), plain)
    with torch.no_grad(), GatedModel(host.adapter, inserted(host)).session() as own:
        assert torch.equal(own.gated(data, gates(inserted(host), 1.0)), plain)
        assert torch.equal(own.target(data).logits, plain)


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_an_ablated_component_is_gone_from_the_matrix_before_the_module(held: str, name: str) -> None:
    """Each example of a batch against a copy of its own, for every identity: one part, and the remainder."""
    host = host_of(held, name)
    registry = inserted(host).registry(host.adapter)
    model = al.MaskedModel(host.adapter, registry, output=al.Logit(2))
    inputs = host.inputs(2)
    plain = models.logits_of(host.reference, inputs)
    for (layer, module), part in inserted(host).items():
        stem = module_before(module)
        if stem is None:
            continue
        eye = torch.eye(part.V.shape[0])
        matrices = [eye - torch.outer(part.U[4], part.V[:, 4]), (part.V @ part.U).T]
        names = [f"L{layer}.{module} rank_one 4", f"L{layer}.{module} remainder"]
        found = model.logits(torch.cat([model.mask([one]) for one in names]), host.data(2))
        for row, matrix in enumerate(matrices):
            expected = models.logits_of(with_matrix(host.reference, layer, stem, matrix), inputs[row : row + 1])
            assert models.close(found[row : row + 1], expected)
            assert models.distance(expected, plain[row : row + 1]) > 1e-3


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_random_gates_are_the_sum_of_components_and_remainder(held: str, name: str) -> None:
    """Identities and the modules after them at once, in both kinds of pass."""
    host = host_of(held, name)
    under = gates(inserted(host))
    expected = logits_under(host.reference, inserted(host), under, host.inputs(3))
    with torch.no_grad(), GatedModel(host.adapter, inserted(host)).session() as own:
        assert models.close(own.gated(host.data(3), under), expected)
    model = al.MaskedModel(host.adapter, inserted(host).registry(host.adapter), output=al.Logit(2))
    mask = torch.cat([one for gate in under.values() for one in gate], -1)
    assert models.close(model.logits(mask, host.data(3)), expected)


@pytest.mark.parametrize("name", PLACES)
def test_every_host_has_the_same_registry(name: str) -> None:
    found = {inserted(host_of("torch", name)).registry(host_of(held, name).adapter).fingerprint for held in HOSTS}
    assert len(found) == 1


@pytest.mark.parametrize("held", HOSTS)
def test_a_replacement_is_what_the_matrix_makes_of_it(held: str) -> None:
    """With another activation in place of nothing, an ablated part writes what it makes of that one."""
    host = host_of(held, "llama")
    registry = inserted(host).registry(host.adapter)
    other = host.inputs(1, seed=5)
    model = al.MaskedModel(host.adapter, registry, ablation=al.Counterfactual(al.batch(other)), output=al.Logit(2))
    seen: list[Tensor] = []
    own = copy.deepcopy(host.reference)
    module, _ = models.module_of(own, 0, "attn.q")
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    models.logits_of(own, other)
    handle.remove()
    part = inserted(host)[0, "attn.q.pre_identity"]
    taken = {"rank_one 3": torch.outer(part.U[3], part.V[:, 3]), "remainder": torch.eye(32) - (part.V @ part.U).T}
    for name, matrix in taken.items():
        handle = module.register_forward_pre_hook(
            lambda _, args, matrix=matrix: (args[0] + (seen[0] - args[0]) @ matrix.T,)
        )
        expected = models.logits_of(own, host.inputs(1))
        handle.remove()
        found = model.logits(model.mask([f"L0.attn.q.pre_identity {name}"]), host.data(1))
        assert models.close(found, expected)
        assert models.distance(found, models.logits_of(own, host.inputs(1))) > 1e-3


@pytest.mark.parametrize("held", HOSTS)
def test_gradients_of_gates_are_those_of_the_matrix(held: str) -> None:
    host = host_of(held, "gpt2")
    registry = inserted(host).registry(host.adapter)
    model = al.MaskedModel(host.adapter, registry, output=lambda logits: logits[:, -1, 2])
    mask = torch.ones(1, len(registry), requires_grad=True)
    model(mask, host.data(1)).sum().backward()
    matrix = torch.eye(models.WIDTH, requires_grad=True)
    own = with_matrix(host.reference, 0, "attn.qkv", matrix)
    own(host.inputs(1)).logits[:, -1, 2].sum().backward()
    part = inserted(host)[0, "attn.qkv.pre_identity"]
    assert mask.grad is not None
    assert matrix.grad is not None
    assert models.close(mask.grad[0, :COUNT], torch.einsum("oi,ic,co->c", matrix.grad, part.V, part.U))
    assert models.close(mask.grad[0, COUNT], (matrix.grad * (matrix - (part.V @ part.U).T)).sum())


@pytest.mark.parametrize(("held", "name"), LANGUAGE)
def test_the_model_is_as_it_was(held: str, name: str) -> None:
    adapter = al.adapt(host_of(held, name).fresh())
    model = models.module_in(adapter.model)
    before = state(model)
    decomposition = copy.deepcopy(inserted(host_of(held, name))).requires_grad_(True)
    with GatedModel(adapter, decomposition).session() as own:
        own.gated(host_of(held, name).data(3), gates(decomposition)).sum().backward()
    assert state(model) == before
    assert all(part.V.grad is not None and part.U.grad is not None for _, part in decomposition.items())


def test_padding_of_an_encoder_reaches_the_identity_before_keys_of_the_decoder() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
    adapter = al.adapt(T5ForConditionalGeneration(config).eval())
    V, U = torch.randn(16, 3), torch.randn(3, 16)
    where = (1, "decoder.cross.k.pre_identity")
    decomposition = Decomposition({where: Part(V, U)})
    data = al.batch(
        {
            "input_ids": torch.randint(1, 40, (2, 6)),
            "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
            "decoder_input_ids": torch.randint(1, 40, (2, 5)),
        }
    )
    found = decomposition.importances(adapter, data)[where]
    assert found.shape == (2, 6, 3)
    assert bool((found[1, 4:] == 0).all())
    assert bool((found[1, :4] == 1).all())
    model = al.MaskedModel(adapter, decomposition.registry(adapter), output=al.Logit(2))
    assert torch.equal(model.logits(model.mask(), data), model.logits(torch.ones(1, 4), data))


# --- what is cut beside them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", HOSTS)
def test_heads_and_columns_of_the_module_are_cut_after_its_identity(held: str) -> None:
    host = host_of(held, "llama")
    part = decomposed_at(host, ((1, "attn.o.pre_identity"),))[1, "attn.o.pre_identity"]
    registry = host.adapter.registry("head", layers=[1]) + Decomposition({(1, "attn.o.pre_identity"): part}).registry(
        host.adapter
    )
    model = al.MaskedModel(host.adapter, registry, output=al.Logit(2))
    found = model.logits(model.mask(["L1.head 2", "L1.attn.o.pre_identity rank_one 1"]), host.data(1))
    matrix = torch.eye(models.WIDTH) - torch.outer(part.U[1], part.V[:, 1])
    matrix[16:24] = 0
    expected = models.logits_of(with_matrix(host.reference, 1, "attn.o", matrix), host.inputs(1))
    assert models.close(found, expected)


def test_an_identity_and_its_module_are_two_weights_and_one_identity_is_one() -> None:
    host = host_of("torch", "llama")
    registry = inserted(host).registry(host.adapter)
    assert registry.names[COUNT - 1 : COUNT + 1] == (
        "L0.attn.q.pre_identity rank_one 5",
        "L0.attn.q.pre_identity remainder",
    )
    site = registry.parts[0].site
    assert (site.read, site.write) == (Tap(0, "attn.q", "in"), Tap(0, "attn.q", "in"))
    _ = registry + host.adapter.registry("row", modules=["q"])
    with pytest.raises(al.OverlapError, match=r"L0.attn.q.pre_identity is cut twice"):
        _ = registry + host.adapter.registry("rank_one", modules=["q.pre_identity"], layers=[0], svd=2)


# --- methods, modes, files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", HOSTS)
def test_importances_are_the_functions_of_the_modules_own_input(held: str) -> None:
    """An identity and the module after it read the same, whatever else is inserted."""
    host = host_of(held, "llama")
    found = inserted(host).importances(host.adapter, host.data(3))
    seen: list[Tensor] = []
    module, _ = models.module_of(host.reference, 0, "attn.v")
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    models.logits_of(host.reference, host.inputs(3))
    handle.remove()
    for where in ((0, "attn.v.pre_identity"), (0, "attn.v")):
        expected = inserted(host)[where].importance(seen[0]).clamp(0, 1)
        assert models.close(found[where], expected)
        assert float(expected.std()) > 0.1


@pytest.mark.parametrize("mode", [Deterministic, Stochastic, lambda d: PGD(d, 2, 0.2)])
@pytest.mark.parametrize(("held", "name"), [("torch", "gpt2"), ("transformer_lens", "llama"), ("nnsight", "llama")])
def test_modes(held: str, name: str, mode: Any) -> None:
    host = host_of(held, name)
    base, data = mode(inserted(host)), host.data(3)
    model = al.MaskedModel(host.adapter, inserted(host).registry(host.adapter), output=al.KL(), base=base)
    expected = logits_under(host.reference, inserted(host), base.module_gates(host.adapter, data), host.inputs(3))
    assert models.close(model.logits(model.mask(), data), expected)


def test_what_comes_back_from_json_and_from_a_file(tmp_path: Path) -> None:
    host = host_of("torch", "gpt2")
    registry = inserted(host).registry(host.adapter)
    assert al.Registry.from_json(registry.to_json()) == registry
    al.spd.save(inserted(host), tmp_path / "one.safetensors")
    again = al.spd.load(tmp_path / "one.safetensors", host.adapter)
    assert again.places == PLACES["gpt2"]
    assert again.fingerprint == inserted(host).fingerprint
    assert again.registry(host.adapter) == registry


def test_the_remainder_of_an_identity_is_what_the_components_leave_of_it() -> None:
    host = host_of("torch", "gpt2")
    table = inserted(host).reconstruction(host.adapter)
    part = inserted(host)[0, "mlp.in.pre_identity"]
    row = table[table["module"] == "mlp.in.pre_identity"].iloc[0]
    left = np.eye(models.WIDTH) - (part.V.double() @ part.U.double()).T.numpy()
    assert row["error"] == pytest.approx(float((left**2).mean()), rel=1e-5)
    whole = al.spd.svd(host.adapter, "mlp.in.pre_identity", models.WIDTH)
    assert float(whole.reconstruction(host.adapter)["relative"].max()) < 1e-6


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_takes_identities_by_name_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    host = host_of("torch", "llama")
    options: dict[str, Any] = {"layers": 1, "warmup": 3, "hidden": (4,), "show_bar": False, "seed": 1}
    names, counts = ["v", "q.pre_identity", "q"], {"q": 3, "v": 2, "q.pre_identity": 5}
    found = al.spd.train(host.adapter, names, counts, host.data(8), steps=4, **options)
    assert found.places == ((1, "attn.q.pre_identity"), (1, "attn.q"), (1, "attn.v"))
    assert [part.components for _, part in found.items()] == [5, 3, 2]
    path = tmp_path / "state.safetensors"

    def stop(step: int) -> al.Batch:
        if step == 2:
            raise KeyboardInterrupt
        return host.data(8, seed=step)

    options |= {"checkpoint": path, "every": 1, "steps": 4}
    with pytest.raises(KeyboardInterrupt):
        al.spd.train(host.adapter, names, counts, stop, **options)
    resumed = al.spd.train(host.adapter, names, counts, lambda step: host.data(8, seed=step), **options)
    options |= {"checkpoint": None}
    once = al.spd.train(host.adapter, names, counts, lambda step: host.data(8, seed=step), **options)
    assert resumed.fingerprint == once.fingerprint


def test_warming_up_brings_the_components_of_an_identity_near_it() -> None:
    host = host_of("torch", "mlp")
    found = al.spd.train(
        host.adapter, "middle.pre_identity", 24, host.data(16), steps=1, warmup=300, output="mse", show_bar=False
    )
    assert float(found.reconstruction(host.adapter)["relative"].iloc[0]) < 0.3


# --- runs of goodfire-ai/spd ------------------------------------------------------------------------------------------


def run_with_identity(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    target = runs.llama_simple().state_dict()
    counts = {"h.0.attn.q_proj": 5, "h.0.attn.q_proj.pre_identity": 4, "h.1.mlp.down_proj.pre_identity": 4}
    state_dict = runs.whole_state(target, runs.random_parts(target, counts, "vector_mlp"))
    config = runs.config_of(patterns=[("h.0.attn.q_proj", 5)])
    config["identity_module_info"] = [{"module_pattern": f"h.{one}_proj", "C": 4} for one in ("0.attn.q", "1.mlp.down")]
    return runs.write(folder, state_dict, config), state_dict


def test_spd_requirement_26_identities_of_a_run_are_read(tmp_path: Path) -> None:
    """Importances and masked logits against the explicit matrices of the run, in float64."""
    folder, state_dict = run_with_identity(tmp_path)
    bridge = al.adapt(al.spd.load_target(folder))
    found, batch = al.spd.load(folder, bridge), runs.tokens()
    paths = {"L0.attn.q.pre_identity": "h.0.attn.q_proj.pre_identity", "L0.attn.q": "h.0.attn.q_proj"}
    assert found.provenance["paths"] == {**paths, "L1.mlp.out.pre_identity": "h.1.mlp.down_proj.pre_identity"}
    assert (
        found.places
        == al.spd.load(folder).places
        == tuple((int(name[1]), name[3:]) for name in found.provenance["paths"])
    )
    importances = found.importances(bridge, al.batch(batch))
    model, seen = runs.llama_simple().double(), {}
    for path in ("h.0.attn.q_proj", "h.1.mlp.down_proj"):
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: seen.__setitem__(path, args[0]))
    model(batch)
    for name, path in found.provenance["paths"].items():
        raw = runs.raw_importances(state_dict, path, "vector_mlp", seen[path.removesuffix(".pre_identity")])
        where = (int(name[1]), name[3:])
        torch.testing.assert_close(importances[where].double(), raw.clamp(0, 1), rtol=0, atol=1e-5)
    model = runs.llama_simple().double()
    for path in ("h.0.attn.q_proj", "h.1.mlp.down_proj"):
        key = f"_components.{path.replace('.', '-')}-pre_identity"
        V, U = state_dict[f"{key}.V"].double(), state_dict[f"{key}.U"].double()
        where = next(at for at in found.places if name_of_run(at) == f"{path}.pre_identity")
        m = importances[where].double()

        def before(_: Any, args: Any, V: Tensor = V, U: Tensor = U, m: Tensor = m) -> Any:
            (x,) = args
            rest = torch.eye(len(V)).double() - torch.einsum("ic,co->oi", V, U)
            return (((x @ V) * m) @ U + 0.3 * x @ rest.T,)

        model.get_submodule(path).register_forward_pre_hook(before)
    expected = model(batch)[0]
    under = {
        where: Gates(importances[where], torch.full((*batch.shape, 1), 0.3))
        for where in found.places
        if where[1].endswith("pre_identity")
    }
    with torch.no_grad(), GatedModel(bridge, found).session() as own:
        logits = own.gated(al.batch(batch), under)
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)
    assert (expected - runs.masked_logits(state_dict, {}, batch)).abs().max() > 0.1


def name_of_run(where: tuple[int, str]) -> str:
    return (
        f"h.{where[0]}."
        + {"attn.q": "attn.q_proj", "mlp.out": "mlp.down_proj"}[where[1].removesuffix(".pre_identity")]
        + (".pre_identity" if where[1].endswith(".pre_identity") else "")
    )


def test_an_identity_of_a_run_belongs_to_the_models_own_module(tmp_path: Path) -> None:
    """A model with another weight after the identity is another model."""
    folder, _ = run_with_identity(tmp_path)
    other = runs.llama_simple()
    other.h[1].mlp.down_proj.weight += 1
    adapter = al.adapt(other, example=runs.tokens())
    with pytest.raises(al.InputError, match=r"down_proj in this model is not that of h.1.mlp.down_proj in the run"):
        al.spd.load(folder, adapter)
    adapter = al.adapt(runs.llama_simple(), example=runs.tokens())
    found = al.spd.load(folder, adapter)
    assert [module for _, module in found.places] == [
        "h.0.attn.q_proj.pre_identity",
        "h.0.attn.q_proj",
        "h.1.mlp.down_proj.pre_identity",
    ]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_identities_that_cannot_be() -> None:
    gpt2, convnet = host_of("torch", "gpt2").adapter, host_of("torch", "convnet").adapter
    with pytest.raises(al.InputError, match=r"'attn.q' reads what .* in attn.qkv read.*'attn.qkv.pre_identity'"):
        al.spd.svd(gpt2, "q.pre_identity", 2)
    with pytest.raises(al.InputError, match=r"before a linear module; 'first' is a convolution"):
        al.spd.svd(convnet, "first.pre_identity", 2)
    with pytest.raises(al.UnknownNameError, match="no module 'qq'"):
        al.spd.svd(gpt2, "qq.pre_identity", 2)
    with pytest.raises(al.InputError, match="no component of kind 'row' in attn.o.pre_identity"):
        gpt2.registry("row", modules=["o.pre_identity"])
    V, U = torch.ones(models.WIDTH, 2), torch.ones(2, 3 * models.WIDTH)
    wide = Decomposition({(0, "attn.qkv.pre_identity"): Part(V, U, importance_function("mlp", 2, models.WIDTH, (3,)))})
    with pytest.raises(al.InputError, match=r"is a 32 x 32 matrix, and its components are 96 x 32"):
        wide.registry(gpt2)
    with pytest.raises(al.InputError, match=r"V \[32, C\] and U \[C, 32\]"):
        gpt2.registry("rank_one", factors={(0, "qkv.pre_identity"): (V, U)})
