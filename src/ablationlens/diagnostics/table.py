"""Many ablations at once: each part of a model ablated alone, and what changes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import xarray as xr

from ablationlens.adapters.watch import Watched
from ablationlens.data import Batch
from ablationlens.diagnostics.clean import MEASURES, Clean, Collected, blocks, clean_pass
from ablationlens.diagnostics.means import over_examples, over_positions
from ablationlens.diagnostics.named import place_of
from ablationlens.diagnostics.parts import By, Parts, parts_of
from ablationlens.diagnostics.pattern_cells import PatternCells
from ablationlens.diagnostics.pattern_change import PatternChange, left_out, watched_patterns
from ablationlens.diagnostics.table_result import AblationTable, pattern_array, value_set
from ablationlens.errors import AdapterError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.progress import bar
from ablationlens.provenance import packages
from ablationlens.sites import Pattern
from ablationlens.sweep import Pass, Sweep


def ablation_table(
    model: MaskedModel,
    data: Batch,
    *,
    by: By = "component",
    patterns: bool | None = None,
    attention: str | None = None,
    example: SupportsIndex | str | None = 0,
    scored_only: bool = False,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> AblationTable:
    """What each part of a model does to predictions, output and attention: every part ablated alone, in one sweep.

    - Drift of the predictions: see `drift`, whose means over positions these are.
    - ``effect``, f(all) - f(ablated) of the model's own output: the effect of keeping the part.
    - Change of the attention patterns: the total-variation distance between the pattern under ablation and the clean
      one, half the sum of |difference| over keys, from 0 to 1; the mean over real queries and examples, for each layer
      and head.

    Each part is ablated with all others kept, so that effects say nothing of parts that stand in for one another, and
    do not add up to f(all) - f(none).

    The patterns themselves are kept of one example, so that a cell, a head without a part, can be looked at::

        table = al.ablation_table(model, data)
        al.plots.pattern_change(table)  # which head changes without which part
        al.plots.pattern_without(table, "L0.head 3", layer=1, head=0)  # how

    With a base the clean model is the base with nothing ablated. Of a base with several samples each is compared with
    itself, and the values are means over samples; the patterns that are kept are those of the first.

    What it costs: (parts + 1) forward passes of every example, packed, for each sample of a base. Memory holds the
    clean log-probabilities (real positions x classes) and patterns, one pass of logits and patterns, and one number
    for each part, example and measure; it does not grow with logits of the parts. Of their patterns it holds the
    cells that change the most, in float16: 2**24 numbers and so 32 MB, as much again while the sweep runs and for
    the clean patterns of these cells, whatever the number of parts. That is every cell for 16,000 of them at 32
    tokens. Attention that runs as "sdpa" is switched to "eager" for the duration where patterns are read.

    Args:
        model: the masked model.
        data: the examples.
        by: what the components of a part share: "component", each is one; "head", the same for a registry of heads;
            "layer", "module", "kind" or "index", or several: ["layer", "module"].
        patterns: whether to read attention patterns; by default where the model shows them.
        attention: which attention of a layer, in a model that has several: "decoder.cross".
        example: whose patterns are kept, by place or name; None keeps none.
        scored_only: average drift over the scored positions alone, and not all real ones.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        One row per part, in the order of the registry.

    Raises:
        InputError: if `by` is unknown, there is no such example, the output or the data do not fit, or the model makes
            no predictions.
        AdapterError: if patterns are asked for, and the model does not show them; the message says how to load it.
    """
    check_call(model, data)
    kept = None if example is None else place_of(example, data.names(), "example")
    parts = parts_of(model.registry, by)
    begun = time.perf_counter()
    sweep = Sweep(model, data, parts, rows=rows)
    sweep.announce("ablation table")
    watched = watched_patterns(model.adapter, patterns, attention)
    try:
        clean = _clean(model, data, watched, rows)
    except AdapterError as error:
        if patterns or not watched:
            raise
        left_out(error)
        watched = ()
        clean = _clean(model, data, watched, rows)
    cells = None if kept is None or not clean.patterns.taps else PatternCells(clean.patterns, data, kept, parts.draws)
    found = _Found(model, clean, parts, cells, scored_only=scored_only)
    found.fill(sweep, 0, show_bar)
    for sample in range(1, sweep.samples):
        clean = _clean(model, data, watched, rows, sample)
        other = _Found(model, clean, parts, None, scored_only=scored_only)
        other.fill(sweep, sample, show_bar)
        found.add(other)
    found.divide(sweep.samples)
    provenance = {
        **model.describe(),
        "data": {"examples": len(data), "fingerprint": data.fingerprint()},
        "by": by if isinstance(by, str) else list(by),
        "patterns": bool(clean.patterns.taps),
        "attention": attention,
        "example": None if cells is None else cells.example,
        "scored_only": scored_only,
        "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
        "packages": packages(),
        "seconds": round(time.perf_counter() - begun, 2),
    }
    names = parts.frame["part"].tolist()
    return AblationTable(
        parts.frame,
        parts.layers,
        *found.labelled(data.names()),
        provenance,
        None if cells is None else cells.kept(names),
    )


@dataclass(frozen=True)
class _CleanRun:
    """What the unmodified model predicts, gives as its output, and attends to."""

    predictions: Clean
    outputs: np.ndarray
    patterns: PatternChange


def _clean(
    model: MaskedModel, data: Batch, watched: tuple[Pattern, ...], rows: int | None, sample: int = 0
) -> _CleanRun:
    collected, patterns, outputs = Collected(data), PatternChange(watched, data), np.empty(len(data))

    def keep(one: Pass) -> None:
        outputs[one.examples.start : one.examples.stop] = _output(model, one)[0]
        collected.keep(one)
        patterns.keep(one)

    clean_pass(model, data, keep, rows=rows, taps=[*model.output.taps, *watched], sample=sample)
    patterns.ready()
    return _CleanRun(collected.clean(), outputs, patterns)


def _output(model: MaskedModel, one: Pass) -> np.ndarray:
    """The model's own output, [draw, example]."""
    return one.by_draw(model.output.score(one.logits, one.batch, one.reference, one.seen)).double().cpu().numpy()


