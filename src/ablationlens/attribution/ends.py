"""The two ends of every mask game, everything kept and everything ablated, and what a complete method makes of them.

The weights of a complete method sum to f(all kept) - f(all ablated). What they miss of it is the completeness gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from ablationlens.data import Batch
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.diagonal import Diagonal
from ablationlens.sweep import Sweep


@dataclass(frozen=True)
class Ends:
    """Outputs of each example at both ends, in units of the output.

    Attributes:
        kept: with every component kept, f(all).
        ablated: with every component ablated, f(none).
    """

    kept: Float64[np.ndarray, " example"]
    ablated: Float64[np.ndarray, " example"]

    def gap(self, weights: Float64[np.ndarray, "example component"]) -> Float64[np.ndarray, " example"]:
        """sum(weights) - (f(all) - f(none)): 0 for complete weights."""
        return weights.sum(1) - (self.kept - self.ablated)

    def provenance(self, weights: Float64[np.ndarray, "example component"]) -> dict[str, Any]:
        """Both ends and the gap, for each example."""
        return {
            "full_output": self.kept.tolist(),
            "empty_output": self.ablated.tolist(),
            "completeness_gap": self.gap(weights).tolist(),
        }


def ends(model: MaskedModel, data: Batch, *, rows: int | None = None) -> Ends:
    """Both ends of every example: two forward passes."""
    both = Sweep(model, data, Diagonal(len(model.registry), (1.0, 0.0)), rows=rows).outputs(0, 2).double().numpy()
    return Ends(both[0], both[1])
