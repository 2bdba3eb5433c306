"""Factors of the Gram: its rank, its condition and what the draws leave open."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64
from scipy.linalg import solve_triangular

from ablationlens.solvers.design import Design
from ablationlens.solvers.normal_equations import Sums, lift, mean_diagonal
from ablationlens.solvers.symmetric import (
    cholesky,
    condition_number,
    one_norm,
    pivoted_cholesky,
    rounding_share,
    solve_factored,
)


@dataclass(frozen=True)
class System:
    """A factorised Gram; ``solve`` gives the minimum-norm solution where it is singular."""

    solve: Callable[[np.ndarray], np.ndarray]
    rank: int
    condition: float
    aliased: Bool[np.ndarray, " component"]


def factorise(sums: Sums, design: Design) -> System:
    """By Cholesky, and only where that finds the Gram singular to working precision by pivoted Cholesky."""
    gram = sums.centred_gram()
    gram = lift(gram, design, mean_diagonal(gram, design))
    lifted = int((~design.varying).sum()) + design.level_open
    norm = one_norm(gram)
    factor = cholesky(gram)
    condition = math.inf if factor is None else condition_number(factor, norm)
    if factor is not None and condition * rounding_share(design.components) < 1:
        regular = np.zeros(design.components, dtype=bool)
        return System(partial(solve_factored, factor), design.components - lifted, condition, regular)
    del factor, gram  # the same memory, before the next
    gram = sums.centred_gram()
    system = _factorise_singular(lift(gram, design, mean_diagonal(gram, design)))
    aliased = system.aliased if design.draws > design.components else np.zeros_like(system.aliased)
    return System(system.solve, system.rank - lifted, system.condition, aliased)


def _factorise_singular(gram: Float64[np.ndarray, "n n"]) -> System:
    """Pivoted Cholesky: a basis of the null space tells which components are aliased and what has least norm.

    An eigendecomposition would say the same at some thirty times the price. Components are brought to unit variance
    first: a rarely ablated one is not a small pivot.
    """
    scale = np.sqrt(np.maximum(gram.diagonal(), np.finfo(np.float64).tiny))
    gram /= scale[:, None]
    gram /= scale
    norm = one_norm(gram)
    factor, order, rank = pivoted_cholesky(gram, rounding_share(len(gram)), in_place=True)
    lead = np.asfortranarray(np.tril(factor[:rank, :rank]))
    null = np.zeros((len(gram), len(gram) - rank))
    null[order[:rank]] = -solve_triangular(lead, factor[rank:, :rank].T, lower=True, trans=1, check_finite=False)
    null[order[rank:]] = np.eye(len(gram) - rank)
    aliased = np.abs(null).max(axis=1, initial=0) > 1e-6
    basis = np.linalg.qr(null / scale[:, None])[0]

    def solve(right: np.ndarray) -> np.ndarray:
        solution = np.zeros_like(right)
        solution[order[:rank]] = solve_factored(lead, (right / scale[:, None])[order[:rank]])
        solution /= scale[:, None]
        return solution - basis @ (basis.T @ solution)

    return System(solve, rank, condition_number(lead, norm), aliased)
