"""Attribution patching: activation patching to first order, for every component in one backward pass."""

from __future__ import annotations

import logging
import time
from typing import Literal, overload

import numpy as np
import torch

from ablationlens.attribution.patching.masks import OneAtATime
from ablationlens.attribution.patching.pairs import Direction, paired
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.progress import bar
from ablationlens.results import Attribution, AttributionByPosition
from ablationlens.sweep import GivenMasks

log = logging.getLogger("ablationlens")


@overload
def attribution_patching(
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
def attribution_patching(
    model: MaskedModel,
    clean: Batch,
    corrupt: Batch,
    *,
    direction: Direction = "denoising",
    by_position: Literal[True],
    rows: int | None = None,
    show_bar: bool | None = None,
) -> AttributionByPosition: ...


def attribution_patching(
    model: MaskedModel,
    clean: Batch,
    corrupt: Batch,
    *,
    direction: Direction = "denoising",
    by_position: bool = False,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution | AttributionByPosition:
    """First-order estimate of `activation_patching`: (clean - corrupt activation) times the gradient at the run input.

    This is the gradient of the output in each component's gate. It is exact where the output is linear in the gates,
    and can be far off where it is not: behind a saturated softmax, for example, or for whole activations of the first
    layers.

    It costs one forward and one backward pass of every example, about three forward passes, for all components and
    positions together; one more for the other input by itself, and one to read activations. It is no decomposition:
    the weights do not sum to f(clean) - f(corrupt).

    Args:
        model: the masked model; its output must be differentiable.
        clean: the examples on which the model does what is studied.
        corrupt: a counterpart for each, with as many tokens: ``clean.like(texts)``.
        direction: where the gradient is taken: "denoising" at the corrupt input, "noising" at the clean one. Signs and
            bias are those of `activation_patching`.
        by_position: a weight for each position of a component; their ``total()`` is the weight of the component.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        As from `activation_patching`.

    Raises:
        InputError: if the inputs do not line up token by token, there is no such direction, `by_position` is asked for
            where there are no positions, or the output has no gradient.
    """
    begun = time.perf_counter()
    pair = paired(model, clean, corrupt, direction)
    gates = OneAtATime(len(model.registry), pair.positions() if by_position else None).shape
    sweep = pair.sweep(GivenMasks(torch.ones(1, *gates)), rows)
    sweep.announce(f"attribution patching ({direction})", factor=3.0)
    spans = bar([(0, 1)], total=1, unit="block", label="attribution patching", show_bar=show_bar)
    ((_, outputs, gradients),) = [sweep.gradients(*span) for span in spans]
    weights = pair.sign * gradients[0].double().numpy()
    weights[~np.isfinite(outputs[0].numpy())] = np.nan  # a gradient may be finite where the output is not
    not_finite = int((~np.isfinite(weights)).reshape(len(clean), -1).any(1).sum())
    if not_finite:
        log.warning("%d of %d gradients were not finite: their weights are NaN", not_finite, len(clean))
    return pair.attributed(
        "attribution patching",
        weights,
        outputs[0].double().numpy(),
        sweep,
        {
            "draws": 1,
            "quarantined_outputs": not_finite,
            "seconds": round(time.perf_counter() - begun, 2),
        },
    )
