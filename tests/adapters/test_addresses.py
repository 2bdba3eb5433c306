"""Addresses: where taps would live, before a dry forward says whether they do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

import ablationlens as al
from ablationlens.adapters.addresses import AddressBook, head_size, part_rows
from ablationlens.layout import Module
from ablationlens.sites import Tap


def test_a_module_has_an_address_at_its_input_and_its_output() -> None:
    book, linear = AddressBook(), nn.Linear(3, 5)
    book.add(2, "mlp.in", linear, "h.2.fc")
    assert book.modules == [Module(2, "mlp.in", 5, 3)]
    read, written = book.addresses[Tap(2, "mlp.in", "in")], book.addresses[Tap(2, "mlp.in", "out")]
    assert (read.name, read.hook, read.features, read.size) == ("h.2.fc", "in", slice(0, 3), 3)
    assert (written.name, written.hook, written.features, written.size) == ("h.2.fc", "out", slice(0, 5), 5)
    assert read.module is written.module is read.owner is linear
    assert book.stored[2, "mlp.in"] == (linear, slice(0, 5))
    assert book.columns(2, "mlp.in") == 3


def test_a_convolution_has_its_features_on_axis_1() -> None:
    book = AddressBook()
    book.add(0, "conv", nn.Conv2d(3, 6, 3), "conv")
    assert book.modules[0].operation == "convolution"
    assert book.addresses[Tap(0, "conv", "out")].feature_axis == 1


def test_a_fused_module_is_one_input_and_a_slice_of_the_output_for_each_projection() -> None:
    book, fused = AddressBook(), nn.Linear(4, 12)
    names = ("attn.q", "attn.k", "attn.v")
    book.add(0, "attn.qkv", fused, "attn", names, part_rows(3))
    assert [module.name for module in book.modules] == ["attn.qkv", *names]
    assert book.modules[0].parts == names
    assert {module.part_of for module in book.modules[1:]} == {"attn.qkv"}
    slices = [slice(0, 4), slice(4, 8), slice(8, 12)]
    for name, own in zip(names, slices, strict=True):
        assert book.stored[0, name] == (fused, own)
        written = book.addresses[Tap(0, name, "out")]
        assert (written.features, written.size) == (own, 12)
        assert Tap(0, name, "in") not in book.addresses  # a projection reads what the fused module reads
        assert book.columns(0, name) == 4


def test_a_module_without_a_matrix_is_refused() -> None:
    with pytest.raises(al.AdapterError, match=r"h\.0\.norm is a LayerNorm, which has no matrix"):
        AddressBook().add(0, "norm", nn.LayerNorm(3), "h.0.norm")


def test_a_fused_matrix_is_cut_in_equal_parts_or_refused() -> None:
    assert list(part_rows(3)(12)) == [4, 4, 4]
    assert list(part_rows(0)(12)) == []
    with pytest.raises(al.AdapterError, match="13 rows does not split into 3"):
        part_rows(3)(13)


def test_the_size_of_a_head_is_the_configurations_own_or_worked_out() -> None:
    sizes = SimpleNamespace(hidden_size=32, num_attention_heads=4)
    assert head_size(sizes) == 8
    for given, expected in ((16, 16), (None, 8)):
        assert head_size(SimpleNamespace(**vars(sizes), head_dim=given)) == expected
