"""What the way in which an attribution was made leaves open: draws, standard errors, a budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from ablationlens.masks.designs import RANDOM_DESIGNS
from ablationlens.plots.labels import counted, percent
from ablationlens.report.facts import design_of, found
from ablationlens.report.finding import Finding, Level
from ablationlens.results import Attribution

ONE_GRADIENT = ("gradient x parameter", "attribution patching")
"""Methods that take one gradient."""
FEW_HITS = 10
"""Draws on the path of a gate below which its mean is rough."""
SMALL_LOSS = 0.01
"""Correlation lost to sampling that is not worth a word."""


def made(attribution: Attribution) -> Iterator[Finding]:
    """What the way in which it was made leaves open."""
    provenance = attribution.provenance
    bad = int(found(provenance, "quarantined_outputs") or 0)
    if bad:
        yield Finding("caution", f"Not finite, and left out: {counted(bad, 'output')}.")
    dropped = int(found(provenance, "examples_without_fit") or 0)
    if dropped:
        yield Finding(
            "caution", f"Without weights, because too few outputs were finite: {counted(dropped, 'example')}."
        )
    unidentified = 0 if attribution.unidentified is None else int(attribution.unidentified.sum())
    design = design_of(attribution)
    if unidentified:
        why = (
            "Their importance is about 1 in every example (or the mode keeps or drops them), so such draws never move "
            "them."
            if design == "stochastic"
            else "More draws would identify them."
        )
        yield Finding(
            "caution",
            f"{unidentified:,} of {attribution.weights.sizes['component']:,} components cannot be told apart by the "
            f"draws that were made; their weights say nothing by themselves. {why}",
        )
    yield from _budget(provenance)
    yield from _errors(attribution)
    if design == "paths":
        yield from _paths(attribution)
    elif design in RANDOM_DESIGNS:
        yield from _regression(attribution)
    elif str(provenance.get("method")) in ONE_GRADIENT:
        yield Finding(
            "note",
            "It is read off a single gradient, at the whole model: the first guess of what each component does alone. "
            "Components that stand in for one another, and outputs that saturate, are not seen.",
        )
    elif design == "diagonal":
        yield Finding(
            "note",
            f"Its gradients are taken at {counted(int(found(provenance, 'draws') or 0), 'point')} between the model "
            "with every component ablated and the whole one: most of them are far from a few ablations.",
        )


def _budget(provenance: Mapping[str, Any]) -> Iterator[Finding]:
    """What `al.attribute` chose, spent and expects."""
    if "chosen" not in provenance:
        return
    loss = float(provenance.get("expected_loss", math.nan))
    early = ", and stopped early" if provenance.get("stopped_early") else ""
    text = (
        f"al.attribute chose {provenance['chosen']} and spent {int(provenance['spent']):,} of "
        f"{int(provenance['budget']):,} forward passes{early}"
    )
    text += f"; by its two halves, sampling costs about {loss:.2g} of correlation." if math.isfinite(loss) else "."
    yield Finding("good" if loss <= SMALL_LOSS else "note", text)  # NaN was not measured


def _paths(attribution: Attribution) -> Iterator[Finding]:
    """Draws of a path gradient: how often each gate was on the path, and how far the path means count."""
    masks, draws = attribution.provenance["masks"], int(found(attribution.provenance, "draws") or 0)
    hits = draws / max(int(masks.get("groups", 1)), 1)
    text = (
        f"{counted(draws, 'draw')}, a forward and a backward pass each; every gate was on the path in about {hits:.0f}"
    )
    if hits < 2:
        yield Finding(
            "caution", f"{text}: too few for path means, so the weights are gradients at kept gates, which are biased."
        )
    elif hits < FEW_HITS:
        yield Finding("note", f"{text}. More draws would sharpen the weights.")
    else:
        yield Finding("good", f"{text}.")
    shares: Any = attribution.provenance.get("shrinkage")
    if not isinstance(shares, Mapping) or not shares or hits < 2:
        return
    counts = {str(name): float(share) for name, share in cast("Mapping[str, Any]", shares).items()}
    lowest = min(counts, key=lambda name: counts[name])
    level: Level = "note" if counts[lowest] < 0.5 else "good"
    yield Finding(
        level,
        f"Path means count for {percent(counts[lowest])} at the least ({lowest}); the rest is the pattern of the "
        "gradients at kept gates.",
    )


def _regression(attribution: Attribution) -> Iterator[Finding]:
    """Draws of a regression: whether they are enough for so many coefficients."""
    provenance, size = attribution.provenance, attribution.weights.sizes["component"]
    draws, rank, condition = (found(provenance, key) for key in ("draws", "rank", "condition"))
    if rank is not None and rank < size and (attribution.unidentified is None or not attribution.unidentified.any()):
        yield Finding("note", f"The masks have rank {rank:,} for {size:,} components.")
    if draws is not None:
        few = draws < 2 * size
        text = f"{draws:,} draws for {size:,} components ({draws / size:.1f} for each)"
        text += "" if condition is None else f"; estimated condition number {float(condition):.3g}"
        yield Finding("note" if few else "good", text + (". More draws would sharpen the weights." if few else "."))


def _errors(attribution: Attribution) -> Iterator[Finding]:
    """How far the strongest weights are from 0, in standard errors."""
    if attribution.errors is None:
        return
    table = attribution.table()
    weights, errors = (np.abs(np.asarray(table[name], dtype=np.float64)) for name in ("weight", "error"))
    known = np.isfinite(weights) & np.isfinite(errors) & (errors > 0)
    if not known.any():
        return
    away = weights[known] / errors[known]
    strongest = away[:25]
    clear = float((strongest > 2).mean())
    level: Level = "good" if clear >= 0.9 else "note" if clear >= 0.5 else "caution"
    yield Finding(
        level,
        f"The {len(strongest)} strongest weights are {np.median(strongest):.2g} standard errors from 0 in the median, "
        f"{'all' if clear == 1 else int((strongest > 2).sum())} of them more than 2; of all {len(away):,} components "
        f"{percent(round(float((away > 2).mean()), 2))} are. These are errors of sampling alone.",
    )
