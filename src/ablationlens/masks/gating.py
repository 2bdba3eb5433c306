"""Gating: how a mask and the gates of a base come together in a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ablationlens.ablations import Ablation, Zero
from ablationlens.adapters.base import Placed
from ablationlens.adapters.plan import Plan, Replacements, StandIns
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masks.base import Base, Search


class Gating:
    """The components that a base gates in a model, and those that only a mask does; worked out once.

    Args:
        base: what gates.
        plan: of the registry that masks are for.
        ablation: what the components of the registry are ablated to.

    Attributes:
        plan: of the components that the base gates.
        columns: the column of each of them in a mask, whose width stands for those that a mask does not have; None
            where they are those of the mask, in its order.
        rest: where a mask has components that the base does not gate: their plan, and their columns.

    Raises:
        InputError: if the registry has components that the base knows nothing of, or it gates some that are to be
            ablated to something else than 0.
    """

    def __init__(self, base: Base, plan: Plan, ablation: Ablation) -> None:
        self.base, self.plan = base, plan
        self.columns: Tensor | None = None
        self.rest: tuple[Plan, Tensor] | None = None
        adapter, registry = plan.adapter, plan.registry
        behind = base.behind(adapter, registry)
        others = {} if behind is None else {name: column for column, name in enumerate(registry.names)}
        if behind is not None:
            columns = [others.pop(name, plan.width) for name in behind.names]
            self.plan, self.columns = Plan(adapter, behind), torch.tensor(columns, device=adapter.device)
        if len(others) < plan.width and ablation != Zero():
            raise InputError(
                f"a base scales components towards 0, so what they are ablated to is al.Zero(); got {ablation!r}"
            )
        if others:
            own = registry if len(others) == plan.width else registry.select(where=lambda one: one.name in others)
            columns = torch.tensor(list(others.values()), device=adapter.device)
            self.rest = plan if own is registry else Plan(adapter, own), columns

    def bind(self, data: Batch) -> GatedData:
        """The gates of some examples, which are on the model's device.

        Raises:
            InputError: if the base gives something else than gates, or gates that do not fit the model.
        """
        gates, search = self.base.bind(self.plan.adapter, self.plan.registry, data)
        if gates.ndim == 4 and not self.plan.positional:
            raise InputError(
                f"{self.base!r} has gates for each position, and some of its modules have other positions than the "
                "logits (those of an encoder): no mask covers both"
            )
        rows = (self.base.samples, len(data), *((data.length,) if gates.ndim == 4 else ()))
        if tuple(gates.shape) != (*rows, self.plan.width) or not bool(((gates >= 0) & (gates <= 1)).all()):
            raise InputError(
                f"the gates of a base are {[*rows, self.plan.width]} numbers from 0 to 1; {self.base!r} gives "
                f"{list(gates.shape)}, {float(gates.min()):.4g} to {float(gates.max()):.4g}"
            )
        zero = self.plan.stand_ins(Zero().bind(self.plan, data))
        return GatedData(self, gates.detach().to(self.plan.adapter.device, torch.float32), zero, search)


@dataclass(frozen=True, eq=False)
class GatedData:
    """What a base makes of some examples.

    Attributes:
        gating: how the gates and a mask come together.
        gates: [sample, example, component] or [sample, example, position, component] of what the base gates.
        zero: what these components are scaled towards.
        search: what finds other gates under each mask, if anything.
    """

    gating: Gating
    gates: Tensor
    zero: StandIns
    search: Search | None

    def rows(self, replacements: Replacements, sample: int, examples: Tensor) -> Gated:
        """What stands in at some rows, with the gates of one sample.

        Args:
            replacements: of the rows' other components.
            sample: of the base.
            examples: which example each row is.
        """
        rest = None if self.gating.rest is None else self.gating.rest[0].stand_ins(replacements)
        return Gated(self, self.gates[sample].index_select(0, examples), examples, rest)


@dataclass(frozen=True, eq=False)
class Gated:
    """What stands in at some rows of a model with a base.

    Attributes:
        data: of which these rows are.
        gates: of the rows, [row, component] or [row, position, component] of what the base gates.
        examples: which example each row is.
        rest: what stands in for the components that the base does not gate.
    """

    data: GatedData
    gates: Tensor
    examples: Tensor
    rest: StandIns | None

    def edits(self, mask: Tensor) -> list[Placed]:
        """The edits of one forward pass, under a mask of the model's registry: see `Plan.edits`."""
        gating, gates = self.data.gating, self.gates
        if gating.columns is None:
            gates = _product(mask, gates)
        elif gating.rest is None or len(gating.rest[1]) < mask.shape[-1]:
            padded = torch.cat([mask, mask.new_ones(*mask.shape[:-1], 1)], dim=-1)
            gates = _product(padded.index_select(-1, gating.columns), gates)
        placed = gating.plan.edits(gates, self.data.zero)
        if gating.rest is not None and self.rest is not None:
            plan, columns = gating.rest
            placed += plan.edits(mask if plan.width == mask.shape[-1] else mask.index_select(-1, columns), self.rest)
        return placed

    def having(self, gates: Tensor) -> Gated:
        """The same rows with other gates."""
        return replace(self, gates=gates)


def _product(mask: Tensor, gates: Tensor) -> Tensor:
    """Gates of a mask whose kept components have those of a base."""
    if gates.ndim == mask.ndim:
        return mask * gates
    return mask[:, None] * gates if gates.ndim > mask.ndim else mask * gates[:, None]
