"""The two outputs that everything is measured between: every component kept, and every component ablated."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.diagonal import Diagonal

NEGLIGIBLE = 1e-5
"""Share of the outputs' size below which the gap between all and none is rounding."""


def endpoints(
    model: MaskedModel, data: Batch, *, label: str, rows: int | None = None, show_bar: bool | None = None
) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"], dict[str, Any]]:
    """Output of each example with everything kept, the same with everything ablated, and the provenance: two passes."""
    found = record(model, data, Diagonal(len(model.registry), (1.0, 0.0)), label=label, rows=rows, show_bar=show_bar)
    full, empty = found.outputs.astype(np.float64)
    return full, empty, found.provenance


def gap(full: Float[np.ndarray, "*shape"], empty: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """f(all) - f(none); NaN where it cannot be told from rounding, or is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(full - empty, dtype=np.float64)
        counts = np.isfinite(difference) & (np.abs(difference) > NEGLIGIBLE * np.maximum(np.abs(full), np.abs(empty)))
    return np.where(counts, difference, np.nan)
