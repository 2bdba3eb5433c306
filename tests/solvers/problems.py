"""Masks and outputs to solve for, and oracles.

Numbers in the names of tests (coar_requirement_04) are those of the COAR facts sheet.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from ablationlens.solvers import SOLVERS, Fit

SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)
every = pytest.mark.parametrize("name", SOLVERS)


def bernoulli(draws: int, components: int, *, kept: float = 0.8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((draws, components)) < kept


def problem(
    draws: int = 120, components: int = 15, targets: int = 4, *, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Bernoulli masks, and outputs that are additive in them but for noise."""
    rng = np.random.default_rng(seed)
    masks = bernoulli(draws, components, seed=seed)
    outputs = 3 + masks @ rng.normal(size=(components, targets)) + noise * rng.normal(size=(draws, targets))
    return masks, outputs


def fixed_size(draws: int, components: int, kept: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((draws, components)).argsort(axis=1) < kept


def single_ablations(components: int) -> np.ndarray:
    return np.vstack([np.ones(components, dtype=bool), ~np.eye(components, dtype=bool)])


def minimum_norm(masks: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Weights [target, component] of least norm with a free bias, from a singular value decomposition."""
    centred = masks - masks.mean(axis=0, dtype=float)
    return np.linalg.lstsq(centred, outputs - outputs.mean(axis=0), rcond=1e-10)[0].T


def predict(fit: Fit, masks: np.ndarray) -> np.ndarray:
    return fit.bias + masks @ fit.weights.T