class _Found:
    """What the parts change, filled block by block."""

    def __init__(
        self, model: MaskedModel, clean: _CleanRun, parts: Parts, cells: PatternCells | None, *, scored_only: bool
    ) -> None:
        self.model, self.clean, self.parts, self.cells = model, clean, parts, cells
        self.taps: list[Watched] = [*model.output.taps, *clean.patterns.taps]
        places = clean.predictions.places
        self.counts = (places.scored & places.real if scored_only else places.real).numpy()
        self.values = np.full((len(MEASURES) + 1, parts.draws, len(clean.outputs)), np.nan)
        self.change = None
        if clean.patterns.taps:
            self.change = np.full((parts.draws, len(clean.patterns.taps), clean.patterns.heads), np.nan)

    def fill(self, sweep: Sweep, sample: int, show_bar: bool | None) -> None:
        """All parts, with the gates of one sample of a base."""
        spans = blocks(sweep)
        label = "ablation table" if sweep.samples == 1 else f"ablation table, sample {sample + 1} of {sweep.samples}"
        for start, stop in bar(spans, total=len(spans), unit="block", label=label, show_bar=show_bar):
            self._visit(sweep, start, stop, sample)

    def add(self, other: _Found) -> None:
        """What another sample gave."""
        self.values += other.values
        if self.change is not None and other.change is not None:
            self.change += other.change

    def divide(self, samples: int) -> None:
        """The mean of what so many samples gave."""
        self.values /= samples
        if self.change is not None:
            self.change /= samples

    def _visit(self, sweep: Sweep, start: int, stop: int, sample: int) -> None:
        """Fill the rows of these parts."""
        change = None if self.change is None else np.empty((stop - start, self.counts.shape[0], *self.change.shape[1:]))

        def keep(one: Pass) -> None:
            draws, examples = (slice(part.start, part.stop) for part in (one.draws, one.examples))
            drift, _ = self.clean.predictions.compare(one)
            counts = self.counts[examples]
            grid = np.full((*drift.shape[:2], *counts.shape), np.nan)
            grid[..., self.clean.predictions.places.real.numpy()[examples]] = drift.numpy()
            self.values[:-1, draws, examples] = over_positions(grid, counts)
            self.values[-1, draws, examples] = self.clean.outputs[examples] - _output(self.model, one)
            if change is not None:
                own = slice(one.draws.start - start, one.draws.stop - start)
                measured = self.clean.patterns.measured(one)
                change[own, examples] = measured.numpy()
                if self.cells is not None:
                    self.cells.offer(one, measured)

        sweep.visit(start, stop, keep, self.taps, sample=sample)
        if change is not None and self.change is not None:
            self.change[start:stop] = over_examples(np.moveaxis(change, 1, -1))[0]

    def labelled(self, examples: tuple[str, ...]) -> tuple[xr.Dataset, xr.DataArray | None]:
        """Values [part, example] and pattern changes [part, layer, head], with names on their axes."""
        names = self.parts.frame["part"].tolist()
        values = value_set(list(self.values), names, examples)
        if self.change is None:
            return values, None
        return values, pattern_array(self.change, names, [tap.layer for tap in self.clean.patterns.taps])
