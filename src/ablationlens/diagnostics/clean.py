"""The unmodified model's predictions, and how those of a forward pass under ablation differ from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ablationlens.adapters.watch import Watched
from ablationlens.data import NO_LABEL, Batch
from ablationlens.diagnostics.divergences import divergences
from ablationlens.diagnostics.places import Places, places
from ablationlens.masked_model import MaskedModel
from ablationlens.outputs.base import wide
from ablationlens.sweep import GivenMasks, Pass, Sweep

MEASURES = ("kl", "reverse_kl", "js", "top1_changed", "log_probability_change", "rank_change")
"""What is measured of a prediction under ablation, in this order."""
PIECE = {"cpu": 2**17, "cuda": 2**26}
"""Logits that are compared at a time: what fits a core's cache, or leaves room on a GPU."""
KEPT = 2**24
"""Clean probabilities that are kept beside their logarithms: 64 MB, for a seventh of the time of a drift."""
PASSES_PER_BLOCK = 16
"""Forward passes that share one session, which takes about as long to open as a small pass."""


def clean_pass(
    model: MaskedModel,
    data: Batch,
    call: Callable[[Pass], None],
    *,
    rows: int | None,
    taps: Iterable[Watched] = (),
    sample: int = 0,
) -> None:
    """Call `call` with the forward passes of the unmodified model, or of one sample of its base, first examples first.

    An all-ones mask is bit-equal to the unmodified model. Where a pass does not fit all begin again, with example 0.
    """
    ones = GivenMasks(torch.ones(1, len(model.registry)))
    Sweep(model, data, ones, rows=rows).visit(0, 1, call, taps, sample=sample)


def blocks(sweep: Sweep) -> list[tuple[int, int]]:
    """Consecutive draws of a few passes each, which share one session."""
    packing, draws = sweep.packing, sweep.source.draws
    step = packing.draws * max(1, PASSES_PER_BLOCK // packing.passes(1, sweep.examples))
    return [(first, min(first + step, draws)) for first in range(0, draws, step)]


class Collected:
    """Log-probabilities of passes, as they come: see `Clean`."""

    def __init__(self, data: Batch) -> None:
        self.data = data
        self.places: Places | None = None
        self._log_p: list[Tensor] = []

    def keep(self, one: Pass) -> None:
        """Keep the predictions of a clean pass."""
        if one.examples.start == 0:
            self._log_p.clear()
        if self.places is None:
            self.places = places(self.data, one.logits.shape[1:])
        ((_, _, logits),) = _real_rows(one, self.places, pieces=False)
        self._log_p.append(wide(logits).log_softmax(-1))

    def clean(self) -> Clean:
        """What was kept."""
        assert self.places is not None
        log_p = torch.cat(self._log_p)
        self._log_p.clear()
        labels = self.places.labels[self.places.real].to(log_p.device)
        log_p_of_label, rank = [], []
        for piece in _pieces(log_p):
            at_label = _at(log_p[piece], labels[piece].clamp(min=0))
            log_p_of_label.append(at_label)
            rank.append(_above(log_p[piece], at_label))
        p = log_p.exp() if log_p.numel() <= KEPT else None
        return Clean(self.places, log_p, p, log_p.argmax(-1), labels, torch.cat(log_p_of_label), torch.cat(rank))


@dataclass(frozen=True)
class Clean:
    """Predictions of the unmodified model at the real positions of all examples, one after another.

    They take real positions x classes numbers of memory, whatever the number of masks.

    Attributes:
        places: where the real positions are.
        log_p: log-probabilities, float32 or better.
        p: the same as probabilities, where they are few enough to be kept.
        top: the most probable class.
        labels: the right class, -100 where none is known.
        log_p_of_label: of the right class.
        rank: how many classes are more probable than the right one.
    """

    places: Places
    log_p: Float[Tensor, "real class"]
    p: Float[Tensor, "real class"] | None
    top: Int[Tensor, " real"]
    labels: Int[Tensor, " real"]
    log_p_of_label: Float[Tensor, " real"]
    rank: Float[Tensor, " real"]

    def compare(self, one: Pass) -> tuple[Float[Tensor, "measure draw real"], Int[Tensor, "draw real"]]:
        """Drift of a pass at the real positions of its examples, and its most probable classes; on the CPU.

        Returns:
            `MEASURES`, float32; NaN where one needs a label and there is none. The classes.
        """
        span = self.places.span(one.examples)
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in one.draws]
        for draw, piece, logits in _real_rows(one, self.places):
            found[draw].append(self._measured(logits, slice(span.start + piece.start, span.start + piece.stop)))
        values = torch.stack([torch.cat([values for values, _ in own], dim=1) for own in found], dim=1)
        top = torch.stack([torch.cat([top for _, top in own]) for own in found])
        return values.to("cpu", torch.float32), top.cpu()

    def _measured(self, logits: Float[Tensor, "row class"], own: slice) -> tuple[Tensor, Tensor]:
        logits = wide(logits)
        log_p, top, labels = self.log_p[own], self.top[own], self.labels[own]
        p = log_p.exp() if self.p is None else self.p[own]
        log_q = logits.log_softmax(-1)
        largest = log_q.amax(-1)
        changed = _at(log_q, top) < largest  # a tie is no change; only where there is one is the largest looked for
        after = top.clone()
        after[changed] = log_q[changed].argmax(-1)
        at_label = _at(log_q, labels.clamp(min=0))
        of_label = torch.stack([at_label - self.log_p_of_label[own], _above(log_q, at_label) - self.rank[own]])
        of_label[:, labels == NO_LABEL] = torch.nan
        top1_changed = torch.where(largest.isnan(), torch.nan, changed.to(log_q.dtype))
        return torch.cat([torch.stack([*divergences(log_p, p, log_q), top1_changed]), of_label]), after


def _real_rows(one: Pass, where: Places, *, pieces: bool = True) -> Iterator[tuple[int, slice, Tensor]]:
    """(number of the draw, which of its real positions, their logits) of a pass, a few at a time."""
    index = where.index(one.examples).to(one.logits.device)
    whole = len(index) == len(one.examples) * where.real.shape[1]
    for number, logits in enumerate(one.by_draw(one.logits)):
        rows = logits.reshape(-1, logits.shape[-1])
        for piece in _pieces(rows, len(index)) if pieces else [slice(0, len(index))]:
            yield number, piece, rows[piece] if whole else rows[index[piece]]


def _pieces(values: Tensor, rows: int | None = None) -> Iterator[slice]:
    """Consecutive rows, few enough to be worked on at once."""
    rows = len(values) if rows is None else rows
    step = max(1, PIECE.get(values.device.type, PIECE["cpu"]) // values.shape[-1])
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))


def _at(values: Float[Tensor, "row class"], index: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return values.gather(-1, index[:, None])[:, 0]


def _above(values: Float[Tensor, "row class"], limit: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    """How many entries are larger than the limit; a sum of floats, which is three times faster than one of booleans."""
    return torch.gt(values, limit[:, None], out=torch.empty_like(values)).sum(-1)
