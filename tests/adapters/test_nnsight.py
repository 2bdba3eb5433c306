"""The nnsight adapter: one trace for each pass, in the model's order, and in a form that can run elsewhere."""

from __future__ import annotations

import copy
import gc
import linecache
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnsight
import pytest
import torch
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.util import push
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.nnsight import NNsightAdapter
from tests import models
from tests.conftest import host_of


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    words = {str(number): number for number in range(models.VOCAB)}
    made = Tokenizer(tokenizer_models.WordLevel(words, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="0", eos_token="1")


def wrapped(name: str, tokenizer: Any) -> nnsight.TransformersModel:
    return nnsight.TransformersModel(models.MODELS[name](), tokenizer=tokenizer)


@pytest.fixture(params=["NNsight", "TransformersModel"])
def held(request: pytest.FixtureRequest, tokenizer: Any) -> Any:
    return nnsight.NNsight(models.gpt2()) if request.param == "NNsight" else wrapped("gpt2", tokenizer)


# --- the same as the other hosts ------------------------------------------------------------------------------------


def test_the_host_follows_from_the_type(held: Any) -> None:
    adapter = al.adapt(held)
    assert type(adapter) is NNsightAdapter
    assert adapter.describe()["host"] == "nnsight"
    assert adapter.layout == host_of("torch", "gpt2").adapter.layout


def test_padded_batches_agree_with_plain_pytorch(held: Any, tokenizer: Any) -> None:
    plain = host_of("torch", "gpt2")
    data = al.batch(["5 17 3 9", "8 2", "1 1 4 7 7 3"], tokenizer=tokenizer)
    registry = plain.registry("head")
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(0)) < 0.6).float()
    here, there = (al.MaskedModel(one, registry).logits(mask, data) for one in (al.adapt(held), plain.adapter))
    real = data.attended
    assert real is not None
    assert models.close(here[real], there[real])
    assert models.distance(here[real], models.logits_of(plain.reference, dict(data.inputs))[real]) > 1e-3


def test_many_masks_are_one_trace_and_one_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nnsight.NNsight(models.gpt2())
    adapter = al.adapt(net)
    masked = al.MaskedModel(adapter, adapter.registry("row"), output=lambda logits: logits.flatten(1).sum(1))
    calls: list[tuple[int, ...]] = []
    net._module.register_forward_hook(lambda m, a, out: calls.append(tuple(out.logits.shape)))
    traces = []
    plain = net.trace
    monkeypatch.setattr(net, "trace", lambda *a, **k: traces.append(1) or plain(*a, **k))
    masked.sweep(al.Bernoulli(len(masked.registry), 0.3, 12), al.batch(models.inputs_of("gpt2", 2)), rows=24)
    assert [shape[0] for shape in calls] == [24]
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sites_run_in_the_models_order_whatever_the_registrys(name: str) -> None:
    host = host_of("nnsight", name)
    adapter = host.adapter
    forwards = [
        adapter.registry("row", modules=[module], layers=[layer])
        for layer in range(models.LAYERS)
        for module in ("q", "v", "o", "mlp.in")
    ]
    forwards += [adapter.registry("column", modules=["mlp.out"], layers=[1])]
    forwards += [adapter.registry("rank_one", svd=2, modules=["mlp.out"], layers=[0])]
    backwards = forwards[-1]
    for registry in reversed(forwards[:-1]):
        backwards = backwards + registry
    off = [backwards[column] for column in (0, 1, 5, 40, 90, len(backwards) - 3)]
    masked = al.MaskedModel(adapter, backwards)
    got = masked.logits(masked.mask(off=off), host.data())
    assert models.close(got, models.logits_of(models.edited(host.reference, off), host.inputs()))
    with pytest.raises(Exception, match="OutOfOrder|out of order|already"):  # what nnsight says to that order by itself
        in_the_registrys_order(adapter, backwards, host.inputs())


def in_the_registrys_order(adapter: Any, registry: al.Registry, inputs: Tensor) -> None:
    paths = [adapter.place(part.site.write).address for part in registry.parts]
    with adapter.envoy.trace(inputs):
        for path in paths:
            envoy = adapter.envoy.get(path)
            envoy.output = envoy.output * 1.0


