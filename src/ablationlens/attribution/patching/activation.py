"""Activation patching: run one input, with the activation of one component from the other, for every component."""

from __future__ import annotations

import logging
import time
from typing import Literal, overload

import numpy as np

from ablationlens.attribution.patching.masks import OneAtATime
from ablationlens.attribution.patching.pairs import Direction, paired
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.progress import bar
from ablationlens.results import Attribution, AttributionByPosition

log = logging.getLogger("ablationlens")


@overload
def activation_patching(
    model: MaskedModel,
    clean: Batch,
    corrupt: Batch,
    *,
    direction: Direction = "denoising",
    by_position: Literal[False] = False,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution: ...


@overload
def activation_patching(
    model: MaskedModel,
    clean: Batch,
    corrupt: Batch,
    *,
    direction: Direction = "denoising",
    by_position: Literal[True],
    rows: int | None = None,
    show_bar: bool | None = None,
) -> AttributionByPosition: ...


def activation_patching(
    model: MaskedModel,
    clean: Batch,
    corrupt: Batch,
    *,
    direction: Direction = "denoising",
    by_position: bool = False,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution | AttributionByPosition:
    """Effect of holding the clean activation in place of the corrupt one, for each component alone.

    The model's registry says what is patched and its output what is measured; its ablation has no part in it. Labels
    and scored positions are the clean examples' in both directions, and an output that compares with the unmodified
    model compares with its clean run.

    It costs one forward pass of every example for each component (for each component and position with
    `by_position`), two for the inputs by themselves, and one to read activations. It is no decomposition: the weights
    do not sum to f(clean) - f(corrupt). How the numbers map on those of TransformerLens is said in
    `ablationlens.attribution.patching`.

    Args:
        model: the masked model.
        clean: the examples on which the model does what is studied.
        corrupt: a counterpart for each, with as many tokens: ``clean.like(texts)``.
        direction: "denoising" runs the corrupt input and puts in clean activations: weights are f(patched) -
            f(corrupt), and the bias is f(corrupt). "noising" runs the clean input and puts in corrupt activations:
            weights are f(clean) - f(patched), and the bias is such that the prediction for "all clean" is f(clean).
            What the registry does not hold, embeddings for example, is that of the input that is run.
        by_position: patch one position of one component at a time, rather than all of its positions.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, [example, component] or [example, position, component]; `al.normalised` makes
        them shares of f(clean) - f(corrupt). Weights whose output was not finite are NaN, and counted in the
        provenance, which also holds the outputs of both inputs.

    Raises:
        InputError: if the inputs do not line up token by token, there is no such direction, or `by_position` is asked
            for where there are no positions.
    """
    begun = time.perf_counter()
    pair = paired(model, clean, corrupt, direction)
    patches = OneAtATime(len(model.registry), pair.positions() if by_position else None)
    sweep = pair.sweep(patches, rows)
    sweep.announce(f"activation patching ({direction})")
    outputs = np.empty((patches.draws, len(clean)))
    spans = list(sweep.blocks(0, patches.draws))
    for first, last in bar(spans, total=len(spans), unit="block", label="activation patching", show_bar=show_bar):
        outputs[first:last] = sweep.outputs(first, last).numpy()
    not_finite = int((~np.isfinite(outputs)).sum())
    if not_finite:
        log.warning("%d of %d outputs were not finite: their weights are NaN", not_finite, outputs.size)
    with np.errstate(invalid="ignore"):
        weights = pair.sign * (outputs[:1] - outputs[1:]).T
    return pair.attributed(
        "activation patching",
        weights.reshape(len(clean), *patches.shape),
        outputs[0],
        sweep,
        {
            "draws": patches.draws,
            "masks": {
                "design": pair.design + ("_by_position" if by_position else ""),
                "components": patches.components,
                "draws": patches.draws,
            },
            "quarantined_outputs": not_finite,
            "seconds": round(time.perf_counter() - begun, 2),
        },
    )
