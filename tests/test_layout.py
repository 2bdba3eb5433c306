"""Layouts: names and layers, checked."""

from __future__ import annotations

import pytest

import ablationlens as al
from ablationlens.layout import MODULE_ORDER, Heads, Layout, Module, split_stack

LAYOUT = Layout(
    tuple(Module(layer, name, 4, 4) for layer in (0, 1, 2) for name in ("attn.o", "mlp.in", "mlp.out")),
)
PATHS = Layout((Module(0, "a.out", 4, 4), Module(1, "b.out", 4, 4)), transformer=False)


def test_short_names() -> None:
    assert LAYOUT.select_names("o") == ("attn.o",)
    assert LAYOUT.select_names(["in", "mlp.out"]) == ("mlp.in", "mlp.out")
    assert LAYOUT.select_names(None) is None
    both = Layout((Module(0, "attn.out", 1, 1), Module(0, "mlp.out", 1, 1)))
    with pytest.raises(al.InputError, match=r"attn\.out or mlp\.out"):
        both.select_names("out")
    with pytest.raises(al.UnknownNameError):  # paths are not abbreviated
        PATHS.select_names("out")


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(al.UnknownNameError, match=r"did you mean mlp\.out"):
        LAYOUT.select_names("mlp.ou")
    with pytest.raises(al.UnknownNameError, match=r"layers 0 to 2 and modules attn\.o, mlp\.in, mlp\.out"):
        LAYOUT.select_names("zzz")
    with pytest.raises(al.UnknownNameError, match="no layer 3: this model has layers 0 to 2"):
        LAYOUT.select_layers([1, 3])
    with pytest.raises(al.UnknownNameError, match="no layer -1"):
        LAYOUT.select_layers([-1])
    with pytest.raises(al.UnknownNameError, match="no module 'mlp.in' in layer 7"):
        LAYOUT.module(7, "mlp.in")


def test_layers_and_modules() -> None:
    assert LAYOUT.layers == (0, 1, 2)
    assert LAYOUT.names == ("attn.o", "mlp.in", "mlp.out")
    assert LAYOUT.select_layers(None) == (0, 1, 2)
    assert LAYOUT.select_layers([2, 0]) == (2, 0)
    assert LAYOUT.module(1, "mlp.in").layer == 1


STACKS = Layout(
    (
        *(
            Module(layer, f"encoder.{name}", 8, 8)
            for layer in (0, 1)
            for name in ("attn.q", "attn.k", "attn.o", "mlp.in")
        ),
        *(Module(0, f"decoder.{name}", 4, 8) for name in ("attn.q", "attn.o", "cross.q", "cross.k", "cross.o")),
    ),
    heads=(Heads(0, 2, 4, "encoder.attn.o"), Heads(0, 4, 2, "decoder.cross.o"), Heads(0, 4, 2, "decoder.attn.o")),
)


def test_short_names_in_two_stacks() -> None:
    assert STACKS.select_names(["cross.q", "encoder.attn.q", "mlp.in", "in"]) == (
        *("decoder.cross.q", "encoder.attn.q"),
        *("encoder.mlp.in", "encoder.mlp.in"),
    )
    with pytest.raises(
        al.InputError, match=r"'attn.q' could be encoder\.attn\.q or decoder\.attn\.q; write the full name"
    ):
        STACKS.select_names("attn.q")
    with pytest.raises(al.InputError, match=r"encoder\.attn\.q or decoder\.attn\.q or decoder\.cross\.q"):
        STACKS.select_names("q")
    with pytest.raises(al.UnknownNameError, match="oder.attn.q"):
        STACKS.select_names("ttn.q")  # the end of a name begins at a dot


def test_stack_and_name() -> None:
    assert split_stack("attn.q") == ("", "attn.q")
    assert split_stack("decoder.cross.q") == ("decoder", "cross.q")
    assert {split_stack(name) for name in MODULE_ORDER} == {("", name) for name in MODULE_ORDER}


def test_heads_know_their_attention_and_their_key_value_heads() -> None:
    assert Heads(0, 4, 8).attention == "attn"
    assert [heads.attention for heads in STACKS.heads] == ["encoder.attn", "decoder.cross", "decoder.attn"]
    assert [STACKS.key_values(heads) for heads in STACKS.heads] == [2, 2, 4]  # 8 rows of 4, 4 of 2, and no k at all


def test_advice_is_given_to_whoever_asks_for_a_logical_name() -> None:
    paths = Layout(PATHS.modules, transformer=False, advice="Type this.")
    assert paths == PATHS
    with pytest.raises(al.UnknownNameError, match="b.out. Type this"):
        paths.select_names("q")
    with pytest.raises(al.UnknownNameError, match=r"b\.out$"):
        paths.select_names("c.out")
