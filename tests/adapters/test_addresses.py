"""Addresses: where taps would live, before a dry forward says whether they do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.addresses import AddressBook, attention_rows, equal_rows
from ablationlens.layout import Module
from ablationlens.sites import Tap

QKV = ("attn.q", "attn.k", "attn.v")


def test_a_module_has_an_address_at_its_input_and_its_output() -> None:
    book, linear = AddressBook(), nn.Linear(3, 5)
    book.add(2, "mlp.in", linear, "h.2.fc")
    assert book.modules == [Module(2, "mlp.in", 5, 3)]
    read, written = book.addresses[Tap(2, "mlp.in", "in")], book.addresses[Tap(2, "mlp.in", "out")]
    assert (read.name, read.hook, read.features, read.size) == ("h.2.fc", "in", slice(0, 3), 3)
    assert (written.name, written.hook, written.features, written.size) == ("h.2.fc", "out", slice(0, 5), 5)
    assert read.module is written.module is read.owner is linear
    assert book.stored[2, "mlp.in"] == (linear, slice(0, 5))


def test_a_convolution_has_its_features_on_axis_1() -> None:
    book = AddressBook()
    book.add(0, "conv", nn.Conv2d(3, 6, 3), "conv")
    assert book.modules[0].operation == "convolution"
    assert book.addresses[Tap(0, "conv", "out")].feature_axis == 1


def test_a_fused_module_is_one_input_and_some_features_of_the_output_for_each_projection() -> None:
    book, fused = AddressBook(), nn.Linear(4, 12)
    rows = {"attn.q": slice(0, 4), "attn.k": slice(4, 8), "attn.v": torch.tensor([9, 8, 11, 10])}
    book.add(0, "attn.qkv", fused, "attn", rows)
    assert [module.name for module in book.modules] == ["attn.qkv", *QKV]
    assert [module.rows for module in book.modules] == [12, 4, 4, 4]
    assert book.modules[0].parts == QKV
    assert {module.part_of for module in book.modules[1:]} == {"attn.qkv"}
    for name, own in rows.items():
        assert book.stored[0, name] == (fused, own)
        written = book.addresses[Tap(0, name, "out")]
        assert written.features is own
        assert written.size == 12
        assert Tap(0, name, "in") not in book.addresses  # a projection reads what the fused module reads


def test_a_module_without_a_matrix_is_refused() -> None:
    with pytest.raises(al.AdapterError, match=r"h\.0\.norm is a LayerNorm, which has no matrix"):
        AddressBook().add(0, "norm", nn.LayerNorm(3), "h.0.norm")


def test_equal_parts_follow_one_another() -> None:
    assert equal_rows(12, ("mlp.gate", "mlp.in")) == {"mlp.gate": slice(0, 6), "mlp.in": slice(6, 12)}
    with pytest.raises(al.AdapterError, match="13 rows does not split into 2"):
        equal_rows(13, ("mlp.gate", "mlp.in"))


def test_rows_of_q_k_and_v_leave_to_the_key_value_heads_what_the_query_heads_do_not_take() -> None:
    assert attention_rows(24, QKV, 2, 4, interleaved=False) == dict(
        zip(QKV, (slice(0, 8), slice(8, 16), slice(16, 24)), strict=True)
    )
    assert attention_rows(12, QKV, 4, 2, interleaved=False) == dict(
        zip(QKV, (slice(0, 8), slice(8, 10), slice(10, 12)), strict=True)
    )
    # two query heads for each key/value head, of two features: q0 q1 k0 v0 q2 q3 k1 v1
    by_head = attention_rows(16, QKV, 4, 2, interleaved=True)
    expected = {"attn.q": [0, 1, 2, 3, 8, 9, 10, 11], "attn.k": [4, 5, 12, 13], "attn.v": [6, 7, 14, 15]}
    assert {name: list(rows) for name, rows in by_head.items()} == expected  # type: ignore[arg-type]
    for rows, queries, size in [(13, 2, 2), (8, 4, 2), (4, 4, 2), (20, 4, 2)]:  # no whole heads, none, too few, 3 for 4
        with pytest.raises(al.AdapterError, match=f"{rows} rows does not hold {queries} query heads"):
            attention_rows(rows, QKV, queries, size, interleaved=True)