@pytest.mark.parametrize("kind", ["row", "column"])
def test_every_call_of_a_module_is_ablated(kind: str) -> None:
    inputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    outputs = []
    for model in (models.twice(), nnsight.NNsight(models.twice())):
        adapter = al.adapt(model, inputs, allow_repeated=True)
        registry = adapter.registry(kind)
        mask = torch.rand(3, len(registry), generator=torch.Generator().manual_seed(1))
        outputs.append(al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs)))
    assert models.close(outputs[1], outputs[0])
    assert models.distance(outputs[0], models.logits_of(models.twice(), inputs)) > 1e-2
    with pytest.raises(al.AdapterError, match="2 times.*allow_repeated"):
        adapter = al.adapt(nnsight.NNsight(models.twice()), inputs)
        al.MaskedModel(adapter, adapter.registry(kind))


class NamedLikeNNsight(nn.Module):
    """Modules whose names nnsight uses itself, as BERT's `output` is."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(6, 8)
        self.output = nn.Sequential(nn.GELU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.input(x))


def test_modules_named_as_nnsights_own_attributes_are_found() -> None:
    model = models.scramble(NamedLikeNNsight())
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="output"):
        net = nnsight.NNsight(copy.deepcopy(model))
    adapters = [al.adapt(model, inputs), al.adapt(net, inputs)]
    registry = adapters[0].registry("row")
    assert registry.names == adapters[1].registry("row").names
    mask = (torch.rand(4, len(registry), generator=torch.Generator().manual_seed(1)) < 0.5).float()
    outputs = [al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs)) for adapter in adapters]
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], models.logits_of(model, inputs))


class Sometimes(nn.Module):
    """A module that runs for some inputs only."""

    def __init__(self) -> None:
        super().__init__()
        self.always = nn.Linear(4, 4)
        self.sometimes = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.always(x)
        return self.sometimes(hidden) if float(x.sum()) > 0 else hidden


def test_a_site_that_does_not_fire_in_a_pass_is_an_error() -> None:
    adapter = al.adapt(nnsight.NNsight(Sometimes().eval()), torch.ones(1, 4))
    model = al.MaskedModel(adapter, adapter.registry("row"))
    assert model.logits(model.mask(), al.batch(torch.ones(2, 4))).shape == (2, 4)
    with pytest.raises(al.AdapterError, match="did not fire.*sometimes"):
        model.logits(model.mask(), al.batch(-torch.ones(2, 4)))


# --- beside interventions of the user's own -------------------------------------------------------------------------


def halved_mlp(net: Any) -> Any:
    with net.edit() as (_, edited):
        edited.transformer.h[0].mlp.output = edited.transformer.h[0].mlp.output * 0.5
    return edited


def test_registered_edits_are_part_of_the_model(held: Any) -> None:
    edited = halved_mlp(held)
    inputs = models.inputs_of("gpt2")
    data = al.batch(inputs)
    reference = models.gpt2()
    plain = models.logits_of(reference, inputs)
    handle = reference.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: 0.5 * out)
    expected = models.logits_of(reference, inputs)
    handle.remove()
    adapter = al.adapt(edited)
    model = al.MaskedModel(adapter, adapter.registry("head"))
    assert models.close(model.logits(model.mask(), data), expected, 1e-6)
    assert models.distance(plain, expected) > 1e-2
    off = [model.registry[5]]
    oracle = models.edited(reference, off)
    oracle.transformer.h[0].mlp.register_forward_hook(lambda m, a, out: 0.5 * out)
    assert models.close(model.logits(model.mask(off=off), data), models.logits_of(oracle, inputs))
    original = al.adapt(held)  # the model that was not edited still is not
    assert torch.equal(al.MaskedModel(original, model.registry).logits(model.mask(), data), plain)
    assert (adapter.describe()["edits"], original.describe()["edits"]) == (1, 0)


def test_an_ablation_reads_what_an_edit_leaves_and_hooks_of_pytorch_come_after_it() -> None:
    """The order that the documentation promises, at one module: edit, ablation, forward hook."""
    net = nnsight.NNsight(models.gpt2())
    seen: list[Tensor] = []
    net._module.transformer.h[0].mlp.c_proj.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with net.edit() as (_, edited):
        edited.transformer.h[0].mlp.c_proj.output = edited.transformer.h[0].mlp.c_proj.output + 100.0
    adapter = al.adapt(edited)
    registry = adapter.registry("row", modules=["mlp.out"], layers=[0])
    model = al.MaskedModel(adapter, registry, al.Zero(include_bias=True))
    seen.clear()
    model.logits(model.mask(off=[registry[3]]), al.batch(models.inputs_of("gpt2")))
    assert float(seen[0][..., 3].abs().max()) == 0  # neither the edit's 100 nor the weights
    assert float(seen[0][..., 4].min()) > 50


def test_runs_inside_a_session_of_the_users(held: Any) -> None:
    adapter = al.adapt(held)
    model = al.MaskedModel(adapter, adapter.registry("head"), output=al.Margin())
    design, data = al.Bernoulli(8, 0.3, 6), al.batch(models.inputs_of("gpt2"))
    expected = model.sweep(design, data)
    with held.session():
        with held.trace(models.inputs_of("gpt2")):
            hidden = held.transformer.h[0].output.save()
        swept = nnsight.save(model.sweep(design, data))
    assert torch.equal(swept, expected)
    assert hidden is not None


def test_runs_inside_a_trace_are_refused(held: Any) -> None:
    adapter = al.adapt(held)
    model = al.MaskedModel(adapter, adapter.registry("head"))
    inputs = models.inputs_of("gpt2")
    with pytest.raises(al.AdapterError, match=r"outside the 'with model.trace"), held.trace(inputs):
        model.logits(model.mask(), al.batch(inputs))
    assert models.close(model.logits(model.mask(), al.batch(inputs)), models.logits_of(models.gpt2(), inputs), 1e-6)


def test_the_users_traces_work_after_ours(held: Any) -> None:
    adapter = al.adapt(held)
    model = al.MaskedModel(adapter, adapter.registry("row"))
    inputs = models.inputs_of("gpt2")
    model.logits(torch.zeros(1, len(model.registry)), al.batch(inputs))
    with held.trace(inputs):
        logits = held.output.logits.save()
    assert models.close(logits, models.logits_of(models.gpt2(), inputs), 1e-6)


# --- elsewhere --------------------------------------------------------------------------------------------------------


class RoundTrip(Backend):
    """What nnsight does for remote=True, with the server in this process: it knows the model, torch and nnsight.

    The request is serialised, read back and run from what it carries, while this library cannot be imported; what was
    saved goes back to the frame of the caller.
    """

    def __init__(self, model: Any, requests: list[bytes]) -> None:
        self.model, self.requests = model, requests

    def __call__(self, tracer: Any) -> None:
        self.requests.append(RequestModel.serialize(tracer, compress=False))
        known = linecache.cache.copy()
        with not_installed("ablationlens"):
            received = RequestModel.deserialize(self.requests[-1], self.model._remoteable_persistent_objects())
            received.execute(received.info.code)
        linecache.cache.clear()
        linecache.cache.update(known)
        saved = {name: nnsight.save(received.info.frame.f_locals[name]) for name in ("output", "kept")}
        push(tracer.info.frame, saved)


@contextmanager
def not_installed(package: str) -> Iterator[None]:
    """No module of a package can be imported."""
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == package}
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        with pytest.raises(ImportError):
            __import__(package)
        yield
    finally:
        sys.modules.update(hidden)


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Requests of passes that are asked for with remote=True; each is run from its serialised form."""
    requests: list[bytes] = []

    monkeypatch.setattr(
        nnsight.TransformersModel, "_remote_backend", lambda self, remote, *options: RoundTrip(self, requests)
    )
    return requests


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["head", "row", "column", "neuron", "svd", "projected column"])
def test_a_remote_run_gives_the_same_numbers(name: str, kind: str, tokenizer: Any, round_trips: list[bytes]) -> None:
    if kind == "projected column" and name == "llama":
        kind = "factors"
    host = host_of("torch", name)
    registry, data = host.registry(kind), host.data()
    net = wrapped(name, tokenizer)
    net.repo_id = "owner/tiny"  # as a model of the hub has one
    adapter = al.adapt(net, remote=True)
    mask = torch.rand(4, len(registry), generator=torch.Generator().manual_seed(0))
    for ablation in (al.Zero(), al.Mean(host.data(6, seed=3))):
        with torch.no_grad():
            here = al.MaskedModel(host.adapter, registry, ablation).logits(mask, data)
            there = al.MaskedModel(adapter, registry, ablation).logits(mask, data)
        assert models.close(there, here, 1e-6)
    assert len(round_trips) == 3  # two passes, and one that read activations for the mean
    assert models.distance(here, models.logits_of(host.reference, host.inputs())) > 1e-3


