"""Patterns that a click on a cell of the heat map of pattern changes opens, as compact as a page needs them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ablationlens.diagnostics import AblationTable
from ablationlens.plots.ablations import pattern_without, shown_changes
from ablationlens.plots.labels import counted
from ablationlens.report.figures import Figure, figure_of

LETTERS = 2**20
"""Letters that all patterns of a heat map may take on a page: those that change the least are left out beyond it."""


@dataclass(frozen=True)
class Opened:
    """Patterns of the cells of a heat map.

    Attributes:
        figure: of the cell that changes the most, which is open at first.
        says: what there is to open, and how.
        content: what the page's script draws the others from.
    """

    figure: Figure
    says: str
    content: dict[str, Any]


def opened(table: AblationTable, heat_map: str, key: str) -> Opened | None:
    """The patterns that were kept of the cells of a heat map; None if there are none.

    Values of a clean pattern are bytes, 0 to 255 for 0 to 1; those of a change are bytes, 1 to 255 for -scale to scale,
    so that small changes are as fine as large ones. What is above the diagonal is left out if it is all 0.

    Args:
        table: what `al.ablation_table` returned.
        heat_map: id of the figure of `pattern_change`.
        key: id of the figure of the pattern.
    """
    if table.kept is None or table.patterns is None:
        return None
    kept, grid = table.kept, shown_changes(table)
    parts = [str(part) for part in grid["part"].values]
    heads = [(int(layer), int(head)) for layer, head in grid["cell"].values.tolist()]
    causal = _causal(kept.clean)
    places = np.tril(np.ones(kept.clean.shape[1:], dtype=bool)) if causal else np.ones(kept.clean.shape[1:], dtype=bool)
    clean: dict[str, str] = {}
    cells: list[list[Any]] = []
    letters, left_out, first = 0, 0, None
    for row, (part, layer, head) in enumerate(
        zip(*(kept.cells[name] for name in ("part", "layer", "head")), strict=True)
    ):
        if part not in parts or (layer, head) not in heads:
            continue
        before, after = (pattern.astype(np.float64) for pattern in kept.pair(row))
        scale = float(f"{np.abs(after - before).max():.3g}") or 1.0
        change = _text(128 + 127 * (after - before) / scale, places)
        if letters + 2 * len(change) > LETTERS:
            left_out += 1
            continue
        column = heads.index((layer, head))
        if str(column) not in clean:
            clean[str(column)] = _text(255 * before, places)
            letters += len(change)
        cells.append([parts.index(part), column, scale, change])
        letters += len(change)
        first = first or (part, layer, head)
    if first is None:
        return None
    part, layer, head = first
    says = (
        "Click on a cell of the heat map, or choose one here, to see the pattern itself: as it is, without the part, "
        f"and the difference. It is that of one example, \u201c{kept.example}\u201d."
    )
    if left_out + kept.dropped:
        says += f" {counted(left_out + kept.dropped, 'cell')} that change less would make this page too large."
    figure = figure_of(pattern_without(table, part, layer=layer, head=head), key)
    return Opened(
        figure,
        says,
        {
            "heatMap": heat_map,
            "figure": key,
            "parts": parts,
            "heads": [f"L{layer}.head {head}" for layer, head in heads],
            "size": list(places.shape),
            "causal": causal,
            "complete": left_out + kept.dropped == 0,
            "clean": clean,
            "cells": cells,
        },
    )


def _causal(patterns: Float[np.ndarray, "pattern query key"]) -> bool:
    """Whether no query attends to what comes after it."""
    return patterns.shape[1] == patterns.shape[2] and not np.triu(patterns, 1).any()


def _text(values: Float[np.ndarray, "query key"], places: Bool[np.ndarray, "query key"]) -> str:
    """Whole numbers from 0 to 255, row by row, as base64."""
    whole: UInt8[np.ndarray, " place"] = np.clip(np.rint(values[places]), 0, 255).astype(np.uint8)
    return base64.b64encode(whole.tobytes()).decode("ascii")
