"""How far attention patterns under ablation are from the clean ones."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.patterns import chosen_heads
from ablationlens.data import Batch
from ablationlens.errors import AdapterError, InputError
from ablationlens.layout import split_stack
from ablationlens.outputs.base import wide
from ablationlens.sites import Pattern
from ablationlens.sweep import Pass

ROUNDING = 1e-5
"""Changes of a pattern below this are rounding."""

log = logging.getLogger("ablationlens")


def watched_patterns(adapter: Adapter, patterns: bool | None, attention: str | None) -> tuple[Pattern, ...]:
    """The patterns of every layer; none if they are not wanted, or, unless they are asked for, not to be had.

    Args:
        adapter: the model.
        patterns: whether they are asked for; None: where the model has them.
        attention: which attention of a layer, in a model that has several.

    Raises:
        AdapterError, InputError: if they are asked for and the model has none, or several in a layer.
    """
    if patterns is False:
        return ()
    try:
        found = chosen_heads(adapter, None, attention, "al.ablation_table(model, data, {})")
        return tuple(Pattern(heads.layer, heads.attention) for heads in found)
    except (AdapterError, InputError) as error:
        if patterns or attention is not None:
            raise
        left_out(error)
        return ()


def left_out(error: Exception) -> None:
    """Say that patterns are left out, and why."""
    log.info("attention patterns are left out: %s", error)


class PatternChange:
    """Mean total-variation distance between patterns under ablation and clean ones, of each layer and head.

    The total-variation distance of two patterns is half the sum of |difference| over the keys, from 0 (the same) to 1
    (nothing in common). The mean is over the real queries whose clean pattern is one: which attend to something.

    The clean patterns take examples x heads x queries x keys numbers of each layer, whatever the number of masks.

    Args:
        taps: the patterns, as they are watched.
        data: the examples.
    """

    def __init__(self, taps: tuple[Pattern, ...], data: Batch) -> None:
        self.taps = taps
        self.data = data
        self._kept: dict[Pattern, list[Tensor]] = {tap: [] for tap in taps}
        self._clean: dict[Pattern, tuple[Tensor, Bool[Tensor, "example query"]]] = {}

    def keep(self, one: Pass) -> None:
        """Keep the patterns of a clean pass."""
        for tap, kept in self._kept.items():
            if one.examples.start == 0:
                kept.clear()
            kept.append(one.seen[tap])

    def ready(self) -> None:
        """All clean passes were kept."""
        for tap, kept in self._kept.items():
            pattern = torch.cat(kept)
            kept.clear()
            reads = (
                self.data.encoder_attended if split_stack(f"{tap.attention}.q")[0] == "encoder" else self.data.attended
            )
            real = pattern.new_ones(pattern.shape[0], pattern.shape[2], dtype=torch.bool)
            if reads is not None and reads.shape == real.shape:
                real = reads.to(pattern.device)
            self._clean[tap] = pattern, real & (wide(pattern).sum((1, -1)) > 0)  # a row that is NaN or empty is none

    def of(self, tap: Pattern, example: int) -> Float[Tensor, "head query key"]:
        """The clean pattern of one example."""
        return self._clean[tap][0][example]

    @property
    def heads(self) -> int:
        """The most heads of a layer."""
        return max(pattern.shape[1] for pattern, _ in self._clean.values())

    def measured(self, one: Pass) -> Float[Tensor, "draw example layer head"]:
        """The mean distance of each example, NaN where a layer has fewer heads or an example no query."""
        change = torch.full((len(one.draws), len(one.examples), len(self.taps), self.heads), torch.nan)
        own = slice(one.examples.start, one.examples.stop)
        for layer, tap in enumerate(self.taps):
            clean, queries = (values[own] for values in self._clean[tap])
            count = queries.sum(1)[:, None]
            for draw, pattern in enumerate(one.by_draw(one.seen[tap])):
                distance = (wide(pattern) - wide(clean)).abs_().sum(-1) / 2
                total = torch.where(queries[:, None], distance, 0).sum(-1)
                change[draw, :, layer, : clean.shape[1]] = (total / count).to("cpu", torch.float32)
        return change
