"""The loop over draws: outputs of every example under every mask of a design, kept in a store if there is one."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped

from ablationlens.counterfactuals.store import Settings, Store
from ablationlens.data import Batch
from ablationlens.files import as_directory
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import Design
from ablationlens.packing import Packing
from ablationlens.progress import announce, bar, log
from ablationlens.provenance import packages
from ablationlens.sweep import Sweep

BLOCKS_PER_RUN = 200
"""At most about so many blocks: a kill loses half a percent."""
PASSES_PER_BLOCK = 16
"""At least so many forward passes a block: about a second of work, beside which writing it costs nothing."""


@dataclass(frozen=True)
class Counterfactuals:
    """What the model would have said without some of its parts.

    Attributes:
        design: the masks, made again from their seed when they are needed.
        outputs: [draw, example], in units of the output.
        provenance: how they were made, JSON-able.
    """

    design: Design
    outputs: Float32[np.ndarray, "draw example"]
    provenance: dict[str, Any]

    def masks(self) -> Shaped[np.ndarray, "draw component"]:
        return self.design.masks(0, self.design.draws)


def identity(model: MaskedModel, data: Batch, design: Design) -> dict[str, Any]:
    """Everything that decides the outputs. The number of draws is left out: a store can be extended."""
    described = {key: value for key, value in design.describe().items() if key != "draws"}
    return {**model.describe(), "data": {"examples": len(data), "fingerprint": data.fingerprint()}, "masks": described}


def record(
    model: MaskedModel,
    data: Batch,
    design: Design,
    *,
    store: str | Path | None = None,
    label: str = "counterfactuals",
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Counterfactuals:
    """Run a design, or go on with a run that was stopped.

    Args:
        model: what to run.
        data: the examples.
        design: the masks.
        store: a directory to keep the outputs in; a run killed at any moment resumes from it, with the packing and
            threads that it began with, and ends with bitwise the same outputs.
        label: name of the run in the log.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if the store is no path.
        StoreError: if the store belongs to another run, is damaged, or cannot be written.
    """
    if store is not None:
        store = as_directory(store, "a store", "runs/first")
    source = model.source(design, data)
    sweep = Sweep(model, data, source, rows=rows)
    settings = Settings(
        block_draws(sweep.packing, design.draws, len(data)),
        sweep.packing.draws,
        sweep.packing.examples,
        torch.get_num_threads(),
    )
    kept = None
    if store is not None:
        kept = Store(store, identity(model, data, design), settings, {"packages": packages()})
        settings = kept.settings
    outputs = np.empty((design.draws, len(data)), dtype=np.float32)
    spans = [(start, min(start + settings.block, design.draws)) for start in range(0, design.draws, settings.block)]
    missing = list(_fill(outputs, spans, kept))
    if kept is not None and kept.resumed:
        announce(f"{label}: {len(spans) - len(missing)} of {len(spans)} blocks are in {kept.path}")
        _warn_of_other_packages(kept)
    start = time.perf_counter()
    with threads(settings.threads):
        # made again, because replacements too have the bits of the threads that they were computed with
        sweep = Sweep(model, data, source, packing=Packing(settings.draws_per_pass, settings.examples_per_pass))
        if missing:
            sweep.announce(label, share=sum(stop - first for first, stop in missing) / design.draws)
        for first, stop in bar(missing, total=len(missing), unit="block", label=label, show_bar=show_bar):
            outputs[first:stop] = sweep.outputs(first, stop).numpy()
            if kept is not None:
                if (sweep.packing.draws, sweep.packing.examples) != (
                    settings.draws_per_pass,
                    settings.examples_per_pass,
                ):
                    settings = kept.repack(sweep.packing.draws, sweep.packing.examples)
                kept.write(first // settings.block, outputs[first:stop])
    provenance = {
        **identity(model, data, design),
        "masks": design.describe(),
        "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
        "threads": settings.threads,
        "packages": packages(),
        "seconds": round(time.perf_counter() - start, 2),
    }
    return Counterfactuals(design, outputs, provenance)


def block_draws(packing: Packing, draws: int, examples: int) -> int:
    """Draws of one block: whole passes, enough of them to make writing cheap."""
    passes_per_draw = packing.passes(1, examples)
    wanted = max(draws / BLOCKS_PER_RUN, PASSES_PER_BLOCK * packing.draws / passes_per_draw)
    return packing.draws * max(1, round(wanted / packing.draws))


def _fill(
    outputs: Float32[np.ndarray, "draw example"], spans: list[tuple[int, int]], kept: Store | None
) -> Iterator[tuple[int, int]]:
    """Copy what the store has into `outputs`; yield the spans that it lacks."""
    for number, (start, stop) in enumerate(spans):
        done = None if kept is None else kept.read(number, stop - start, outputs.shape[1])
        if done is None:
            yield start, stop
        else:
            outputs[start:stop] = done


def _warn_of_other_packages(kept: Store) -> None:
    then, now = kept.record.get("packages", {}), packages()
    changed = [f"{name} {then.get(name)} -> {now.get(name)}" for name in now if then.get(name) != now.get(name)]
    if changed:
        log.warning(
            "the store %s was begun with other versions (%s): new outputs may differ in the last bits",
            kept.path,
            ", ".join(changed),
        )


@contextmanager
def threads(count: int) -> Generator[None]:
    """Compute with `count` threads for the duration."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)
