"""Layouts: names and layers, checked."""

from __future__ import annotations

import pytest

import ablationlens as al
from ablationlens.layout import Layout, Module

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