def test_local_simulation_of_a_remote_sweep(tokenizer: Any) -> None:
    host = host_of("torch", "llama")
    registry = host.registry("head")
    adapter = al.adapt(wrapped("llama", tokenizer), remote="local")
    results = [
        al.coar(al.MaskedModel(one, registry, output=al.Margin()), host.data(), alpha=0.3, draws=40, seed=1)
        for one in (host.adapter, adapter)
    ]
    assert abs(results[0].weights.values - results[1].weights.values).max() < 1e-5


def test_what_cannot_run_remotely_says_so(tokenizer: Any) -> None:
    with pytest.raises(al.AdapterError, match=r"nnsight.TransformersModel\('owner/name'\)"):
        al.adapt(nnsight.NNsight(models.gpt2()), remote=True)
    with pytest.raises(al.AdapterError, match="name on the hub.*remote='local'"):
        al.adapt(wrapped("gpt2", tokenizer), remote=True)
    with pytest.raises(al.AdapterError, match="got 'junk'"):
        al.adapt(wrapped("gpt2", tokenizer), remote="junk")
    with pytest.raises(al.InputError, match="remote=True is for models of nnsight"):
        al.adapt(models.gpt2(), remote=True)
    adapter = al.adapt(wrapped("gpt2", tokenizer), remote="local")
    model = al.MaskedModel(adapter, adapter.registry("head"), output=al.Margin())
    with pytest.raises(al.AdapterError, match="gradients do not come back"):
        model.sweep_gradient(al.Bernoulli(8, 0.3, 4), al.batch(models.inputs_of("gpt2")))


