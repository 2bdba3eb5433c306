"""Figures of attention patterns, on patterns that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import ablationlens as al
from ablationlens import plots

TOKENS = ["a", "<b>", " c", ""]


def patterns(masks: list[str] | None = None) -> xr.DataArray:
    """Two examples, two layers, three heads, four positions of which the last is padding in the first example."""
    shape = (len(masks or [""]), 2, 2, 3, 4, 4)
    values = np.tril(np.ones(shape)) / np.arange(1, 5)[:, None]
    values[1:] = np.eye(4)
    values[:, 0, :, :, 3] = np.nan
    array = xr.DataArray(
        values,
        dims=("mask", "example", "layer", "head", "query", "key"),
        coords={
            "mask": masks or [""],
            "example": ["one", "two"],
            "layer": [0, 1],
            "head": [0, 1, 2],
            "query_token": (("example", "query"), [TOKENS, ["d", "e", "f", "g"]]),
            "key_token": (("example", "key"), [TOKENS, ["d", "e", "f", "g"]]),
        },
    )
    return array if masks else array.isel(mask=0, drop=True)


def test_padding_is_left_out_and_tokens_are_no_markup() -> None:
    figure: Any = plots.attention(patterns(), layer=1, head=2)
    assert np.asarray(figure.data[0].z).shape == (3, 3)
    assert np.allclose(np.asarray(figure.data[0].z).sum(1), 1)
    assert list(figure.layout.xaxis.ticktext) == ["a", "&lt;b&gt;", "\u00b7c"]
    assert figure.data[0].customdata[2][1] == "\u00b7c \u2192 &lt;b&gt;"
    assert "L1.head 2" in figure.layout.title.text and "one" in figure.layout.title.text


def test_two_masks_and_their_difference() -> None:
    figure: Any = plots.attention(patterns(["clean", "without"]), example="two", layer=0, head=0)
    clean, without, change = (np.asarray(trace.z) for trace in figure.data)
    assert np.allclose(change, without - clean)
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis2", "coloraxis2", "coloraxis"]
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == pytest.approx(np.abs(change).max())
    three: Any = plots.attention(patterns(["a", "b", "c"]), layer=0, head=0)
    assert len(three.data) == 3


def test_no_more_tokens_are_named_than_there_is_room_for() -> None:
    values = xr.DataArray(
        np.full((2, 100, 100), 0.01),
        dims=("mask", "query", "key"),
        coords={"mask": ["clean", "without"], "layer": 0, "head": 0},
    )
    figure: Any = plots.attention(values)
    assert list(figure.layout.xaxis.ticktext) == [str(place) for place in range(0, 100, 5)]  # 24 in each of 3 panels
    assert list(figure.layout.yaxis.ticktext) == [str(place) for place in range(0, 100, 2)]
    assert list(figure.layout.xaxis3.tickvals) == list(range(0, 100, 5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": 0}, "say which layer"),
        ({"layer": 0}, "say which head"),
        ({"layer": 0, "head": 3}, "no head 3"),
        ({"layer": 0, "head": 0, "example": 2}, "no example 2"),
        ({"layer": 0, "head": 0, "example": "three"}, "no example 'three'"),
    ],
)
def test_what_is_not_there(options: dict[str, Any], words: str) -> None:
    with pytest.raises(al.InputError, match=words):
        plots.attention(patterns(), **options)


def test_a_mean_over_texts_of_different_length_is_refused() -> None:
    with pytest.raises(al.InputError, match="different length"):
        plots.attention(patterns().mean("example", skipna=False), layer=0, head=0)
    same = patterns().isel(example=[1]).mean("example")
    assert np.asarray(plots.attention(same, layer=0, head=0).data[0].z).shape == (4, 4)  # pyright: ignore


def test_what_heads_attend_to() -> None:
    values = np.arange(12.0).reshape(2, 2, 3) / 12
    dims, coords = ("example", "layer", "head"), {"example": ["one", "two"], "layer": [0, 1], "head": [0, 1, 2]}
    summary = xr.Dataset({"previous": (dims, values), "entropy": (dims, 3 * values)}, coords=coords)
    figure: Any = plots.attention_heads(summary, measure="previous")
    assert np.allclose(figure.data[0].z, values.mean(0))
    assert figure.layout.coloraxis2.cmax == 1
    assert plots.attention_heads(summary, measure="entropy").layout.coloraxis2.cmax > 1  # pyright: ignore
    with pytest.raises(al.InputError, match="no measure 'induction'.*previous, entropy"):
        plots.attention_heads(summary)
    with pytest.raises(al.InputError, match="several masks"):
        plots.attention_heads(summary.expand_dims(mask=["a"]), measure="previous")


def test_circuitsvis() -> None:
    page = str(plots.circuitsvis(patterns(), layer=1))
    assert "L1H2" in page and "AttentionHeads" in page
    with pytest.raises(al.InputError, match="say which layer"):
        plots.circuitsvis(patterns())
    with pytest.raises(al.InputError, match="several masks"):
        plots.circuitsvis(patterns(["a", "b"]), layer=0)
