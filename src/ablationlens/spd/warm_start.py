"""Ascents that begin with sources found before, one for every row of a forward pass, under its mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ablationlens.masks.base import MaskedRows
from ablationlens.spd.adversary import Ascent, ascend
from ablationlens.spd.decomposition import Where
from ablationlens.spd.objective import Aim
from ablationlens.spd.sources import Sources


@dataclass(frozen=True, eq=False)
class WarmStart:
    """A `Search` for sources that do the most harm under each mask: see `PGD`.

    What is ablated stays so at every step, because the mask multiplies the gates.

    Attributes:
        importances: [example, *position, C] of each module, on the model's device.
        sources: that the ascents begin with, [example, *position, C + 1].
        laid_out: from importances and sources to gates in the order of the components, differentiable.
        ascent: with a scope of "example", so that a row's sources depend on nothing but its own mask and example.
        aim: what is made as large as can be, of logits alone.
    """

    importances: Mapping[Where, Tensor]
    sources: Mapping[Where, Tensor]
    laid_out: Callable[[Mapping[Where, Tensor], Mapping[Where, Tensor]], Tensor]
    ascent: Ascent
    aim: Aim

    def __call__(self, rows: MaskedRows) -> Tensor:
        importances, begun = (
            {where: one.index_select(0, rows.examples) for where, one in held.items()}
            for held in (self.importances, self.sources)
        )
        before = self.laid_out(importances, begun)
        whole = (rows.mask == 1).flatten(1).all(1)
        if bool(whole.all()):
            return before

        def loss_of(sources: Sources) -> Tensor:
            return self.aim(rows.run(self.laid_out(importances, sources)), rows.reference, rows.batch, {})

        found = self.laid_out(importances, ascend(loss_of, begun, self.ascent).sources)
        return torch.where(whole.view(-1, *[1] * (before.ndim - 1)), before, found)
