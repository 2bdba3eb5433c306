"""Symmetric matrices, of which the lower triangle is kept: summed, factorised and solved with, mostly in place."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from ablationlens.solvers.blocks import slices

# In float64, by their LAPACK names: potrf factorises, potrs solves, pocon estimates 1 / condition, pstrf pivots.
_potrf, _potrs, _pocon, _pstrf = get_lapack_funcs(("potrf", "potrs", "pocon", "pstrf"), dtype=np.float64)
(_syr,) = get_blas_funcs(("syr",), dtype=np.float64)

_EPS = float(np.finfo(np.float64).eps)


def plus_products(
    total: Float[np.ndarray, "n n"],
    blocks: Iterator[tuple[slice, np.ndarray]],
    *,
    transpose: bool,
) -> Float[np.ndarray, "n n"]:
    """Add to the lower triangle, in place, block.T @ block, or block @ block.T if ``transpose``."""
    (add,) = get_blas_funcs(("syrk",), (total,))
    for _, block in blocks:
        # block.T is in Fortran order, and therefore not copied.
        total = add(1.0, block.T, beta=1.0, c=total, trans=int(transpose), lower=1, overwrite_c=1)
    return total


def plus_outer(
    lower: Float64[np.ndarray, "n n"], scale: float, vector: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, "n n"]:
    """Add to the lower triangle, in place, scale * vector vector'."""
    return _syr(scale, vector, lower=1, a=lower, overwrite_a=1)


def both_triangles(lower: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Fill the upper triangle, in place, a strip at a time: no second copy."""
    for strip in slices(0, len(lower), len(lower)):
        lower[: strip.start, strip] = lower[strip, : strip.start].T
        corner = lower[strip, strip]
        lower[strip, strip] = np.tril(corner) + np.tril(corner, -1).T
    return lower


def one_norm(lower: Float64[np.ndarray, "n n"]) -> float:
    """1-norm of a symmetric matrix, of which the lower triangle is read."""
    sums = -np.abs(lower.diagonal())
    for strip in slices(0, len(lower), len(lower)):
        size = np.abs(lower[strip.start :, strip])
        size[: size.shape[1]] = np.tril(size[: size.shape[1]])
        sums[strip] += size.sum(axis=0)
        sums[strip.start :] += size.sum(axis=1)
    return float(sums.max())


def cholesky(gram: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"] | None:
    """The lower factor, in place of the lower triangle; None if the matrix is singular."""
    factor, failed = _potrf(gram, lower=1, clean=0, overwrite_a=1)
    return None if failed else factor


def condition_number(factor: Float64[np.ndarray, "n n"], norm: float) -> float:
    reciprocal, _ = _pocon(factor, norm, uplo="L")
    return 1 / reciprocal if reciprocal > 0 else math.inf


def solve_factored(factor: Float64[np.ndarray, "n n"], right: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    return _potrs(factor, right, lower=1)[0]


def pivoted_cholesky(
    lower: Float64[np.ndarray, "n n"], tolerance: float, *, in_place: bool
) -> tuple[Float64[np.ndarray, "n n"], Int[np.ndarray, " n"], int]:
    """The factor of the matrix with its rows and columns in another order, that order, and the rank."""
    factor, order, rank, _ = _pstrf(lower, tol=tolerance, lower=1, overwrite_a=int(in_place))
    return factor, order - 1, int(rank)


def rounding_share(size: int) -> float:
    """Below this share of the largest, a pivot of a matrix of this size is taken for rounding."""
    return 100 * size * _EPS
