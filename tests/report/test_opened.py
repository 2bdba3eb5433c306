"""Patterns that the heat map of pattern changes opens: what the page is given, read back as its script reads it."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.plots.ablations import shown_changes
from ablationlens.report import opened as module
from ablationlens.report.opened import Opened, opened
from ablationlens.report.studies import shown
from tests.conftest import Host, host_of
from tests.families import FAMILIES, model_of


def vit_table() -> al.AblationTable:
    """Of attention that looks both ways, between patches."""
    adapter = al.adapt(model_of("vit"))
    model = al.MaskedModel(adapter, adapter.registry("head"), output=al.Logit(0))
    return al.ablation_table(model, al.batch(FAMILIES["vit"].batch()))


def table_of(host: Host, **options: Any) -> al.AblationTable:
    model = al.MaskedModel(host.adapter, host.registry("head"), output=al.Logit(1))
    return al.ablation_table(model, host.data(3), **options)


def grid(found: Opened, text: str) -> np.ndarray:
    """Bytes as a grid of queries and keys."""
    shape = tuple(found.content["size"])
    values = np.zeros(shape)
    places = np.tril(np.ones(shape, bool)) if found.content["causal"] else np.ones(shape, bool)
    values[places] = np.frombuffer(base64.b64decode(text), np.uint8)
    return values


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_every_cell_that_changes_is_there(name: str) -> None:
    table = vit_table() if name == "vit" else table_of(host_of("torch", name))
    found = opened(table, "map", "key")
    assert found is not None
    assert table.kept is not None
    content = found.content
    assert content["causal"] == (name == "gpt2")
    assert content["complete"]
    assert (content["heatMap"], content["figure"]) == ("map", "key")
    assert len(content["cells"]) == len(table.kept.cells) > 4
    heat_map: Any = al.plots.pattern_change(table).data[0]
    for part, column, scale, change in content["cells"]:
        assert (heat_map.y[part], heat_map.customdata[part][column]) == (part, content["parts"][part])
        layer, head = shown_changes(table)["cell"].values[column]
        assert heat_map.x[column] == f"L{layer}.{head}"
        assert content["heads"][column] == f"L{layer}.head {head}"
        clean, without = table.pattern(content["parts"][part], layer=int(layer), head=int(head)).values[:, 0, 0, 0]
        before = grid(found, content["clean"][str(column)]) / 255
        assert np.abs(before - clean).max() < 0.003
        places = np.tril(np.ones_like(before)) if content["causal"] else 1
        after = (grid(found, change) - 128) / 127 * scale * places
        assert np.abs(after - (without - clean)).max() < 0.005 * scale + 1e-6  # finer the smaller the change is


def test_the_first_figure_is_of_the_first_cell() -> None:
    table = table_of(host_of("torch", "gpt2"))
    found = opened(table, "map", "key")
    assert found is not None
    part, column, *_ = found.content["cells"][0]
    most = table.kept.cells.iloc[0]  # pyright: ignore[reportOptionalMemberAccess]
    assert found.content["parts"][part] == most["part"]
    assert found.content["heads"][column] == f"L{most['layer']}.head {most['head']}"
    assert len(found.figure.drawing["data"]) == found.figure.drawing["panels"] == 3
    assert f"L{most['layer']}.head {most['head']}" in found.figure.title
    assert "example 0" in found.says


def test_what_a_page_has_no_room_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(host_of("torch", "gpt2"))
    whole = opened(table, "map", "key")
    assert whole is not None
    monkeypatch.setattr(module, "LETTERS", 400)
    found = opened(table, "map", "key")
    assert found is not None
    cells = found.content["cells"]
    assert 0 < len(cells) < len(whole.content["cells"])
    assert cells == whole.content["cells"][: len(cells)]
    letters = sum(len(cell[3]) for cell in cells) + sum(map(len, found.content["clean"].values()))
    assert letters <= 400
    assert not found.content["complete"]
    assert f" {len(whole.content['cells']) - len(cells)} cells that change less" in found.says
    assert "change less" not in whole.says


def test_a_large_table_stays_small() -> None:
    """40 parts and 8 heads at 32 tokens: what it may take is bounded whatever the patterns are."""
    assert module.LETTERS <= 1.5e6
    count = 32 * 33 // 2
    assert (40 + 1) * 8 * 4 * -(-count // 3) < module.LETTERS


def test_nothing_to_open() -> None:
    host = host_of("torch", "gpt2")
    for options in ({"example": None}, {"patterns": False}):
        one = table_of(host, **options)
        assert opened(one, "map", "key") is None
        assert shown(one, "key").opened is None
    found = shown(table_of(host), "key")
    assert found.opened is not None
    assert found.opened.content["heatMap"] == found.figures[-1].id
    assert found.opened.figure.id not in [figure.id for figure in found.figures]