@pytest.fixture
def without_weights(tmp_path: Path, tokenizer: Any) -> Any:
    """A model as remote users hold it: its shapes here, its weights on the server."""
    models.gpt2().save_pretrained(tmp_path)
    return nnsight.TransformersModel(str(tmp_path), task="text-generation", tokenizer=tokenizer)


def test_a_model_whose_weights_are_elsewhere_is_adapted_for_remote_runs(without_weights: Any) -> None:
    adapter = al.adapt(without_weights, remote=True)
    assert without_weights.device == torch.device("meta")
    assert adapter.layout == host_of("torch", "gpt2").adapter.layout
    assert adapter.describe()["parameters"] > 0
    rows = al.MaskedModel(adapter, adapter.registry("row"))
    with pytest.raises(al.AdapterError, match=r"not on this machine.*dispatch=True.*include_bias=True"):
        rows.bind(al.batch(models.inputs_of("gpt2")))
    heads = al.MaskedModel(adapter, adapter.registry("head"), al.Zero())
    bound = heads.bind(al.batch(models.inputs_of("gpt2")))
    assert all(value.device.type == "cpu" for value in bound.replacements.values.values())


def test_a_model_that_is_loaded_on_first_use_is_loaded(without_weights: Any) -> None:
    adapter = al.adapt(without_weights)
    model = al.MaskedModel(adapter, adapter.registry("head"))
    inputs = models.inputs_of("gpt2")
    assert models.close(model.logits(model.mask(), al.batch(inputs)), models.logits_of(models.gpt2(), inputs), 1e-6)


# --- on a trained model -----------------------------------------------------------------------------------------------


