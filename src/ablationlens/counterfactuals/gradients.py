"""The loop over draws for methods that read gradients: what each block of draws gave, handed on as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ablationlens.counterfactuals.record import identity
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import Design
from ablationlens.progress import bar
from ablationlens.provenance import packages
from ablationlens.sweep import Sweep

Accumulate: TypeAlias = Callable[[Tensor, Tensor, Tensor], None]
"""Called with a block's masks [draw, component], outputs [draw, example] and gradients [draw, example, component]."""


def gradients(
    model: MaskedModel,
    data: Batch,
    design: Design,
    accumulate: Accumulate,
    *,
    start: int = 0,
    stop: int | None = None,
    label: str | None = "gradients",
    rows: int | None = None,
    show_bar: bool | None = None,
) -> dict[str, Any]:
    """Run the draws of a design from `start` to `stop` forward and backward; memory does not grow with their number.

    Args:
        model: what to run.
        data: the examples.
        design: the masks.
        accumulate: keeps what it wants of each block.
        start: first draw.
        stop: one after the last draw; all by default.
        label: name of the run in the log; None logs nothing.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        The provenance of the run, JSON-able.
    """
    stop = design.draws if stop is None else stop
    sweep = Sweep(model, data, model.source(design, data), rows=rows)
    if label is not None:
        sweep.announce(label, factor=3.0, share=(stop - start) / design.draws)
    begun = time.perf_counter()
    spans = list(sweep.blocks(start, stop))
    for first, last in bar(spans, total=len(spans), unit="block", label=label or "gradients", show_bar=show_bar):
        accumulate(*sweep.gradients(first, last))
    return {
        **identity(model, data, design),
        "masks": design.describe(),
        "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
        "threads": torch.get_num_threads(),
        "packages": packages(),
        "seconds": round(time.perf_counter() - begun, 2),
    }
