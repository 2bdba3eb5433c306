"""Weights of patching as shares of what there is to recover."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

from ablationlens.errors import InputError
from ablationlens.results import Attribution, AttributionByPosition

log = logging.getLogger("ablationlens")

Patched = TypeVar("Patched", Attribution, AttributionByPosition)

SMALLEST_GAP = 1e-6
"""Below this share of the outputs' size, the difference of two float32 outputs is rounding."""


def normalised(patched: Patched) -> Patched:
    """Weights as shares of the gap f(clean) - f(corrupt), for each example by itself.

    Predictions are shares too, (f(patched) - f(corrupt)) / (f(clean) - f(corrupt)) as in TransformerLens: 0 for the
    corrupt output, 1 for the clean one. They may lie outside. In denoising a weight is that share itself, and in
    noising 1 minus it: what is lost. It costs nothing, and the attribution that it is given stays as it is.

    Args:
        patched: from `activation_patching` or `attribution_patching`.

    Returns:
        The same, divided. An example whose two outputs are equal has no gap: its weights and bias are NaN, and it is
        counted in the provenance.

    Raises:
        InputError: if this attribution is of another method, or normalised already.
    """
    provenance = patched.provenance
    if "gap" in provenance:
        raise InputError("these weights are shares of the gap already")
    if "clean_output" not in provenance or "corrupt_output" not in provenance:
        raise InputError(
            f"{patched.method} has no clean and corrupt output to normalise by: "
            "al.normalised(al.activation_patching(model, clean, corrupt))"
        )
    clean, corrupt = (np.array(provenance[key], dtype=np.float64) for key in ("clean_output", "corrupt_output"))
    gap = _gap(clean, corrupt)
    missing = int(np.isnan(gap).sum())
    if missing:
        log.warning("%d of %d examples have no gap between clean and corrupt output", missing, len(gap))
    by = patched.bias.copy(data=gap)
    return replace(
        patched,
        weights=(patched.weights / by).rename("weight"),
        bias=((patched.bias - corrupt) / by).rename("bias"),
        errors=None if patched.errors is None else (patched.errors / abs(by)).rename("error"),
        provenance={**provenance, "gap": gap.tolist(), "examples_without_gap": missing},
    )


def _gap(
    clean: Float64[np.ndarray, " example"], corrupt: Float64[np.ndarray, " example"]
) -> Float64[np.ndarray, " example"]:
    """Difference of the outputs; NaN where it is nothing but rounding."""
    size = np.maximum(np.abs(clean), np.abs(corrupt))
    return np.where(np.abs(clean - corrupt) > SMALLEST_GAP * size, clean - corrupt, np.nan)
