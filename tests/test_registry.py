"""Registries: order, names, choice, joining, overlap, JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.sites import Coordinates, Cut, RankOne, Site, Tap
from tests import models, own_sites
from tests.conftest import Host, host_of


def site(
    kind: str = "row", layer: int = 0, module: str = "mlp.in", features: int = 6, block: int = 1, axis: str = "row"
) -> Site:
    tap = Tap(layer, module, "out")
    return Site(kind, layer, module, tap, tap, Coordinates(features, block), Cut((module,), axis))  # type: ignore[arg-type]


# --- order and names --------------------------------------------------------------------------------------------------


def test_order_is_layer_module_feature_on_gpt2(gpt2: Host) -> None:
    registry = gpt2.adapter.registry("row")
    width = models.WIDTH
    expected = [
        f"L{layer}.{module} row {row}"
        for layer in range(models.LAYERS)
        for module, rows in [
            ("attn.q", width),
            ("attn.k", width),
            ("attn.v", width),
            ("attn.o", width),
            ("mlp.in", 4 * width),
            ("mlp.out", width),
        ]
        for row in range(rows)
    ]
    assert list(registry.names) == expected
    assert len(registry) == len(expected) == len(list(registry))


def test_names_of_every_kind(torch_gpt2: Host) -> None:
    adapter = torch_gpt2.adapter
    first_and_last = {
        "head": ("L0.head 0", "L1.head 3"),
        "neuron": ("L0.neuron 0", "L1.neuron 127"),
        "column": ("L0.attn.qkv column 0", "L1.mlp.out column 127"),
        "matrix": ("L0.attn.q", "L1.mlp.out"),
    }
    for kind, names in first_and_last.items():
        registry = adapter.registry(kind)
        assert (registry.names[0], registry.names[-1]) == names
    blocks = adapter.registry("row_block", size=5, modules=["mlp.out"], layers=[0])
    assert blocks.names[0] == "L0.mlp.out rows 0-4"
    assert blocks.names[-1] == "L0.mlp.out rows 30-31"  # the last block is shorter
    parts = adapter.registry("rank_one", svd=2, modules=["mlp.in"], layers=1)
    assert parts.names == ("L1.mlp.in rank_one 0", "L1.mlp.in rank_one 1", "L1.mlp.in remainder")
    filters = host_of("torch", "convnet").adapter.registry("filter")
    assert filters.names[0] == "L0.first filter 0"


def test_every_name_is_unique_and_finds_its_own_column(host: Host) -> None:
    for kind in host.kinds():
        registry = host.registry(kind)
        assert len(set(registry.names)) == len(registry)
        for column in range(0, len(registry), 7):
            component = registry[column]
            assert registry.column(component.name) == registry.column(component) == registry.column(column) == column
            assert component in registry
            assert str(component) == component.name == registry.names[column]


def test_components_say_where_they_are(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry("row")
    component = registry[registry.column("L1.attn.k row 17")]
    assert (component.site.layer, component.site.module, component.site.kind, component.index) == (
        1,
        "attn.k",
        "row",
        17,
    )
    assert registry[-1].name == registry.names[-1]


def test_lookup_errors_name_the_nearest(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry("head")
    with pytest.raises(al.UnknownNameError, match=r"did you mean .*L1\.head 3"):
        registry.column("L1.head 33")
    with pytest.raises(al.UnknownNameError, match="0 to 7"):
        registry[8]
    with pytest.raises(al.UnknownNameError, match="0 to 7"):
        registry.column(-9)
    assert "nonsense" not in registry
    assert str(al.UnknownNameError("a 'b'")) == "a 'b'"


def test_short_module_names_layers_and_unknown_ones(torch_gpt2: Host) -> None:
    adapter = torch_gpt2.adapter
    assert adapter.registry("row", modules=["q"]) == adapter.registry("row", modules=["attn.q"])
    assert adapter.registry("row", layers=1) == adapter.registry("row", layers=[1])
    assert adapter.registry(["head", "neuron"]).names == (
        *adapter.registry("head").names,
        *adapter.registry("neuron").names,
    )
    for options, match in [
        ({"kinds": "haed"}, "head"),
        ({"kinds": "row", "layers": [2]}, "0 to 1"),
        ({"kinds": "row", "modules": ["attn.qq"]}, r"attn\.q"),
        ({"kinds": "row", "modules": ["mlp.inn"]}, r"mlp\.in"),
    ]:
        with pytest.raises(al.UnknownNameError, match=match):
            adapter.registry(**options)


# --- choosing and joining ---------------------------------------------------------------------------------------------


def test_select_by_kind_layer_module_name_and_predicate(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry(["head", "row"], modules=["attn.o", "mlp.in"], allow_overlap=True)
    every = list(registry)
    for options, keep in [
        ({"kind": "head"}, lambda c: c.site.kind == "head"),
        ({"layer": 1}, lambda c: c.site.layer == 1),
        ({"layer": [0, 1], "module": "mlp.in"}, lambda c: c.site.module == "mlp.in"),
        ({"name": "L1.mlp.in row 1?"}, lambda c: c.name.startswith("L1.mlp.in row 1") and len(c.name) == 16),
        ({"name": ["L0.head 2", "L1.head 0"]}, lambda c: c.name in ("L0.head 2", "L1.head 0")),
        ({"where": lambda c: c.index % 3 == 1}, lambda c: c.index % 3 == 1),
        (
            {"kind": "row", "layer": 0, "where": lambda c: c.index < 2},
            lambda c: c.site.kind == "row" and c.site.layer == 0 and c.index < 2,
        ),
    ]:
        chosen = registry.select(**options)
        expected = [component.name for component in every if keep(component)]
        assert list(chosen.names) == expected, options
        assert expected
    for options, match in [
        ({"kind": "column"}, "head, row"),
        ({"layer": 7}, "0, 1"),
        ({"module": "mlp.out"}, "mlp.in"),
        ({"name": "L9.*"}, "L0.head 0"),
    ]:
        with pytest.raises(al.UnknownNameError, match=match):
            registry.select(**options)


def test_sum_merges_sites_and_keeps_the_order_of_features(torch_gpt2: Host) -> None:
    rows = torch_gpt2.adapter.registry("row", modules=["mlp.in"])
    even, odd = rows.select(where=lambda c: c.index % 2 == 0), rows.select(where=lambda c: c.index % 2 == 1)
    assert odd + even == rows
    heads = torch_gpt2.adapter.registry("head")
    assert (heads + rows).names == heads.names + rows.names
    with pytest.raises(al.OverlapError, match=r"L0\.mlp\.in row 0 is in both"):
        even + rows


# --- overlap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (("row", {}), ("matrix", {}), ("L0.attn.q row 0", "L0.attn.q")),
        (("row", {}), ("row_block", {"size": 4}), ("row 0", "rows 0-3")),
        (("head", {}), ("column", {"modules": ["attn.o"]}), ("L0.head 0", "L0.attn.o column 0")),
        (("neuron", {}), ("column", {"modules": ["mlp.out"]}), ("L0.neuron 0", "L0.mlp.out column 0")),
        (
            ("column", {"modules": ["attn.qkv"]}),
            ("column", {"modules": ["k"]}),
            ("attn.qkv column 0", "attn.k column 0"),
        ),
        (("rank_one", {"svd": 2, "modules": ["q"]}), ("row", {"modules": ["q"]}), ("rank_one 0", "attn.q row 0")),
        (
            ("rank_one", {"svd": 2, "modules": ["q"]}),
            ("column", {"modules": ["attn.qkv"]}),
            ("rank_one 0", "qkv column 0"),
        ),
        (("row", {}), ("column", {}), ("row 0", "column 0")),
    ],
)
def test_overlap_is_refused_naming_both(
    torch_gpt2: Host, first: tuple[str, dict], second: tuple[str, dict], names: tuple[str, str]
) -> None:
    one, two = (torch_gpt2.adapter.registry(kind, **options) for kind, options in (first, second))
    for a, b in ((one, two), (two, one)):
        with pytest.raises(al.OverlapError) as error:
            a + b
        assert all(name in str(error.value) for name in names), str(error.value)


def test_allow_overlap_permits_rows_with_columns_and_nothing_else(torch_gpt2: Host) -> None:
    adapter = torch_gpt2.adapter
    both = adapter.registry(["row", "column"], modules=["mlp.in"], allow_overlap=True)
    assert len(both) == models.LAYERS * (4 * models.WIDTH + models.WIDTH)
    with pytest.raises(al.OverlapError, match="allow_overlap=True"):
        adapter.registry(["row", "column"], modules=["mlp.in"])
    with pytest.raises(al.OverlapError):
        adapter.registry(["row", "matrix"], modules=["mlp.in"], allow_overlap=True)
    with pytest.raises(al.OverlapError):
        adapter.registry(["head", "column"], modules=["attn.o"], allow_overlap=True)


def test_what_does_not_overlap_joins(torch_gpt2: Host) -> None:
    adapter = torch_gpt2.adapter
    adapter.registry("head") + adapter.registry("row", modules=["v"])  # heads cut the columns of o
    adapter.registry("matrix", layers=[0]) + adapter.registry("row", layers=[1])
    blocks = adapter.registry("row_block", size=4, modules=["mlp.in"]).select(where=lambda c: c.index < 2)
    rows = adapter.registry("row", modules=["mlp.in"])
    joined = blocks + rows.select(where=lambda c: c.index >= 8)  # the same axis, no common row
    assert len(joined) == models.LAYERS * (2 + 4 * models.WIDTH - 8)
    with pytest.raises(al.OverlapError, match="row 7"):
        blocks + rows.select(where=lambda c: c.index >= 7)


def test_two_bases_of_one_matrix_are_refused() -> None:
    factors = [RankOne(torch.randn(4, 2), torch.randn(2, 3)) for _ in range(2)]
    tap_in, tap_out = Tap(0, "mlp.in", "in"), Tap(0, "mlp.in", "out")
    sites = [Site("rank_one", 0, "mlp.in", tap_in, tap_out, one, Cut(("mlp.in",), "whole")) for one in factors]
    with pytest.raises(al.OverlapError, match=r"L0\.mlp\.in"):
        al.Registry([(sites[0], None), (sites[1], None)])


# --- JSON and text ----------------------------------------------------------------------------------------------------


def test_json_round_trip_of_every_kind(host: Host) -> None:
    for kind in host.kinds():
        registry = host.registry(kind)
        text = registry.to_json()
        back = al.Registry.from_json(text)
        assert back == registry
        assert back.names == registry.names
        assert back.fingerprint == registry.fingerprint
        assert json.loads(text)["version"] == 1
        some = registry.select(where=lambda c: c.index % 2 == 0)
        assert al.Registry.from_json(some.to_json()).names == some.names


@pytest.mark.parametrize("groups", [None, 8, [[0, 9], [3]]])
def test_json_keeps_addresses_axis_and_groups_of_ones_own_sites(gpt2: Host, groups: object) -> None:
    registry = gpt2.adapter.registry(["head", own_sites.residual("gpt2", groups=groups)])
    back = al.Registry.from_json(registry.to_json())
    assert back == registry
    assert back.names == registry.names
    assert [part.site for part in back.parts] == [part.site for part in registry.parts]
    location = back.parts[-1].site.read.location
    assert location is not None
    assert dict(location.addresses) == own_sites.addresses("gpt2")
    some = registry.select(where=lambda c: c.index % 2 == 0)
    assert al.Registry.from_json(some.to_json()).names == some.names


def test_sites_of_ones_own_are_chosen_and_counted_like_others(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry(["head", own_sites.residual("gpt2")])
    assert registry.select(kind="custom").names == tuple(f"L0.resid_post {i}" for i in range(8))
    assert registry.select(module="resid_post") == registry.select(kind="custom")
    assert registry.select(name="L0.resid_post [12]").names == ("L0.resid_post 1", "L0.resid_post 2")
    assert registry.frame()["kind"].value_counts().to_dict() == {"head": 8, "custom": 8}
    assert "custom" in repr(registry)


@pytest.mark.parametrize(
    "location", [{}, {"addresses": 3, "axis": -1}, {"addresses": {"torch": "x"}}, {"addresses": {}, "axis": "a"}, 7]
)
def test_damaged_addresses_in_json_are_refused(torch_gpt2: Host, location: object) -> None:
    text = json.loads(torch_gpt2.adapter.registry(own_sites.residual("gpt2")).to_json())
    text["sites"][0]["read"][3] = location
    with pytest.raises(al.InputError, match="not the JSON of a registry"):
        al.Registry.from_json(json.dumps(text))


def test_json_keeps_the_factors_bitwise(torch_gpt2: Host) -> None:
    V, U = models.given_factors(torch_gpt2.reference, 0, "attn.q")
    registry = torch_gpt2.adapter.registry("rank_one", factors={(0, "q"): (V.double(), U.to(torch.bfloat16))})
    basis = al.Registry.from_json(registry.to_json()).parts[0].site.basis
    assert isinstance(basis, RankOne)
    assert basis.V.dtype == torch.float64
    assert basis.U.dtype == torch.bfloat16
    assert torch.equal(basis.V, V.double())
    assert torch.equal(basis.U, U.to(torch.bfloat16))
    other = torch_gpt2.adapter.registry("rank_one", factors={(0, "q"): (V.double() + 1e-9, U.to(torch.bfloat16))})
    assert other != registry
    assert other.names == registry.names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        "null",
        '{"version": 99, "allow_overlap": false, "sites": []}',
        '{"version": 1}',
        '{"version": 1, "allow_overlap": false, "sites": [{"kind": "row"}]}',
        '{"version": 1, "allow_overlap": false, "sites": 3}',
    ],
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(al.InputError):
        al.Registry.from_json(text)


@given(st.lists(st.integers(0, 19), unique=True, min_size=1), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_columns_count_up_in_the_order_of_features(indices: list[int], split: int) -> None:
    first = site(features=20)
    second = site(layer=1, features=4)
    registry = al.Registry([(first, indices), (second, None)])
    assert [component.index for component in registry] == [*sorted(indices), 0, 1, 2, 3]
    again = al.Registry([(first, indices[:split]), (second, None), (first, indices[split:])])
    assert sorted(again.names) == sorted(registry.names)
    assert [again.column(name) for name in again.names] == list(range(len(again)))


def test_long_names_do_not_move_the_columns_that_follow(torch_gpt2: Host) -> None:
    adapter = torch_gpt2.adapter
    registry = adapter.registry("rank_one", svd=2, modules=["attn.qkv.pre_identity", "mlp.in"], layers=0)
    _, head, *rows = repr(registry).splitlines()
    assert [row.split() for row in rows] == [
        ["rank_one", "attn.qkv.pre_identity", "0", "3"],
        ["rank_one", "mlp.in", "0", "3"],
    ]
    assert {len(line) for line in (head, *rows)} == {len(head)}
    assert {row.index(" 0 ") for row in rows} == {head.index("layers") - 1}


def test_frame_and_repr(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry(["head", "row"], modules=["attn.o", "mlp.in"], allow_overlap=True)
    frame = registry.frame()
    assert list(frame.columns) == ["component", "layer", "module", "kind", "index"]
    assert frame["component"].tolist() == list(registry.names)
    assert frame["layer"].tolist() == [component.site.layer for component in registry]
    text = repr(registry)
    assert text.splitlines()[0] == f"Registry of {len(registry)} components"
    assert "mlp.in" in text
    assert "256" in text  # rows of mlp.in in both layers
    assert len(text.splitlines()) == 2 + 3
    assert repr(al.Registry([])) == "Registry of 0 components"
    assert np.array_equal(frame["index"], [component.index for component in registry])


@pytest.mark.parametrize("indices", [[0, 99], [-1], [0, 0]])
def test_indices_that_a_site_does_not_have_are_refused(gpt2: Host, indices: list[int]) -> None:
    """A row beyond the last would cut a neighbour, and a row given twice would be two columns."""
    site = gpt2.registry("head").parts[0].site
    with pytest.raises(al.InputError, match=r"L0\.attn has 4 components of kind 'head', 0 to 3, each once"):
        al.Registry([(site, indices)])
    text = json.loads(gpt2.registry("head").to_json())
    text["sites"][0]["indices"] = indices
    with pytest.raises(al.InputError, match="each once"):
        al.Registry.from_json(json.dumps(text))


@pytest.mark.parametrize("factors", ["AAA", "AAAA", "\u00e4"])
def test_damaged_factors_in_json_are_refused(gpt2: Host, factors: str) -> None:
    text = json.loads(gpt2.adapter.registry("rank_one", svd=2, layers=[0], modules=["mlp.in"]).to_json())
    text["sites"][0]["basis"]["factors"] = factors
    with pytest.raises(al.InputError, match="not the JSON of a registry"):
        al.Registry.from_json(json.dumps(text))


def test_a_component_by_any_integer(gpt2: Host) -> None:
    """np.argsort(weights)[:10] gives NumPy's integers, and a tensor's argmax a tensor."""
    heads = gpt2.registry("head")
    for two in (2, np.int64(2), np.array(2), torch.tensor(2)):
        assert heads[two] == heads[2]  # type: ignore[index]
        assert heads.column(two) == 2  # type: ignore[arg-type]
    for bad in (slice(0, 2), [0, 1], 1.5, None):
        with pytest.raises((al.InputError, TypeError), match=r"by its column|slice|type"):
            heads[bad]  # type: ignore[index]


def test_modules_and_layers_are_selected_as_they_are_asked_for(gpt2: Host) -> None:
    rows = gpt2.registry("row")
    assert rows.select(module="q") == rows.select(module="attn.q") == gpt2.adapter.registry("row", modules=["q"])
    assert rows.select(module=["q", "mlp.in"]) == rows.select(module=["attn.q", "mlp.in"])
    assert rows.select(layer=np.int64(1)) == rows.select(layer=1)  # type: ignore[arg-type]
    assert gpt2.adapter.registry("row", layers=np.int64(1)) == rows.select(layer=1)  # type: ignore[arg-type]
    with pytest.raises(al.UnknownNameError, match="no module 'w'"):
        rows.select(module="w")


def test_factors_that_are_no_tensors_or_have_no_address_are_refused(gpt2: Host) -> None:
    V, U = models.given_factors(gpt2.reference, 0, "mlp.in")
    with pytest.raises((al.InputError, TypeError), match="float tensors|factors"):
        gpt2.adapter.registry("rank_one", factors={(0, "mlp.in"): (V.numpy(), U.numpy())})  # type: ignore[dict-item]
    with pytest.raises((al.InputError, TypeError), match=r"\(layer, module\)|factors"):
        gpt2.adapter.registry("rank_one", factors={"L0.mlp.in": (V, U)})  # type: ignore[dict-item]


def test_an_index_beyond_the_components_of_a_site_says_how_many_there_are() -> None:
    adapter = host_of("torch", "llama").adapter  # 4 query heads of 8 features, 2 key/value heads
    for kind, name, match in [
        ("head", "L0.head 99", "L0.head goes from 0 to 3; did you mean"),
        ("row", "L1.attn.k row 16", "L1.attn.k row goes from 0 to 15 .rows of keys and values count key/value heads"),
        ("row", "L1.attn.q row 32", "L1.attn.q row goes from 0 to 31; did you mean"),
    ]:
        with pytest.raises(al.UnknownNameError, match=match):
            adapter.registry(kind).column(name)
