"""Kinds: from a layout to sites."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.diagnostics.patterns import attention_patterns
from ablationlens.kinds import KINDS, rank_one_site, sites_of
from ablationlens.layout import Heads, Layout, Module
from ablationlens.sites import Coordinates, Projected, RankOne, Tap
from tests import families, models
from tests.conftest import HOSTS, host_of
from tests.families import FAMILIES, model_of

FUSED = Layout(
    modules=(
        Module(0, "attn.qkv", 12, 4, parts=("attn.q", "attn.k", "attn.v")),
        Module(0, "attn.q", 4, 4, part_of="attn.qkv"),
        Module(0, "attn.k", 4, 4, part_of="attn.qkv"),
        Module(0, "attn.v", 4, 4, part_of="attn.qkv"),
        Module(0, "attn.o", 4, 4),
        Module(0, "mlp.in", 10, 4),
        Module(0, "mlp.out", 4, 10),
    ),
    heads=(Heads(0, 2, 2),),
)
PLAIN = Layout((Module(0, "a", 5, 3, "convolution"), Module(1, "b", 2, 5)), transformer=False)


def counts(layout: Layout, kind: str, **options: object) -> dict[str, int]:
    return {site.module: site.basis.components for site in sites_of(layout, kind, **options)}  # type: ignore[arg-type]


def test_defaults_of_each_kind() -> None:
    assert counts(FUSED, "head") == {"attn": 2}
    assert counts(FUSED, "head_query") == {"attn.q": 2}
    assert counts(FUSED, "head_value") == {"attn.v": 2}
    assert counts(FUSED, "row") == {"attn.q": 4, "attn.k": 4, "attn.v": 4, "attn.o": 4, "mlp.in": 10, "mlp.out": 4}
    assert counts(FUSED, "column") == {"attn.qkv": 4, "attn.o": 4, "mlp.in": 4, "mlp.out": 10}
    assert counts(FUSED, "row_block", size=3) == {
        "attn.q": 2,
        "attn.k": 2,
        "attn.v": 2,
        "attn.o": 2,
        "mlp.in": 4,
        "mlp.out": 2,
    }
    assert counts(FUSED, "matrix") == dict.fromkeys(["attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out"], 1)
    assert counts(FUSED, "neuron") == {"mlp": 10}
    assert counts(PLAIN, "filter") == {"a": 5}
    assert counts(PLAIN, "row") == {"b": 2}
    assert counts(PLAIN, "matrix") == {"a": 1, "b": 1}


def test_taps_and_cuts() -> None:
    head = sites_of(FUSED, "head")[0]
    assert head.read == head.write == Tap(0, "attn.o", "in")
    assert head.basis == Coordinates(4, 2)
    assert (head.cut.weights, head.cut.axis) == (("attn.o",), "column")
    query = sites_of(FUSED, "head_query")[0]
    assert query.read == query.write == Tap(0, "attn.q", "out")
    assert (query.basis, query.cut.weights, query.cut.axis) == (Coordinates(4, 2), ("attn.q",), "row")
    assert sites_of(FUSED, "head_value")[0].write == Tap(0, "attn.v", "out")
    neuron = sites_of(FUSED, "neuron")[0]
    assert neuron.read == Tap(0, "mlp.out", "in")
    fused = sites_of(FUSED, "column", modules="attn.qkv")[0]
    assert fused.cut.weights == ("attn.q", "attn.k", "attn.v")
    own = sites_of(FUSED, "column", modules="q")[0]
    assert (own.read, own.write) == (Tap(0, "attn.qkv", "in"), Tap(0, "attn.q", "out"))
    assert own.basis == Projected(4)
    assert sites_of(FUSED, "matrix")[0].cut.axis == "whole"


def test_requests_that_do_not_fit_are_refused() -> None:
    for call, error, match in [
        (lambda: sites_of(FUSED, "rows"), al.UnknownNameError, "rank_one"),
        (lambda: sites_of(FUSED, "row", modules=["attn.qkv"]), al.InputError, "attn.q"),
        (lambda: sites_of(FUSED, "row_block"), al.InputError, "size=8"),
        (lambda: sites_of(FUSED, "row_block", size=0), al.InputError, "size=0"),
        (lambda: sites_of(FUSED, "filter"), al.InputError, "no component of kind 'filter'"),
        (lambda: sites_of(PLAIN, "head"), al.InputError, "no component of kind 'head'"),
        (lambda: sites_of(PLAIN, "head_query"), al.InputError, "go by their paths"),
        (lambda: sites_of(FUSED, "head_query", modules=["v"]), al.InputError, "queries are cut at attn.q"),
        (lambda: sites_of(FUSED, "head_value", modules=["o"]), al.InputError, "values are cut at attn.v"),
        (lambda: sites_of(stacks(), "head_value"), al.InputError, "no component of kind 'head_value'"),
        (lambda: sites_of(PLAIN, "filter", modules=["b"]), al.InputError, "not a convolution"),
        (lambda: sites_of(FUSED, "neuron", modules=["mlp.in"]), al.InputError, "no component"),
        (lambda: sites_of(FUSED, "row", layers=[1]), al.UnknownNameError, "layers 0"),
    ]:
        with pytest.raises(error, match=match):
            call()


def stacks() -> Layout:
    names = [
        f"{stack}.{name}" for stack in ("encoder", "decoder") for name in ("attn.q", "attn.k", "attn.o", "mlp.out")
    ]
    modules = tuple(Module(0, name, 4, 4) for name in (*names, "decoder.cross.k", "decoder.cross.o"))
    heads = tuple(Heads(0, 2, 2, name) for name in ("encoder.attn.o", "decoder.attn.o", "decoder.cross.o"))
    return Layout(modules, heads)


def test_kinds_of_two_stacks() -> None:
    sites = sites_of(stacks(), "head")
    assert [(site.module, site.read) for site in sites] == [
        ("encoder.attn", Tap(0, "encoder.attn.o", "in")),
        ("decoder.attn", Tap(0, "decoder.attn.o", "in")),
        ("decoder.cross", Tap(0, "decoder.cross.o", "in")),
    ]
    assert [site.name(1) for site in sites] == [
        "L0.encoder.attn head 1",
        "L0.decoder.attn head 1",
        "L0.decoder.cross head 1",
    ]
    assert counts(stacks(), "head", modules=["cross.o"]) == {"decoder.cross": 2}
    queries = sites_of(stacks(), "head_query")
    assert [site.name(1) for site in queries] == ["L0.encoder.attn.q head 1", "L0.decoder.attn.q head 1"]
    assert counts(stacks(), "neuron") == {"encoder.mlp": 4, "decoder.mlp": 4}
    assert counts(stacks(), "neuron", modules=["encoder.mlp.out"]) == {"encoder.mlp": 4}
    assert sites_of(stacks(), "neuron")[1].name(3) == "L0.decoder.mlp neuron 3"


def test_a_fused_entry_of_an_mlp_is_cut_by_its_parts() -> None:
    layout = Layout(
        (
            Module(0, "mlp.gate_in", 12, 4, parts=("mlp.gate", "mlp.in")),
            Module(0, "mlp.gate", 6, 4, part_of="mlp.gate_in"),
            Module(0, "mlp.in", 6, 4, part_of="mlp.gate_in"),
            Module(0, "mlp.out", 4, 6),
        )
    )
    assert counts(layout, "row") == {"mlp.gate": 6, "mlp.in": 6, "mlp.out": 4}
    assert counts(layout, "column") == {"mlp.gate_in": 4, "mlp.out": 6}
    assert sites_of(layout, "column", modules="gate")[0].read == Tap(0, "mlp.gate_in", "in")
    with pytest.raises(al.InputError, match=r"\['mlp.gate', 'mlp.in'\]"):
        sites_of(layout, "row", modules="gate_in")


def test_key_value_heads_are_no_heads() -> None:
    """Grouped-query attention: 4 query heads of 2 features share 2 keys and values."""
    grouped = Layout(
        tuple(Module(0, f"attn.{part}", rows, 8) for part, rows in (("q", 8), ("k", 4), ("v", 4), ("o", 8))),
        heads=(Heads(0, 4, 2),),
    )
    for module, of in [
        ("k", "2 key/value heads of attn.k"),
        ("v", "2 key/value heads of attn.v"),
        ("q", "4 query heads"),
    ]:
        with pytest.raises(al.InputError) as refused:
            sites_of(grouped, "head", modules=[module])
        text = str(refused.value)
        assert "one of the 4 query heads" in text
        assert 'registry("head", modules=["attn.o"])' in text
        assert "attn.k and attn.v have 2 key/value heads of 2 rows, each for 2 query heads" in text
        assert of in text
        assert f'registry("row_block", modules=["attn.{module}"], size=2)' in text
    assert counts(grouped, "row_block", modules=["attn.k"], size=2) == {"attn.k": 2}
    assert counts(grouped, "head_query") == {"attn.q": 4}
    assert counts(grouped, "head_value") == {"attn.v": 2}
    with pytest.raises(al.InputError, match="2 query heads.*attn.k and attn.v have 2 key/value heads"):
        sites_of(FUSED, "head", modules=["attn.qkv"])


def test_a_module_that_only_looks_logical_by_its_path_is_none() -> None:
    layout = Layout((Module(0, "blocks.mlp.out", 4, 4),), transformer=False, advice="Type this.")
    for kind in ("head", "neuron"):
        with pytest.raises(al.InputError, match="go by their paths.*Type this"):
            sites_of(layout, kind)


def test_options_belong_to_their_kind() -> None:
    adapter = host_of("torch", "gpt2").adapter
    for options, match in [
        ({"kinds": "row", "svd": 3}, "rank_one"),
        ({"kinds": "row", "size": 3}, "row_block"),
        ({"kinds": "rank_one"}, "svd=8"),
        ({"kinds": "rank_one", "svd": 3, "factors": {}}, "either"),
        ({"kinds": "rank_one", "svd": 33, "modules": ["q"]}, "1 to 32"),
        ({"kinds": "rank_one", "svd": 2, "modules": ["attn.qkv", "attn.q"]}, "attn.q is a part of L0.attn.qkv"),
    ]:
        with pytest.raises(al.InputError, match=match):
            adapter.registry(**options)


def test_factors_need_the_shape_of_the_weight() -> None:
    module = FUSED.module(0, "mlp.in")
    site = rank_one_site(module, RankOne(torch.randn(4, 3), torch.randn(3, 10)))
    assert (site.read, site.write) == (Tap(0, "mlp.in", "in"), Tap(0, "mlp.in", "out"))
    with pytest.raises(al.InputError, match=r"V \[4, C\] and U \[C, 10\]"):
        rank_one_site(module, RankOne(torch.randn(10, 3), torch.randn(3, 4)))
    with pytest.raises(al.InputError, match="linear"):
        rank_one_site(PLAIN.module(0, "a"), RankOne(torch.randn(3, 1), torch.randn(1, 5)))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_svd_factors_are_the_best_approximation_of_their_rank(name: str) -> None:
    host = host_of("torch", name)
    for part in host.adapter.registry("rank_one", svd=4).parts:
        weight, _ = models.part(host.reference, part.site.layer, part.site.module)
        basis = part.site.basis
        assert isinstance(basis, RankOne)
        singular = np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)
        missed = float((weight.detach() - (basis.V @ basis.U).T).double().norm())
        assert abs(missed - np.sqrt((singular[4:] ** 2).sum())) < 1e-5  # Eckart and Young: no rank 4 misses less


# -- queries and values of a head --------------------------------------------------------------------------------------


def attended(model: al.MaskedModel, off: list[str], inputs: torch.Tensor, layer: int) -> torch.Tensor:
    """The patterns of a layer under a mask, [example, head, query, key]."""
    return torch.from_numpy(attention_patterns(model, al.batch(inputs), off, layers=[layer]).values[:, 0])


@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
@pytest.mark.parametrize("held", HOSTS)
def test_a_head_without_its_queries_attends_evenly(held: str, name: str) -> None:
    host = host_of(held, name)
    registry = host.adapter.registry("head_query")
    assert registry.names[:2] == ("L0.attn.q head 0", "L0.attn.q head 1") and len(registry) == 8
    model = al.MaskedModel(host.adapter, registry, al.Zero(include_bias=True))
    inputs = host.inputs(2)
    found, clean = (attended(model, off, inputs, 1) for off in (["L1.attn.q head 2"], []))
    evenly = torch.ones(7, 7).tril() / torch.arange(1, 8)[:, None]
    assert models.close(found[:, 2], evenly.expand(2, 7, 7), 1e-6)
    assert models.close(found[:, [0, 1, 3]], clean[:, [0, 1, 3]])
    assert models.distance(clean[:, 2], evenly.expand(2, 7, 7)) > 0.1
    kept = attended(al.MaskedModel(host.adapter, registry), ["L1.attn.q head 2"], inputs, 1)
    assert models.distance(kept[:, 2], evenly.expand(2, 7, 7)) > 1e-3  # the bias of a query is a query too


@pytest.mark.parametrize("include_bias", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
@pytest.mark.parametrize("held", HOSTS)
def test_a_head_without_its_values_is_one_whose_rows_are_zero(held: str, name: str, include_bias: bool) -> None:
    host = host_of(held, name)
    for kind, module, count in (("head_value", "attn.v", 4 if name == "gpt2" else 2), ("head_query", "attn.q", 4)):
        registry = host.adapter.registry(kind)
        assert len(registry) == models.LAYERS * count
        model = al.MaskedModel(host.adapter, registry, al.Zero(include_bias=include_bias))
        for layer, head in ((0, 1), (1, 0)):
            edited = models.untied(host.reference)
            with torch.no_grad():
                weight, bias = models.part(edited, layer, module)
                weight[8 * head : 8 * head + 8] = 0
                if include_bias and bias is not None:
                    bias[8 * head : 8 * head + 8] = 0
            inputs = host.inputs(2)
            mask = model.mask(f"L{layer}.{module} head {head}")
            expected = models.logits_of(edited, inputs)
            assert models.distance(model.logits(mask, al.batch(inputs)), expected) < 1e-5
            assert models.distance(expected, models.logits_of(host.reference, inputs)) > 1e-3


@pytest.mark.parametrize("name", list(FAMILIES))
def test_heads_of_projections_are_their_rows_in_every_family(name: str) -> None:
    """The order of rows in a fused matrix is the family's own; a head of the projection is a block of its rows."""
    family, model = FAMILIES[name], model_of(name)
    adapter, inputs = al.adapt(model), family.batch(2)
    for kind, part, count in (("head_query", "q", families.HEADS), ("head_value", "v", family.groups)):
        registry = adapter.registry(kind)
        sites = {(heads.layer, heads.attention) for heads in adapter.layout.heads}
        assert len(registry) == count * len(sites)
        for attention in family.attention:
            module = f"{attention}.{part}"
            blocks = adapter.registry("row_block", modules=[module], size=family.head, layers=[0])
            assert len(blocks) == count
            masked = al.MaskedModel(adapter, registry, al.Zero(include_bias=True))
            own = families.edited(family, model, [blocks[count - 1]], include_bias=True)
            expected = families.run(own, inputs)
            got = masked.logits(masked.mask(f"L0.{module} head {count - 1}"), al.batch(inputs))
            assert models.distance(got, expected) < 1e-5
            assert models.distance(expected, families.run(model, inputs)) > 1e-4


def test_they_overlap_with_rows_and_go_with_heads() -> None:
    adapter = host_of("torch", "llama").adapter
    for other in (adapter.registry("row", modules=["v"]), adapter.registry("matrix", modules=["v"])):
        with pytest.raises(al.OverlapError, match=r"L0\.attn\.v head 0"):
            adapter.registry("head_value") + other
    both = adapter.registry(["head", "head_query", "head_value"])
    assert len(both) == len(set(both.names)) == 2 * (4 + 4 + 2)
    assert al.Registry.from_json(both.to_json()) == both
    assert both.select(kind="head_value").names == (
        "L0.attn.v head 0",
        "L0.attn.v head 1",
        "L1.attn.v head 0",
        "L1.attn.v head 1",
    )


def test_every_kind_has_a_function() -> None:
    assert set(KINDS) == {
        "head",
        "head_query",
        "head_value",
        "row",
        "column",
        "row_block",
        "matrix",
        "neuron",
        "filter",
    }
