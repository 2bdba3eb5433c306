"""Attention patterns under masks: against transformers, TransformerLens and models with edited weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from torch import Tensor

import ablationlens as al
from ablationlens.diagnostics.patterns import attention_patterns, attention_summary
from tests import families, models
from tests.conftest import HOSTS, Host, host_of
from tests.families import FAMILIES, model_of
from tests.outputs.examples import Tokens
from tests.outputs.test_targets import naive

ROWS = [[5, 9, 5, 9, 7, 5], [3, 3, 8, 3], [6, 2, 6]]
OFF = ["L0.head 1", "L0.head 3", "L1.head 0"]


@pytest.fixture(params=[(host, name) for host in HOSTS for name in ("gpt2", "llama")], ids="-".join)
def held(request: pytest.FixtureRequest) -> Host:
    return host_of(*request.param)


def of_heads(adapter: al.Adapter) -> al.MaskedModel:
    return al.MaskedModel(adapter, adapter.registry("head"))


def returned(model: Any, inputs: dict[str, Tensor], name: str = "attentions") -> Tensor:
    """The patterns that transformers returns, [example, layer, head, query, key]."""
    own = copy.deepcopy(model)
    own.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.stack(own(**inputs, output_attentions=True)[name], 1)


def padded(rows: list[list[int]], left: bool) -> al.Batch:
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for example, row in enumerate(rows):
        real = slice(length - len(row), length) if left else slice(0, len(row))
        ids[example, real], mask[example, real] = torch.tensor(row), 1
    return al.batch(ids, attention_mask=mask)


def same(found: xr.DataArray, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return np.abs(found.values - expected.numpy()).max() < tolerance


# -- what they are -----------------------------------------------------------------------------------------------------


def test_unablated_they_are_those_of_transformers(held: Host) -> None:
    inputs = held.inputs(3)
    found = attention_patterns(of_heads(held.adapter), al.batch(inputs))
    assert found.dims == ("example", "layer", "head", "query", "key")
    assert (found.shape, found.dtype) == ((3, 2, 4, 7, 7), np.float32)
    assert same(found, returned(held.reference, {"input_ids": inputs}))
    assert np.abs(found.sum("key").values - 1).max() < 1e-5


@pytest.mark.parametrize("name", ["bert", "gpt_neox", "gemma2", "qwen3", "phi"])
@pytest.mark.parametrize("host", HOSTS)
def test_other_families(host: str, name: str) -> None:
    family, model = FAMILIES[name], model_of(name)
    found = attention_patterns(of_heads(al.adapt(models.held_by(host, model))), al.batch(family.batch()))
    assert same(found, returned(model, family.batch()))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_unablated_they_are_those_of_transformer_lens(name: str) -> None:
    bridge = models.bridge_of(models.MODELS[name]())
    tokens = models.inputs_of(name, 3)
    _, cache = bridge.run_with_cache(tokens)
    expected = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(2)], 1)
    for adapter in (al.adapt(bridge), host_of("torch", name).adapter, host_of("nnsight", name).adapter):
        assert same(attention_patterns(of_heads(adapter), al.batch(tokens)), expected.detach())


def test_under_a_mask_they_are_those_of_edited_weights(held: Host) -> None:
    model, inputs = of_heads(held.adapter), held.inputs(3)
    edited = models.edited(held.reference, [model.registry[model.registry.column(name)] for name in OFF])
    expected = returned(edited, {"input_ids": inputs})
    asked = (OFF, [model.registry.column(name) for name in OFF], model.mask(OFF), model.mask(OFF)[0].bool())
    for mask in asked:
        found = attention_patterns(model, al.batch(inputs), mask)
        assert same(found, expected)
    assert np.abs(found.values - returned(held.reference, {"input_ids": inputs}).numpy()).max() > 0.01
    one = model.registry[1]
    first = attention_patterns(model, al.batch(inputs), one)
    assert same(first, returned(models.edited(held.reference, [one]), {"input_ids": inputs}))
    assert first.equals(attention_patterns(model, al.batch(inputs), "L0.head 1"))


@pytest.mark.parametrize("left", [False, True])
def test_a_batch_is_its_examples_one_by_one(held: Host, left: bool) -> None:
    model, data = of_heads(held.adapter), padded(ROWS, left)
    found = attention_patterns(model, data, OFF)
    for example, row in enumerate(ROWS):
        alone = attention_patterns(model, al.batch(torch.tensor([row])), OFF).values[0]
        real = np.arange(6 - len(row), 6) if left else np.arange(len(row))
        padding = np.setdiff1d(np.arange(6), real)
        assert np.abs(found.values[example][:, :, real][..., real] - alone).max() < 1e-5
        assert np.isnan(found.values[example][:, :, padding]).all()
        assert not found.values[example][:, :, real][..., padding].any()
        assert list(found["key_token"].values[example][real]) == [str(token) for token in row]
        assert set(found["query_token"].values[example][padding]) <= {""}


def test_masks_by_name_have_a_dimension_of_their_own() -> None:
    host = host_of("torch", "llama")
    model, data = of_heads(host.adapter), padded(ROWS, left=True)
    kept = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    by_position = model.mask("L0.head 2", positions=-1, data=data)
    masks = {"clean": None, "heads": OFF, "one": 3, "own": kept, "at the end": by_position}
    found = attention_patterns(model, data, masks)
    assert found.dims == ("mask", "example", "layer", "head", "query", "key")
    assert list(found["mask"].values) == list(masks)
    for name, mask in masks.items():
        alone = attention_patterns(model, data, mask)
        assert "mask" not in alone.coords
        assert np.allclose(found.sel(mask=name).values, alone.values, atol=1e-6, equal_nan=True), name
        assert abs(found.sel(mask=name) - found.sel(mask="clean")).max() > 0.01 or name == "clean"
    for example in range(3):  # a mask of its own for each example
        row = attention_patterns(model, data.take([example]), kept[example])
        assert np.allclose(row.values[0], found.sel(mask="own").values[example], atol=1e-5, equal_nan=True)
    # the last token of the first layer alone is changed: in the next, earlier queries attend as before
    clean, ended = found.sel(mask="clean", layer=1).values, found.sel(mask="at the end", layer=1).values
    assert np.allclose(clean[:, :, :-1], ended[:, :, :-1], atol=1e-6, equal_nan=True)
    assert np.abs(clean[:, :, -1] - ended[:, :, -1]).max() > 0.01
    change = attention_patterns(model, data, OFF) - attention_patterns(model, data)
    assert change.dims == found.dims[1:] and "query_token" in change.coords


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 64])
def test_packing_changes_nothing(rows: int) -> None:
    model, data = of_heads(host_of("torch", "gpt2").adapter), padded(ROWS, left=False)
    masks = {"clean": None, "heads": OFF, "own": torch.rand(3, 8, generator=torch.Generator().manual_seed(0))}
    plain = attention_patterns(model, data, masks)
    assert np.allclose(
        attention_patterns(model, data, masks, rows=rows).values, plain.values, atol=1e-6, equal_nan=True
    )


def test_chosen_layers_and_what_goes_with_them() -> None:
    host = host_of("torch", "gpt2")
    model = of_heads(host.adapter)
    data = al.batch(["abcab", "dd"], tokenizer=Tokens())
    every = attention_patterns(model, data)
    for layers in (1, [1], np.int64(1)):
        one = attention_patterns(model, data, layers=layers)  # type: ignore[arg-type]
        assert one["layer"].values.tolist() == [1]
        assert np.allclose(one.values, every.sel(layer=[1]).values, atol=1e-6, equal_nan=True)
    assert attention_patterns(model, data, layers=[1, 0])["layer"].values.tolist() == [1, 0]
    assert every["example"].values.tolist() == ["abcab", "dd"]
    assert every["query_token"].values.tolist() == [[*"abcab"], ["d", "d", "", "", ""]]
    assert every["head"].values.tolist() == [0, 1, 2, 3]
    assert every.attrs["attention"] == "attn" and every.attrs["registry"] == model.registry.fingerprint


def test_nothing_outlives_the_call(held: Host) -> None:
    model = of_heads(held.adapter)
    inner = models.module_in(held.adapter.model)

    def left() -> tuple[Any, ...]:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in held.adapter.model.modules()]
        return inner.config._attn_implementation, hooks

    before = left()
    assert before[0] == "sdpa" or held.host == "transformer_lens"
    attention_patterns(model, held.data(2), OFF)
    assert left() == before
    with pytest.raises(al.UnknownNameError):
        attention_patterns(model, held.data(2), layers=[0, 7])
    assert left() == before


@pytest.mark.parametrize("attention", list(FAMILIES["t5"].attention))
def test_each_attention_of_two_stacks(attention: str) -> None:
    """Queries and keys are labelled by the tokens of the stack that reads them, also where both are as long."""
    family = FAMILIES["t5"]
    model, inputs = model_of("t5"), family.batch()
    inputs["decoder_input_ids"] = torch.cat([inputs["decoder_input_ids"], torch.ones(3, 1, dtype=torch.long)], 1)
    found = attention_patterns(of_heads(al.adapt(model)), al.batch(inputs), attention=attention)
    assert same(found, returned(model, inputs, family.attention[attention]))
    ids = {side: inputs[name].numpy().astype(str) for side, name in (("e", "input_ids"), ("d", "decoder_input_ids"))}
    queries = ids["e" if attention == "encoder.attn" else "d"]
    assert (found["query_token"].values == queries).all()
    assert (found["key_token"].values == ids["d" if attention == "decoder.attn" else "e"]).all()


# -- summaries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True])
def test_summaries_are_those_of_loops(left: bool) -> None:
    model, data = of_heads(host_of("torch", "llama").adapter), padded([*ROWS, [1, 2, 3]], left)
    patterns = attention_patterns(model, data, {"clean": None, "heads": OFF})
    found = attention_summary(patterns, data)
    assert dict(found.sizes) == {"mask": 2, "example": 4, "layer": 2, "head": 4}
    assert all(found[name].dims == ("mask", "example", "layer", "head") for name in found)
    for example, row in enumerate([*ROWS, [1, 2, 3]]):
        real = slice(6 - len(row), 6) if left else slice(0, len(row))
        own = patterns.values[:, example, :, :, real, real].astype("f8")
        entropy = scipy.stats.entropy(own, axis=-1).mean(-1)
        assert np.abs(found["entropy"].values[:, example] - entropy).max() < 1e-5
        for name in ("previous", "first", "induction"):
            wanted = naive(row, name)
            counted = wanted.any(1)
            got = found[name].values[:, example]
            if not counted.any():
                assert np.isnan(got).all()
                continue
            mass = np.where(wanted, own, 0).sum(-1)[..., counted].mean(-1)
            assert np.abs(got - mass).max() < 1e-6, (name, example)
    assert np.isnan(found["induction"].values[:, 3]).all()
    alone = attention_summary(patterns.sel(mask="heads"), data)
    assert alone["first"].dims == ("example", "layer", "head")
    assert np.allclose(alone["first"].values, found["first"].sel(mask="heads").values)
    assert (found - found.sel(mask="clean"))["entropy"].sel(mask="clean").max() == 0


def test_summaries_of_inputs_that_are_no_tokens() -> None:
    host = host_of("torch", "gpt2")
    ids = host.inputs(2)
    data = al.batch({"inputs_embeds": host.reference.transformer.wte(ids).detach()})
    found = attention_patterns(of_heads(host.adapter), data)
    assert same(found, returned(host.reference, {"input_ids": ids}))
    assert found["key_token"].values[0].tolist() == [str(at) for at in range(7)]
    assert set(attention_summary(found, data)) == {"entropy", "previous", "first"}


def test_the_heads_of_a_known_circuit() -> None:
    """Without the previous-token head the induction heads lose their target; without another head they do not."""
    zoo = al.zoo.load("induction")
    data = al.batch(zoo.sequences(4, 24, seed=3))
    named = [f"L0.head {one['head']}" for one in zoo.card["heads"] if not one["layer"] and one["previous_token"] > 0.5]
    masks = {"clean": None, **{name: name for name in (f"L0.head {head}" for head in range(4))}}
    found = attention_summary(attention_patterns(of_heads(al.adapt(zoo.model)), data, masks), data).mean("example")
    clean = found.sel(mask="clean")
    assert int(clean["previous"].sel(layer=0).values.argmax()) == 3
    assert named == ["L0.head 3"]
    assert float(clean["previous"].sel(layer=0, head=3)) > 0.5
    assert (clean["induction"].sel(layer=1) > 0.9).all()
    left = found["induction"].sel(layer=1) / clean["induction"].sel(layer=1)
    for name in [name for name in masks if name != "clean"]:
        assert (left.sel(mask=name) < 0.1 if name in named else left.sel(mask=name) >= 0.5).all(), name


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"mask": torch.ones(1, 7)}, al.InputError, r"has shape \[2, 8\], \[1, 8\] or \[2, 7, 8\]; got \[1, 7\]"),
        ({"mask": torch.ones(3, 8)}, al.InputError, r"got \[3, 8\]"),
        ({"mask": torch.ones(8).long()}, al.InputError, "a mask is a float tensor"),
        ({"mask": 2 * torch.ones(8)}, al.InputError, "from 0"),
        ({"mask": "L0.head 4"}, al.UnknownNameError, "did you mean L0.head"),
        ({"mask": ["L0.head 1", "L0.mlp.in row 3"]}, al.UnknownNameError, "L0.mlp.in row 3"),
        ({"mask": {"clean": None, "other": torch.ones(1, 7)}}, al.InputError, r"got \[1, 7\]"),
        ({"mask": {}}, al.InputError, "there are no masks"),
        ({"layers": [2]}, al.UnknownNameError, "no layer 2"),
        ({"layers": []}, al.InputError, r"no layers to read: layers=\[\]"),
        ({"attention": "cross"}, al.UnknownNameError, "no attention 'cross'"),
    ],
)
def test_what_cannot_be_read(options: dict[str, Any], error: type[Exception], match: str) -> None:
    host = host_of("torch", "gpt2")
    with pytest.raises(error, match=match):
        attention_patterns(of_heads(host.adapter), host.data(2), **options)


def test_models_and_inputs_that_have_no_patterns() -> None:
    images = host_of("torch", "convnet")
    with pytest.raises(al.AdapterError, match="not known where ConvNet has its attention"):
        attention_patterns(al.MaskedModel(images.adapter, images.adapter.registry("filter")), images.data(2))
    vit = FAMILIES["vit"]
    with pytest.raises(al.InputError, match="between positions, and these inputs have none"):
        attention_patterns(of_heads(al.adapt(model_of("vit"))), al.batch(vit.batch()))
    falcon = FAMILIES["falcon"].make()
    assert falcon.config._attn_implementation == "sdpa"
    with pytest.raises(al.AdapterError, match=r'FalconForCausalLM.from_pretrained\(..., attn_implementation="eager"'):
        attention_patterns(of_heads(al.adapt(falcon)), al.batch(FAMILIES["falcon"].batch()))
    with pytest.raises(al.InputError, match=r"al.attention_patterns\(model, data, attention='decoder.cross'\)"):
        attention_patterns(of_heads(al.adapt(model_of("t5"))), al.batch(FAMILIES["t5"].batch()))


def test_summaries_of_something_else_are_refused() -> None:
    host = host_of("torch", "gpt2")
    model, data = of_heads(host.adapter), host.data(2)
    patterns = attention_patterns(model, data)
    others = (host.data(2, seed=9), host.data(3), data.take([1, 0]), al.batch(host.inputs(2)[:, :5]))
    for other in others:
        with pytest.raises(al.InputError, match="the patterns are of other examples"):
            attention_summary(patterns, other)
    for wrong in (patterns.values, patterns.isel(layer=0), patterns.transpose(..., "query"), patterns.mean("example")):
        with pytest.raises((al.InputError, TypeError), match="al.attention_patterns|patterns"):
            attention_summary(wrong, data)  # type: ignore[arg-type]
    change = attention_patterns(model, data, "L0.head 1") - patterns
    with pytest.raises(al.InputError, match=r"a difference of them.*al\.attention_summary\(after, data\) -"):
        attention_summary(change, data)
    both = al.batch(FAMILIES["t5"].batch())
    t5 = of_heads(al.adapt(model_of("t5")))
    for attention in ("encoder.attn", "decoder.cross"):
        with pytest.raises(al.InputError, match="attends to are positions of the encoder"):
            attention_summary(attention_patterns(t5, both, attention=attention), both)
    decoder = attention_summary(attention_patterns(t5, both, attention="decoder.attn"), both)
    assert float(decoder["previous"].min()) > 0
    assert decoder.sizes["head"] == families.HEADS
