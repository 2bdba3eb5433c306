"""How well attributions predict ablations that they have not seen.

The measure is that of the COAR paper (arXiv 2404.11534): for each example, the correlation between the true outputs
under fresh random masks and what ``bias + mask @ weights`` predicts for them. Correlation is blind to scale, so R2 and
the slope stand beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.agreement import agreement
from ablationlens.evaluate.checks import check_belong, named
from ablationlens.evaluate.scores import Scores
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import RANDOM_DESIGNS, AllMasks, Design, DesignName, LeaveOneOut, Random, random_design
from ablationlens.provenance import packages
from ablationlens.results import Attribution

log = logging.getLogger("ablationlens")

STREAM = "evaluate"
"""Held-out masks have a stream of random numbers of their own."""
SCAN = 2
"""Draws looked at for each held-out mask wanted. Where more would have to be thrown away, those that are left are the
rare masks, which say little of the design: all are taken then, and the overlap is counted."""


@dataclass(frozen=True)
class HeldOut(Design):
    """Draws of a random design that no attribution was fitted on.

    Attributes:
        source: the random design, on a stream of its own.
        chosen: its draws that are used.
        overlap: how many of them are masks of a fit, because most of what the design draws is.
    """

    source: Random
    chosen: tuple[int, ...]
    overlap: int
    components: int = field(init=False)
    draws: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", self.source.components)
        object.__setattr__(self, "draws", len(self.chosen))

    def mask(self, draw: int) -> Bool[np.ndarray, " component"]:
        return self.source.mask(self.chosen[draw])

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "draws": self.draws, "overlap": self.overlap}


def evaluate(
    model: MaskedModel,
    data: Batch,
    attributions: Mapping[str, Attribution] | Attribution,
    *,
    alphas: Sequence[float] | np.ndarray | SupportsFloat = (0.05,),
    draws: int = 500,
    seed: int = 0,
    design: DesignName = "bernoulli",
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Scores:
    """Correlation of attributions with ablations that they were not fitted on, all on the same fresh masks.

    Args:
        model: the masked model.
        data: the examples that the attributions are of.
        attributions: one, or several by name.
        alphas: shares of components to ablate.
        draws: held-out masks for each alpha.
        seed: of the held-out masks, which have a stream of their own.
        design: how they are drawn.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if an attribution belongs to another registry or other data, or draws or alphas do not fit.
    """
    methods = named(attributions, "al.evaluate(model, data, {'COAR': coar, ...})")
    if draws < 3:
        raise InputError(f"a correlation needs at least 3 draws, better some hundreds; got {draws}")
    check_belong(model, data, methods)
    shares = [float(alpha) for alpha in np.atleast_1d(np.asarray(alphas, dtype=np.float64))]
    if not shares:
        raise InputError("alphas are shares of components to ablate, at least one: alphas=[0.05]")
    sources = {alpha: random_design(design, len(model.registry), alpha, draws, seed, STREAM) for alpha in shares}
    held_out = {alpha: held_out_masks(source, methods) for alpha, source in sources.items()}
    true: dict[float, np.ndarray] = {}
    predicted: dict[tuple[str, float], np.ndarray] = {}
    rows_of_frame: list[dict[str, Any]] = []
    provenance: dict[str, Any] = {}
    for alpha, masks in held_out.items():
        found = record(model, data, masks, label=f"held-out, alpha {alpha:g}", rows=rows, show_bar=show_bar)
        provenance = {**found.provenance, "masks": {**masks.describe(), "alpha": shares}, "packages": packages()}
        true[alpha] = found.outputs.astype(np.float64)
        for name, attribution in methods.items():
            predicted[name, alpha] = attribution.predict(found.masks())
            columns = agreement(true[alpha], predicted[name, alpha])
            rows_of_frame += [
                {
                    "method": name,
                    "alpha": alpha,
                    "example": example,
                    **{key: values[i] for key, values in columns.items()},
                }
                for i, example in enumerate(data.names())
            ]
    overlap = {alpha: masks.overlap for alpha, masks in held_out.items()}
    for alpha, count in overlap.items():
        if count:
            log.warning(
                "alpha %g: %d of %d test masks were also used for fitting, because most of what is drawn with so few "
                "components was",
                alpha,
                count,
                draws,
            )
    return Scores(pd.DataFrame(rows_of_frame), true, predicted, overlap, draws, provenance)


def held_out_masks(source: Random, attributions: Mapping[str, Attribution]) -> HeldOut:
    """Draws of a design whose masks no attribution was fitted on; plain draws of it where most of them were fitted on.

    With few components a fit has seen nearly every mask that is drawn often. What it has not seen are masks that
    ablate unusually many: an attribution would be tested on another distribution than the one that was asked for.
    """
    seen: set[bytes] = set()
    for attribution in attributions.values():
        fitted = design_of(attribution)
        if fitted is not None:
            seen.update(row.tobytes() for row in np.packbits(fitted.masks(0, fitted.draws), axis=1))
    fresh: list[int] = []
    for draw in range(SCAN * source.draws):
        if np.packbits(source.mask(draw)).tobytes() not in seen:
            fresh.append(draw)
        if len(fresh) == source.draws:
            return HeldOut(source, tuple(fresh), 0)
    known = sum(draw < source.draws for draw in fresh)
    return HeldOut(source, tuple(range(source.draws)), source.draws - known)


def design_of(attribution: Attribution) -> Design | None:
    """The hard masks that an attribution was fitted on, made again from its provenance; None if it names none."""
    match attribution.provenance.get("masks"):
        case {"design": "leave_one_out"}:
            return LeaveOneOut(len(attribution.registry))
        case {"design": "all_masks"}:
            return AllMasks(len(attribution.registry))
        case {
            "design": str(name),
            "alpha": float(alpha),
            "draws": int(draws),
            "seed": int(seed),
            "stream": str(stream),
        } if name in RANDOM_DESIGNS:
            return random_design(name, len(attribution.registry), alpha, draws, seed, stream)
        case _:
            return None