def test_attributions_of_domains_equal_those_on_a_bridge() -> None:
    zoo = al.zoo.load("domains")
    data = al.batch(zoo.texts("python", tokens=16)[:2], tokenizer=zoo.tokenizer)
    found = {}
    for host, model in (("nnsight", nnsight.NNsight(zoo.model)), ("transformer_lens", zoo.bridge())):
        adapter = al.adapt(model)
        masked = al.MaskedModel(adapter, adapter.registry("head"), output=al.Margin())
        found[host] = [al.coar(masked, data, alpha=0.2, draws=120, seed=3), al.leave_one_out(masked, data)]
    for here, there in zip(*found.values(), strict=True):
        assert abs(here.weights.values - there.weights.values).max() < 1e-4
        assert abs(here.weights.values).max() > 0.1


# --- attention patterns -----------------------------------------------------------------------------------------------


def test_patterns_are_those_of_the_model(tokenizer: Any) -> None:
    model = models.llama()
    reference = models.llama()
    reference.set_attn_implementation("eager")
    with torch.no_grad():
        expected = reference(models.inputs_of("llama"), output_attentions=True).attentions
    found = al.adapt(nnsight.NNsight(model)).patterns(al.batch(models.inputs_of("llama")))
    assert list(found) == [0, 1]
    assert all(models.close(found[layer], expected[layer]) for layer in found)
    remote = al.adapt(wrapped("llama", tokenizer), remote="local")
    with pytest.raises(al.AdapterError, match="on this machine"):
        remote.patterns(al.batch(models.inputs_of("llama")))


# --- sites of the user's own ------------------------------------------------------------------------------------------


class Doubled(al.Basis):
    width = components = 5

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return 2 * codes


def test_what_a_basis_reads_is_as_it_was_though_a_later_module_overwrites_it(tokenizer: Any) -> None:
    model = models.scramble(nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5)))
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    site = al.custom_site("skip", {"torch": "0"}, basis=Doubled(), write={"torch": "2"})
    adapter = al.adapt(nnsight.NNsight(copy.deepcopy(model)), inputs)
    masked = al.MaskedModel(adapter, adapter.registry(site))
    with torch.no_grad():
        hidden = model[0](inputs)
        expected = model[2](hidden.relu()) - 2 * hidden
    assert models.close(masked.logits(torch.zeros(1, 5), al.batch(inputs)), expected)
    remote = al.adapt(wrapped("gpt2", tokenizer), remote="local")
    latents = al.custom_site("wide", {"torch": "transformer.h.0"}, basis=al.Dictionary(torch.eye(32), torch.eye(32)))
    ours = al.MaskedModel(remote, remote.registry(latents))
    with pytest.raises(al.AdapterError, match="basis of your own runs on this machine"):
        ours.logits(torch.zeros(1, 32), al.batch(models.inputs_of("gpt2")))


def test_what_an_edit_of_the_users_keeps_is_not_overwritten(held: Any) -> None:
    kept: list[Tensor] = []
    with held.edit() as (_, edited):
        kept.append(edited.transformer.h[0].mlp.c_proj.output)
    adapter = al.adapt(edited)
    kept.clear()
    model = al.MaskedModel(
        adapter, adapter.registry("row", modules=["mlp.out"], layers=[0]), al.Zero(include_bias=True)
    )
    with torch.no_grad():
        model.logits(torch.zeros(1, 32), al.batch(models.inputs_of("gpt2")))
    assert float(kept[0].abs().max()) > 0


def test_a_pass_leaves_no_masks_and_logits_to_the_garbage_collector(held: Any) -> None:
    """Traces hold themselves; a sweep whose passes waited to be collected would grow with them."""
    adapter = al.adapt(held)
    model = al.MaskedModel(adapter, adapter.registry("row"))
    data, mask = al.batch(models.inputs_of("gpt2")), torch.zeros(4, len(model.registry))
    model.logits(mask, data)
    gc.collect()
    gc.disable()
    try:
        bound = model.bind(data)
        edits = model.plan.edits(mask, bound.stand_ins)
        with torch.no_grad():
            logits = adapter.run(bound.data, edits)
        kept = [weakref.ref(logits), weakref.ref(edits[0].edit.off)]
        del logits, edits
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()
