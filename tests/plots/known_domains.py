"""Domains of a small network whose weights are given."""

from __future__ import annotations

import numpy as np

from ablationlens.diagnostics import Domains
from ablationlens.results import attribution
from tests.plots.conftest import made


def named(weights: dict[str, np.ndarray]) -> Domains:
    """Domains of the 36 rows of a small network, 3 layers of 3 modules."""
    registry = made(["row"]).registry
    provenance = {"output": {"output": "LogitDifference"}}
    return Domains(
        {
            name: attribution(
                "COAR", one, np.zeros(len(one)), registry, [str(i) for i in range(len(one))], provenance=provenance
            )
            for name, one in weights.items()
        }
    )
