"""Stochastic masks of a decomposition as a design: every example, at every position, has gates of its own.

Draw i is sample i of the mode: gates ``ci + (1 - ci) * source``, with sources that depend on (seed, i, example, module)
alone (arXiv 2506.20790; `ablationlens.spd.sources`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from ablationlens.ablations import Zero
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.base import Base
from ablationlens.masks.designs import Design, integer
from ablationlens.spd.decomposition import Where
from ablationlens.spd.modes import Stochastic
from ablationlens.spd.sources import addressed_sources

BLOCK_BYTES = 2**25
"""Size of the gates of one example that are made at a time for its regression."""


@dataclass(frozen=True, eq=False)
class StochasticMasks(Design):
    """Samples of a stochastic mode, on one model and its data, as the draws of a regression.

    What a forward pass gets is the mask at each position. What a regression is on is its mean over the real positions
    of the example, from `means`. Both are made from the seed when they are needed: neither is kept. Importances are
    computed at the first use, in one forward pass of every example.

    Attributes:
        mode: whose samples the draws are.
        model: whose registry is that of the mode's decomposition.
        data: the examples.
        draws: number of samples.
    """

    mode: Stochastic
    model: MaskedModel = field(repr=False)
    data: Batch = field(repr=False)
    draws: int
    components: int = field(init=False)
    by_example: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", len(self.model.registry))

    def mask(self, draw: int) -> Float32[np.ndarray, "example *position component"]:
        return self._gates([draw], range(len(self.data)))[0].numpy()

    def masks(self, start: int, stop: int) -> Float32[np.ndarray, "draw example *position component"]:
        if stop - start > 1:
            return self._gates(range(start, stop), range(len(self.data))).numpy()
        if self._last.get("draw") != start:  # a draw of many examples takes several passes, each of which asks for it
            self._last.update(draw=start, masks=self.mask(start)[None])
        return self._last["masks"]

    def means(self, example: int) -> Float64[np.ndarray, "draw component"]:
        """The masks of one example under every draw, means over its real positions: what a regression is on.

        Takes 8 bytes * draws * components, however many examples there are.
        """
        out = np.empty((self.draws, self.components))
        real = self._real(example)
        for draws in self._blocks():
            gates = self._gates(draws, [example])[:, 0]
            if gates.ndim == 3:
                gates = gates[:, real] if real is not None else gates
                gates = gates.mean(1, dtype=torch.float64)
            out[draws.start : draws.stop] = gates.numpy()
        return out

    @cached_property
    def leeway(self) -> Float64[np.ndarray, "example component"]:
        """How far the draws can move each component in each example: root mean square over positions of 1 - importance.

        The masks of a component vary by its leeway times what those of a component of importance 0 vary by, and the
        standard error of its weight is larger by as much. 0 for a remainder that is always kept or always dropped.
        """
        remainder = 1.0 if self.mode.remainder == "source" else 0.0
        out = np.full((len(self.data), self.components), remainder)
        for where, lower in self._importances.items():
            columns = self._columns[where]
            for example in range(len(self.data)):
                away = 1 - lower[example].double()
                real = self._real(example)
                if away.ndim == 2:
                    away = away[real] if real is not None else away
                    away = away.square().mean(0).sqrt()
                out[example, columns.start : columns.stop - 1] = away.numpy()
        return out

    def describe(self) -> dict[str, Any]:
        return {
            "design": "stochastic",
            "draws": self.draws,
            "seed": self.mode.seed,
            "components": self.components,
            "mode": self.mode.describe(),
        }

    # -- gates ----------------------------------------------------------------------------------------------------

    @cached_property
    def _importances(self) -> dict[Where, Float[Tensor, "example *position C"]]:
        return self.mode.decomposition.importances(self.model.adapter, self.data)

    @cached_property
    def _columns(self) -> dict[Where, slice]:
        """Columns of the components of each module, its remainder last."""
        return {(part.site.layer, part.site.module): slice(part.start, part.stop) for part in self.model.registry.parts}

    @cached_property
    def _attended(self) -> Tensor | None:
        return None if self.data.attended is None else self.data.attended.cpu()

    @cached_property
    def _last(self) -> dict[str, Any]:
        """The masks of the last single draw."""
        return {}

    def _real(self, example: int) -> Tensor | None:
        return None if self._attended is None else self._attended[example]

    def _blocks(self) -> Iterator[range]:
        """Consecutive draws whose gates, of one example, are made together."""
        positions = self.data.length or 1
        step = max(1, BLOCK_BYTES // (4 * positions * self.components))
        for start in range(0, self.draws, step):
            yield range(start, min(start + step, self.draws))

    def _gates(
        self, draws: Sequence[int], examples: Sequence[int]
    ) -> Float[Tensor, "draw example *position component"]:
        """The mode's gates under some draws for some examples, in the order of the registry's columns."""
        known = {where: one[list(examples)] for where, one in self._importances.items()}
        mode = self.mode
        each = [addressed_sources(known, mode.sampling, mode.seed, draw, examples) for draw in draws]
        sources = {where: torch.stack([one[where] for one in each]) for where in known}
        lower = {where: one.expand(len(draws), *one.shape) for where, one in known.items()}
        laid: Tensor | None = None
        for where, own in self.mode.gates_with(lower, sources).items():
            laid = torch.empty(*own.parts.shape[:-1], self.components) if laid is None else laid
            columns = self._columns[where]
            laid[..., columns.start : columns.stop - 1] = own.parts
            laid[..., columns.stop - 1] = own.remainder[..., 0]
        assert laid is not None
        return laid


def stochastic_masks(
    model: MaskedModel, data: Batch, mode: Base, draws: int, given: Mapping[str, Any]
) -> StochasticMasks:
    """The design that a mode is, checked against the model and against what else was given.

    Args:
        model: the masked model.
        data: the examples.
        mode: that was given as the design.
        draws: number of samples.
        given: arguments of hard designs, which have no meaning beside a mode, by name; None for those not given.

    Raises:
        InputError: saying what to type instead.
    """
    line = "al.coar(model, data, design=al.spd.Stochastic(decomposition, seed=0), draws=...)"
    if not isinstance(mode, Stochastic):
        raise InputError(
            f"{type(mode).__name__} has nothing to draw; a mode whose samples are draws is Stochastic: {line}"
        )
    if mode.n_samples > 1:
        raise InputError(
            f"as a design, draw i is sample i of the mode, so draws=... says how many there are; this one has "
            f"n_samples={mode.n_samples}: leave it out, {line}"
        )
    for name, value in given.items():
        if value is not None:
            why = "the seed is the mode's" if name == "seed" else "every gate is from its importance to 1"
            raise InputError(f"{name}={value!r} says nothing of the masks of a mode ({why}): leave it out, {line}")
    if model.base is not None:
        raise InputError(
            "this design makes the gates itself, so the model has no base: "
            "al.MaskedModel(model.adapter, model.registry, model.ablation, model.output)"
        )
    if model.ablation != Zero():
        raise InputError(
            "a mode scales components towards 0, so what they are ablated to is al.Zero(): "
            f"model.having(ablation=al.Zero()); got {model.ablation!r}"
        )
    if model.registry != mode.decomposition.registry(model.adapter):
        raise InputError(
            "this design has masks for the components of its decomposition, and no others: "
            "al.MaskedModel(adapter, decomposition.registry(adapter), output=...); "
            f"this model's registry has {len(model.registry):,} components"
        )
    draws = integer("draws", draws)
    if draws < 1:
        raise InputError(f"draws is a positive number of masks; got {draws}")
    if data.length is not None and not model.plan.positional:
        raise InputError(
            f"{mode!r} has gates for each position, and some of its modules have other positions than the logits "
            "(those of an encoder): no mask covers both"
        )
    return StochasticMasks(mode, model, data, draws)
