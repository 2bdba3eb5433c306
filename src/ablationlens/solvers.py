"""Least squares, ridge and lasso for component attribution: arrays in, coefficients out.

COAR (arXiv 2404.11534) explains the outputs of a model under random ablations by one linear model per target:

    outputs[draw, target] ~ bias[target] + masks[draw, component] @ weights[target, component]

A target is an example, or anything else that has one number per draw. All solvers share one pass over the masks and
one factorisation over all targets, compute in float64 and return weights in the units of the outputs with the bias
kept (the paper's code saves weights of z-scored masks, whose size means something else).

**How.** The normal equations of the centred masks, whose matrix is called the *Gram* here. For hard masks (only 0 and
1) its entries are counts: float32 holds them exactly below 2^24 draws, so the products run in single precision, and
centring them is exact integer arithmetic too. What squaring loses on ill-conditioned designs is regained by
correcting the weights with residuals computed from the masks themselves.

**Cost.** draws * components^2 multiplications in float32 (float64 for partial gates) plus components^3 / 3 per
factorisation: one for least squares, about nine for ridge. Memory: 12 bytes * components^2 for least squares, 20 for
ridge and lasso; the masks are read in blocks and never copied whole. Ridge with fewer draws than components works on
a draws x draws matrix instead. Lasso is much slower: one coordinate descent per target and penalty.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from scipy.linalg import get_blas_funcs, get_lapack_funcs, solve_triangular

from ablationlens.errors import InputError

# In float64, by their LAPACK names: potrf factorises, potrs solves, pocon estimates 1 / condition, pstrf pivots.
_potrf, _potrs, _pocon, _pstrf = get_lapack_funcs(("potrf", "potrs", "pocon", "pstrf"), dtype=np.float64)
(_syr,) = get_blas_funcs(("syr",), dtype=np.float64)

_EPS = float(np.finfo(np.float64).eps)
_BLOCK_BYTES = 2**26
"""Size of the float64 copy of a block of masks: large enough for fast products, small beside the Gram."""
_EXACT_FLOAT32 = 2**24
"""Integers up to here are exact in float32."""
_REFINE_ABOVE = 1e3
"""Condition number above which the weights are corrected with residuals; below it 1e-11 is kept anyway."""
_FEWEST_DRAWS = 10
"""For ridge and lasso: the fewest draws of which the default tenth held out for validation is a whole draw."""

NOISE_RATIOS = (1e-8, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge's default grid, in units of components / draws; see :func:`ridge`."""
LASSO_PENALTIES = tuple(float(p) for p in np.logspace(0, -3, 10))
"""Lasso's default grid, in units of each target's smallest penalty that makes all weights zero."""


@dataclass(frozen=True)
class Fit:
    """Coefficients of one linear model per target, and how far the draws determine them.

    Attributes:
        weights: effect of keeping each component, in units of the outputs. Unidentified components: see below.
        bias: predicted output with every component ablated, in units of the outputs.
        penalty: the penalty used on all draws: 0 for least squares, ``alpha`` of scikit-learn's ``Ridge`` (added to
            the Gram's diagonal) or of its ``Lasso`` (which divides the squared error by 2 * draws) for those two.
        rank: rank of the centred masks, from the factor of their unpenalised Gram. Full rank is the number of
            components, or one less where ``level_open``.
        condition: estimated condition number (1-norm) of the factorised Gram: with ridge's penalty, without lasso's;
            of its identified part where it is singular. It is the square of that of the masks.
        unidentified: components whose own weight the draws leave open. One that is never or always ablated has weight
            0 (its effect is in the bias). One that the other components reproduce exactly (always ablated together
            with another, say) shares their common effect: evenly in least squares and ridge. With fewer draws than
            components the draws identify nothing without a penalty (``rank`` tells), and only the first sort is marked.
        level_open: every draw has the same number of kept components (sum of gates), so that weights are identified
            only up to one common constant. Least squares and ridge return weights that sum to 0; lasso returns the
            level with the smallest 1-norm. Only differences of weights mean something.
        grid: the relative penalties tried, in the units of the solver's ``penalties``. Empty for least squares.
        validation_error: mean squared error on the held-out draws divided by the target's variance, per penalty
            tried. NaN where a single penalty was given and none had to be chosen.
        converged: False if lasso ran out of iterations for any target; True for the other two, which do not iterate.
    """

    weights: Float64[np.ndarray, "target component"]
    bias: Float64[np.ndarray, " target"]
    penalty: Float64[np.ndarray, " target"]
    rank: int
    condition: float
    unidentified: Bool[np.ndarray, " component"]
    level_open: bool
    grid: Float64[np.ndarray, " grid"]
    validation_error: Float64[np.ndarray, "grid target"]
    converged: bool


def least_squares(masks: np.ndarray, outputs: np.ndarray) -> Fit:
    """Ordinary least squares with a bias; of several solutions the one with the smallest weights.

    Exact (to about 1e-10 of the outputs' size) where outputs are additive in the gates and the masks have full rank,
    also for the fewest possible draws: on all-kept plus every single ablation, weights are leave-one-out effects.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.

    Returns:
        The fit. Masks of deficient rank (fixed-size subsets, constant or aliased components) give the minimum-norm
        weights, with ``level_open`` and ``unidentified`` saying what they leave open.

    Raises:
        InputError: shapes that do not fit, values that are not finite, or fewer draws than components + 1.
    """
    design, outputs = _checked("least_squares", masks, outputs)
    sums = _Sums(design, outputs)
    sums.add(0, design.draws)
    system = _factorise(sums, design)
    weights = _without_constant(system.solve(sums.centred_cross()), design)
    if system.condition > _REFINE_ABOVE:
        weights = _refined(weights, system, design, outputs, sums)
    targets = outputs.shape[1]
    return Fit(
        weights=_by_target(weights),
        bias=sums.bias(weights),
        penalty=np.zeros(targets),
        rank=system.rank,
        condition=system.condition,
        unidentified=~design.varying | system.aliased,
        level_open=design.level_open,
        grid=np.zeros(0),
        validation_error=np.zeros((0, targets)),
        converged=True,
    )


def ridge(
    masks: np.ndarray, outputs: np.ndarray, *, penalties: Sequence[float] | None = None, validation: float = 0.1
) -> Fit:
    """Least squares with a penalty on the squared weights, chosen by validation; the bias is free.

    Each penalty is fitted to the first draws and judged on the last ``validation`` share of them: draws are
    independent and identically distributed, so the last are as good as random ones, and the choice is the same in
    every run. One penalty serves all targets, that with the smallest mean over targets of squared error / variance:
    so one factorisation per penalty serves them all. The chosen one, in relative units, is refitted to all draws.
    Masks that are not such draws (all kept plus single ablations, say) are a case for :func:`least_squares`.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.
        penalties: positive numbers to choose from, relative to the mean diagonal of the Gram (draws * variance of a
            gate). For independent gates the best is components / draws * (variance of the outputs that is not linear
            in the gates / variance that is), so the default is components / draws times ratios from 0.01 to 10, and
            1e-8, which is least squares for all purposes where the draws suffice. A single one is used as it is.
        validation: share of the draws held out to choose.

    Raises:
        InputError: shapes that do not fit, values that are not finite, fewer than 10 draws, or a penalty or
            validation share out of range.
    """
    design, outputs = _checked("ridge", masks, outputs)
    default = [ratio * design.components / design.draws for ratio in NOISE_RATIOS]
    grid = _checked_grid("ridge", default if penalties is None else penalties)
    held = _held_out(design.draws, validation)
    solve = _ridge_by_components if design.draws > design.components else _ridge_by_draws
    return solve(design, outputs, grid, held)


def lasso(
    masks: np.ndarray,
    outputs: np.ndarray,
    *,
    penalties: Sequence[float] | None = None,
    validation: float = 0.1,
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
) -> Fit:
    """Least squares with a penalty on the absolute weights, chosen by validation per target; the bias is free.

    Minimises ``sum((y - masks @ w - b)^2) / (2 * draws) + penalty * sum(|w|)`` as scikit-learn's ``Lasso`` does, on
    gates that are centred but not standardised, by its coordinate descent on the Gram. Held-out draws as in
    :func:`ridge`; here each target chooses its own penalty.

    Args:
        masks: gates [draw, component], 1 = kept: bool or integers, or floats for partial gates. May be a memory map.
        outputs: [draw, target], in any unit.
        penalties: positive numbers to choose from, relative to each target's smallest penalty that makes every weight
            zero on the draws used (``max |centred masks.T @ centred outputs| / draws``): at 1 and above all weights
            are zero and the bias is the mean. Default: ten from 1 to 0.001, logarithmic. A single one is used as it is.
        validation: share of the draws held out to choose.
        tolerance: stop when the duality gap is below this share of the target's sum of squares.
        max_iterations: sweeps over the components allowed per target and penalty; ``converged`` says if they sufficed.

    Raises:
        InputError: shapes that do not fit, values that are not finite, fewer than 10 draws, or a penalty, validation
            share, tolerance or number of iterations out of range.
    """
    design, outputs = _checked("lasso", masks, outputs)
    grid = _checked_grid("lasso", LASSO_PENALTIES if penalties is None else penalties)
    held = _held_out(design.draws, validation)
    if tolerance <= 0 or max_iterations < 1:
        raise InputError(
            f"lasso needs tolerance > 0 and max_iterations >= 1, got {tolerance} and {max_iterations}; "
            "the defaults are tolerance=1e-8, max_iterations=10_000"
        )
    descent = _Descent(tolerance, max_iterations)
    first = design.draws - held
    sums = _Sums(design, outputs)
    sums.add(0, first)
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        # Which penalty predicts best is known long before the weights are: scikit-learn's tolerance is enough.
        errors = _lasso_errors(_Descent(max(tolerance, 1e-4), max_iterations), grid, design, outputs, sums)
    best = np.zeros(outputs.shape[1], dtype=int) if len(grid) == 1 else np.argmin(errors, axis=0)
    sums.add(first, design.draws)
    system = _factorise(sums, design)
    gram, cross = _symmetric(sums.centred_gram()), sums.centred_cross()
    largest = _largest_penalties(cross, sums.draws)
    weights, converged = np.zeros_like(cross), True
    for target, choice in enumerate(best):
        # Down from the largest, each start the last solution: faster than starting at the chosen one.
        penalties_down = np.sort(grid[grid >= grid[choice]])[::-1] * largest[target]
        path, done = descent(gram, cross[:, target], sums.centred_square(target), penalties_down, sums.draws)
        weights[:, target] = path[:, -1]
        converged = converged and done
    return Fit(
        weights=_by_target(weights),
        bias=sums.bias(weights),
        penalty=grid[best] * largest,
        rank=system.rank,
        condition=system.condition,
        unidentified=~design.varying | system.aliased,
        level_open=design.level_open,
        grid=grid,
        validation_error=errors,
        converged=converged,
    )


SOLVERS: dict[str, Callable[..., Fit]] = {"ridge": ridge, "least_squares": least_squares, "lasso": lasso}
"""The solvers by name; the first is the default of COAR."""


def minimum_draws(solver: str, components: int) -> int:
    """The fewest draws that a solver accepts: components + 1 for least squares, 10 for ridge and lasso.

    Least squares has one unknown per component and the bias. The other two can fit anything, but choose a penalty on
    a tenth of the draws by default, and ten are the fewest of which that is a whole draw. This is what the solver
    needs to run, not what makes its answer good: that takes a few times as many draws as components.

    Raises:
        InputError: no solver has this name.
    """
    if solver not in SOLVERS:
        raise InputError(f"expected a solver among {', '.join(SOLVERS)}, got {solver!r}; type solver='ridge'")
    return components + 1 if solver == "least_squares" else _FEWEST_DRAWS


def check_draws(solver: str, draws: int, components: int) -> None:
    """Refuse fewer draws than a solver needs: call it before the forward passes are spent.

    Raises:
        InputError: no solver has this name, or the draws are too few for it.
    """
    needed = minimum_draws(solver, components)
    if draws >= needed:
        return
    other = " or solver='ridge'" if solver == "least_squares" and draws >= _FEWEST_DRAWS else ""
    raise InputError(
        f"solver {solver!r} needs at least {needed} draws for {components} components, got {draws}: "
        f"type draws={needed} or more{other}"
    )


# --- the design: masks, read in blocks -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Design:
    """Masks and what one look at them tells.

    Attributes:
        hard: only zeros and ones.
        origin: subtracted from the gates before anything is multiplied: 0 for hard masks, which stay counts; the
            mean for partial gates, whose centred Gram would otherwise be a small difference of large numbers.
        varying: components that are neither always kept nor always ablated (nor held at any other one gate).
        level_open: all draws have the same sum of gates.
    """

    masks: np.ndarray
    hard: bool
    origin: Float64[np.ndarray, " component"]
    varying: Bool[np.ndarray, " component"]
    level_open: bool

    @property
    def draws(self) -> int:
        return self.masks.shape[0]

    @property
    def components(self) -> int:
        return self.masks.shape[1]

    def rows(self, start: int, stop: int, dtype: type = np.float64) -> Iterator[tuple[slice, np.ndarray]]:
        """Blocks [draw, component] of gates less their origin, some draws at a time."""
        for rows in _slices(start, stop, self.components):
            block = np.ascontiguousarray(self.masks[rows], dtype=dtype)
            yield rows, block if self.hard else block - self.origin

    def columns(self, dtype: type) -> Iterator[tuple[slice, np.ndarray]]:
        """The same, all draws and some components at a time."""
        for columns in _slices(0, self.components, self.draws):
            block = np.ascontiguousarray(self.masks[:, columns], dtype=dtype)
            yield columns, block if self.hard else block - self.origin[columns]


def _slices(start: int, stop: int, width: int) -> Iterator[slice]:
    step = max(64, _BLOCK_BYTES // (8 * width))
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))


def _checked(solver: str, masks: np.ndarray, outputs: np.ndarray) -> tuple[_Design, Float64[np.ndarray, "draw target"]]:
    # The public signatures say np.ndarray without a shape, so that wrong shapes meet these messages everywhere.
    masks, outputs = np.asanyarray(masks), np.asarray(outputs)
    if masks.ndim != 2 or 0 in masks.shape or masks.dtype.kind not in "buif":
        raise InputError(
            "expected masks [draw, component] of booleans, integers or floats with at least one of each, "
            f"got shape {masks.shape} of {masks.dtype}"
        )
    if outputs.ndim != 2 or outputs.shape[0] != masks.shape[0] or outputs.shape[1] == 0:
        hint = "; for one target type outputs[:, None]" if outputs.ndim == 1 else ""
        raise InputError(
            f"expected outputs [draw, target] with {masks.shape[0]} draws, got shape {outputs.shape}{hint}"
        )
    check_draws(solver, *masks.shape)
    if outputs.dtype.kind not in "buif":
        raise InputError(f"expected outputs of real numbers, got {outputs.dtype}; type outputs.astype(float)")
    outputs = outputs.astype(np.float64, copy=False)
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if bad.size:
        raise InputError(
            f"expected finite outputs, got NaN or infinity in {bad.size} of {len(outputs)} draws (the first is draw "
            f"{bad[0]}); leave those draws out: keep = np.isfinite(outputs).all(axis=1)"
        )
    return _survey(masks), outputs


def _survey(masks: np.ndarray) -> _Design:
    low, high = np.full(masks.shape[1], np.inf), np.full(masks.shape[1], -np.inf)
    levels, hard = [], True
    for rows in _slices(0, *masks.shape):
        block = masks[rows]
        if block.dtype == bool:
            block = block.view(np.uint8)  # min and max of bytes are many times faster than of booleans
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN passes through min and max
            raise InputError(
                f"expected finite masks, got NaN or infinity among draws {rows.start} to {rows.stop - 1}; "
                "leave those draws out: keep = np.isfinite(masks).all(axis=1)"
            )
        hard = hard and bool(((block == 0) | (block == 1)).all())
        levels.append(block.sum(axis=1, dtype=np.float64 if block.dtype.kind == "f" else np.int64))
    varying = low != high
    origin = np.zeros(masks.shape[1])
    if not hard:
        for rows in _slices(0, *masks.shape):
            origin += masks[rows].sum(axis=0, dtype=np.float64) / len(masks)
    level = np.concatenate(levels)
    # Sums of floats that are equal by construction differ in their last digits.
    same = float(np.ptp(level)) <= 1e-9 * max(1.0, float(np.abs(level).max()))
    return _Design(masks, hard, origin, varying, level_open=same and bool(varying.any()))


def _checked_grid(solver: str, penalties: Sequence[float]) -> Float64[np.ndarray, " grid"]:
    grid = np.asarray(list(penalties), dtype=np.float64)
    if grid.size == 0 or not np.all(np.isfinite(grid) & (grid > 0)):
        raise InputError(
            f"{solver} needs positive penalties, relative numbers such as penalties=[0.1, 1.0], got {list(penalties)}; "
            "for no penalty type solver='least_squares'"
        )
    return grid


def _held_out(draws: int, validation: float) -> int:
    held = max(1, round(draws * validation)) if 0 < validation < 1 else draws
    if draws - held < 2:
        raise InputError(
            f"validation is the share of the {draws} draws held out to choose the penalty, in (0, 1) and leaving at "
            f"least two to fit; got {validation}, type validation=0.1"
        )
    return held


# --- the normal equations ------------------------------------------------------------------------------------------


class _Sums:
    """Sums over draws, from which the centred normal equations of those draws follow."""

    def __init__(self, design: _Design, outputs: Float64[np.ndarray, "draw target"]) -> None:
        components, targets = design.components, outputs.shape[1]
        counts = design.hard and design.draws < _EXACT_FLOAT32
        self.draws = 0
        self._design = design
        self._outputs = outputs
        self._origin = outputs.mean(axis=0)
        self._gram = np.zeros((components, components), np.float32 if counts else np.float64, order="F")
        self._cross = np.zeros((components, targets + 1))
        self._totals = np.zeros(targets + 1)
        self._squares = np.zeros(targets + 1)

    def add(self, start: int, stop: int) -> None:
        """Count draws start to stop."""
        self.draws += stop - start
        self._gram = _plus_products(self._gram, self._design.rows(start, stop, self._gram.dtype.type), transpose=False)
        for rows, block in self._design.rows(start, stop):
            # A last target of ones makes the sums of the masks come out of the same product.
            outputs = np.column_stack([self._outputs[rows] - self._origin, np.ones(len(block))])
            self._cross += block.T @ outputs
            self._totals += outputs.sum(axis=0)
            self._squares += (outputs**2).sum(axis=0)

    @property
    def mean_mask(self) -> Float64[np.ndarray, " component"]:
        """Less the design's origin."""
        return self._cross[:, -1] / self.draws

    @property
    def mean_output(self) -> Float64[np.ndarray, " target"]:
        return self._totals[:-1] / self.draws + self._origin

    def centred_gram(self) -> Float64[np.ndarray, "component component"]:
        """The lower triangle; zeros above it.

        (draws * sum x x' - (sum x)(sum x)') / draws: for hard masks both terms are integers below 2^53, so that only
        the division rounds. The other way round, sum x x' - draws * mean mean', loses digits at every step.
        """
        gram = self._gram.astype(np.float64, order="F")
        gram *= self.draws
        gram = _syr(-1.0, self._cross[:, -1], lower=1, a=gram, overwrite_a=1)
        gram /= self.draws
        return gram

    def centred_cross(self) -> Float64[np.ndarray, "component target"]:
        return self._cross[:, :-1] - np.outer(self._cross[:, -1], self._totals[:-1] / self.draws)

    def centred_square(self, target: int) -> float:
        return float(self._squares[target] - self._totals[target] ** 2 / self.draws)

    def bias(self, weights: Float64[np.ndarray, "component target"]) -> Float64[np.ndarray, " target"]:
        return self.mean_output - (self.mean_mask + self._design.origin) @ weights


def _plus_products(
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


def _symmetric(lower: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Fill the upper triangle, in place, a strip at a time: no second copy."""
    for strip in _slices(0, len(lower), len(lower)):
        lower[: strip.start, strip] = lower[strip, : strip.start].T
        corner = lower[strip, strip]
        lower[strip, strip] = np.tril(corner) + np.tril(corner, -1).T
    return lower


def _mean_diagonal(gram: Float64[np.ndarray, "n n"], design: _Design) -> float:
    """Over the components that vary: the unit of ridge's penalties. 1 if these draws have none."""
    return float(gram.trace()) / max(1, int(design.varying.sum())) or 1.0


def _lift(gram: Float64[np.ndarray, "n n"], design: _Design, size: float) -> Float64[np.ndarray, "n n"]:
    """Give the directions that are known to be empty the eigenvalue ``size``, in place.

    The right-hand sides have nothing in these directions, so neither have the solutions: constant components get
    weight 0 and an open level gives weights that sum to 0, at no more than the price of a regular design.
    """
    if design.level_open:
        ones = design.varying.astype(np.float64)
        gram = _syr(size / ones.sum(), ones, lower=1, a=gram, overwrite_a=1)
    constant = np.flatnonzero(~design.varying)
    gram[constant, constant] = size
    return gram


def _without_constant(
    weights: Float64[np.ndarray, "component target"], design: _Design
) -> Float64[np.ndarray, "component target"]:
    """Zero what is zero but for rounding, in place."""
    weights[~design.varying] = 0
    return weights


def _by_target(weights: Float64[np.ndarray, "component target"]) -> Float64[np.ndarray, "target component"]:
    return np.ascontiguousarray(weights.T)


# --- factors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _System:
    """A factorised Gram; ``solve`` gives the minimum-norm solution where it is singular."""

    solve: Callable[[np.ndarray], np.ndarray]
    rank: int
    condition: float
    aliased: Bool[np.ndarray, " component"]


def _norm(lower: Float64[np.ndarray, "n n"]) -> float:
    """1-norm of a symmetric matrix, of which the lower triangle is read."""
    sums = -np.abs(lower.diagonal())
    for strip in _slices(0, len(lower), len(lower)):
        size = np.abs(lower[strip.start :, strip])
        size[: size.shape[1]] = np.tril(size[: size.shape[1]])
        sums[strip] += size.sum(axis=0)
        sums[strip.start :] += size.sum(axis=1)
    return float(sums.max())


def _cholesky(gram: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"] | None:
    """The lower factor, in place of the lower triangle; None if the matrix is singular."""
    factor, failed = _potrf(gram, lower=1, clean=0, overwrite_a=1)
    return None if failed else factor


def _condition(factor: Float64[np.ndarray, "n n"], norm: float) -> float:
    reciprocal, _ = _pocon(factor, norm, uplo="L")
    return 1 / reciprocal if reciprocal > 0 else math.inf


def _solve(factor: Float64[np.ndarray, "n n"], right: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    return _potrs(factor, right, lower=1)[0]


def _tolerance(size: int) -> float:
    """Below this share of the largest, a pivot of a matrix of this size is taken for rounding."""
    return 100 * size * _EPS


def _factorise(sums: _Sums, design: _Design) -> _System:
    gram = sums.centred_gram()
    gram = _lift(gram, design, _mean_diagonal(gram, design))
    lifted = int((~design.varying).sum()) + design.level_open
    norm = _norm(gram)
    factor = _cholesky(gram)
    condition = math.inf if factor is None else _condition(factor, norm)
    if factor is not None and condition * _tolerance(design.components) < 1:
        regular = np.zeros(design.components, dtype=bool)
        return _System(partial(_solve, factor), design.components - lifted, condition, regular)
    del factor, gram  # the same memory, before the next
    gram = sums.centred_gram()
    system = _factorise_singular(_lift(gram, design, _mean_diagonal(gram, design)))
    aliased = system.aliased if design.draws > design.components else np.zeros_like(system.aliased)
    return _System(system.solve, system.rank - lifted, system.condition, aliased)


def _factorise_singular(gram: Float64[np.ndarray, "n n"]) -> _System:
    """Pivoted Cholesky: a basis of the null space tells which components are aliased and what has least norm.

    An eigendecomposition would say the same at some thirty times the price. Components are brought to unit variance
    first: a rarely ablated one is not a small pivot.
    """
    scale = np.sqrt(np.maximum(gram.diagonal(), np.finfo(np.float64).tiny))
    gram /= scale[:, None]
    gram /= scale
    norm = _norm(gram)
    factor, order, rank, _ = _pstrf(gram, tol=_tolerance(len(gram)), lower=1, overwrite_a=1)
    lead, order = np.asfortranarray(np.tril(factor[:rank, :rank])), order - 1
    null = np.zeros((len(gram), len(gram) - rank))
    null[order[:rank]] = -solve_triangular(lead, factor[rank:, :rank].T, lower=True, trans=1, check_finite=False)
    null[order[rank:]] = np.eye(len(gram) - rank)
    aliased = np.abs(null).max(axis=1, initial=0) > 1e-6
    basis = np.linalg.qr(null / scale[:, None])[0]

    def solve(right: np.ndarray) -> np.ndarray:
        solution = np.zeros_like(right)
        solution[order[:rank]] = _solve(lead, (right / scale[:, None])[order[:rank]])
        solution /= scale[:, None]
        return solution - basis @ (basis.T @ solution)

    return _System(solve, int(rank), _condition(lead, norm), aliased)


def _refined(
    weights: Float64[np.ndarray, "component target"],
    system: _System,
    design: _Design,
    outputs: Float64[np.ndarray, "draw target"],
    sums: _Sums,
) -> Float64[np.ndarray, "component target"]:
    """Correct the weights with the residuals of the masks themselves until the correction is rounding.

    The normal equations square the condition number; residuals taken in the masks, not in the Gram, take that back.
    """
    previous = math.inf
    for _ in range(5):
        bias = sums.mean_output - sums.mean_mask @ weights  # of masks less their origin
        gradient, total = np.zeros_like(weights), np.zeros(len(bias))
        for rows, block in design.rows(0, design.draws):
            residual = outputs[rows] - bias - block @ weights
            gradient += block.T @ residual
            total += residual.sum(axis=0)
        correction = _without_constant(system.solve(gradient - np.outer(sums.mean_mask, total)), design)
        size = float(np.abs(correction).max()) / max(float(np.abs(weights).max()), np.finfo(np.float64).tiny)
        if size >= previous:
            break
        weights, previous = weights + correction, size
        if size < 1e-13:
            break
    return weights


# --- ridge ---------------------------------------------------------------------------------------------------------


def _variance(outputs: Float64[np.ndarray, "draw target"]) -> Float64[np.ndarray, " target"]:
    """The unit of validation errors; 1 for a target that never changes, which every penalty fits."""
    variance = outputs.var(axis=0)
    return np.where(variance > 0, variance, 1.0)


def _errors(
    design: _Design,
    outputs: Float64[np.ndarray, "draw target"],
    weights: Float64[np.ndarray, "component target"],
    bias: Float64[np.ndarray, " target"],
    first: int,
) -> Float64[np.ndarray, " target"]:
    """Squared error over variance on the draws from ``first`` on; ``bias`` belongs to masks less their origin."""
    total = np.zeros(outputs.shape[1])
    for rows, block in design.rows(first, design.draws):
        total += ((outputs[rows] - bias - block @ weights) ** 2).sum(axis=0)
    return total / (design.draws - first) / _variance(outputs)


def _choice(errors: Float64[np.ndarray, "grid target"]) -> int:
    return int(np.argmin(errors.mean(axis=1))) if len(errors) > 1 else 0


def _penalised(gram: Float64[np.ndarray, "n n"], penalty: float) -> Float64[np.ndarray, "n n"]:
    """Factor of gram + penalty, in place of the lower triangle."""
    np.einsum("ii->i", gram)[:] += penalty
    factor = _cholesky(gram)
    if factor is None:
        raise InputError(
            "expected a penalty that makes these masks regular, got one too small for that: leave penalties to the "
            "default, or type penalties=[1e-6]"
        )
    return factor


def _ridge_by_components(
    design: _Design, outputs: Float64[np.ndarray, "draw target"], grid: Float64[np.ndarray, " grid"], held: int
) -> Fit:
    first = design.draws - held
    sums = _Sums(design, outputs)
    sums.add(0, first)
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        gram, cross = sums.centred_gram(), sums.centred_cross()
        size = _mean_diagonal(gram, design)
        gram = _lift(gram, design, size)
        for i, penalty in enumerate(grid):
            factor = _penalised(gram.copy(order="F"), penalty * size)
            weights = _solve(factor, cross)
            del factor  # one at a time
            errors[i] = _errors(design, outputs, weights, sums.mean_output - sums.mean_mask @ weights, first)
        del gram
    sums.add(first, design.draws)
    unpenalised = _factorise(sums, design)
    rank, aliased = unpenalised.rank, unpenalised.aliased
    del unpenalised
    gram = sums.centred_gram()
    size = _mean_diagonal(gram, design)
    penalty = float(grid[_choice(errors)]) * size
    gram = _lift(gram, design, size)
    norm = _norm(gram) + penalty
    factor = _penalised(gram, penalty)
    condition = _condition(factor, norm)
    weights = _without_constant(_solve(factor, sums.centred_cross()), design)
    return _ridge_fit(design, weights, sums.bias(weights), penalty, rank, condition, aliased, grid, errors)


def _ridge_by_draws(
    design: _Design, outputs: Float64[np.ndarray, "draw target"], grid: Float64[np.ndarray, " grid"], held: int
) -> Fit:
    """With kernel = centred masks @ centred masks.T: weights = masks.T @ dual, (kernel + penalty) dual = outputs."""
    first = design.draws - held
    counts = design.hard and design.components < _EXACT_FLOAT32
    kernel = np.zeros((design.draws, design.draws), np.float32 if counts else np.float64, order="F")
    kernel = _plus_products(kernel, design.columns(kernel.dtype.type), transpose=True)
    kernel = _symmetric(kernel.astype(np.float64, order="F"))
    errors = np.full((len(grid), outputs.shape[1]), np.nan)
    if len(grid) > 1:
        centred, mean = _centre(kernel[:first, :first].copy(order="F")), outputs[:first].mean(axis=0)
        size = _mean_diagonal(centred, design)
        for i, penalty in enumerate(grid):
            dual = _solve(_dual_factor(centred.copy(order="F"), penalty * size), outputs[:first] - mean)
            shift = (kernel[:first, :first] @ dual).mean(axis=0)
            residual = outputs[first:] - mean - (kernel[first:, :first] @ dual - shift)
            errors[i] = (residual**2).mean(axis=0) / _variance(outputs)
        del centred
    mean = outputs.mean(axis=0)
    kernel = _centre(kernel)
    penalty = float(grid[_choice(errors)]) * _mean_diagonal(kernel, design)  # same trace as the Gram
    largest = float(kernel.diagonal().max())
    tolerance = _tolerance(design.draws) * largest
    rank = int(_pstrf(kernel, tol=tolerance, lower=1)[2]) if design.varying.any() else 0
    norm = _norm(kernel) + penalty
    factor = _dual_factor(kernel, penalty)
    dual, condition = _solve(factor, outputs - mean), _condition(factor, norm)
    weights, mean_mask = np.zeros((design.components, outputs.shape[1])), np.zeros(design.components)
    for rows, block in design.rows(0, design.draws):
        weights += block.T @ dual[rows]
        mean_mask += block.sum(axis=0) / design.draws
    weights = _without_constant(weights, design)  # no mean to take off: a dual solution sums to 0
    bias = mean - (mean_mask + design.origin) @ weights
    aliased = np.zeros(design.components, dtype=bool)
    return _ridge_fit(design, weights, bias, penalty, rank, condition, aliased, grid, errors)


def _centre(kernel: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Products of centred masks from products of masks, in place."""
    mean = kernel.mean(axis=0)
    kernel -= mean
    kernel -= (mean - mean.mean())[:, None]
    return kernel


def _dual_factor(centred: Float64[np.ndarray, "n n"], penalty: float) -> Float64[np.ndarray, "n n"]:
    """In place. The one direction known to be empty, all ones, is lifted as in :func:`_lift`."""
    centred += (float(centred.trace()) or 1.0) / len(centred) ** 2
    return _penalised(centred, penalty)


def _ridge_fit(
    design: _Design,
    weights: Float64[np.ndarray, "component target"],
    bias: Float64[np.ndarray, " target"],
    penalty: float,
    rank: int,
    condition: float,
    aliased: Bool[np.ndarray, " component"],
    grid: Float64[np.ndarray, " grid"],
    errors: Float64[np.ndarray, "grid target"],
) -> Fit:
    return Fit(
        weights=_by_target(weights),
        bias=bias,
        penalty=np.full(len(bias), penalty),
        rank=rank,
        condition=condition,
        unidentified=~design.varying | aliased,
        level_open=design.level_open,
        grid=grid,
        validation_error=errors,
        converged=True,
    )


# --- lasso ---------------------------------------------------------------------------------------------------------


def _largest_penalties(cross: Float64[np.ndarray, "component target"], draws: int) -> Float64[np.ndarray, " target"]:
    # A little above, so that rounding leaves no weight of 1e-17 at penalty 1.
    return np.abs(cross).max(axis=0) / draws * (1 + 1e-12)


@dataclass(frozen=True)
class _Descent:
    """scikit-learn's coordinate descent on a Gram, down a path of penalties."""

    tolerance: float
    max_iterations: int

    def __call__(
        self,
        gram: Float64[np.ndarray, "n n"],
        cross: Float64[np.ndarray, " n"],
        square: float,
        penalties: Float64[np.ndarray, " path"],
        draws: int,
    ) -> tuple[Float64[np.ndarray, "n path"], bool]:
        """Weights at each penalty (descending), and whether all converged."""
        if square <= 0 or penalties[0] <= 0:  # an output that never changes
            return np.zeros((len(cross), len(penalties))), True
        from sklearn.linear_model import lasso_path  # a second to import, and only lasso needs it

        # Given a Gram, it reads no more of the masks than their shape, and of the outputs only the sum of squares.
        shape_only = np.broadcast_to(np.zeros(()), (draws, len(cross)))
        options: dict[str, Any] = {  # Any: scikit-learn's defaults are strings, and so are its types to a checker
            "alphas": penalties,
            "precompute": np.ascontiguousarray(gram.T),  # symmetric: no copy
            "Xy": np.ascontiguousarray(cross),
            "tol": self.tolerance,
            "max_iter": self.max_iterations,
            "check_input": False,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: reported below
            _, path, gaps = lasso_path(shape_only, np.array([math.sqrt(square)]), **options)
        return path, bool((gaps * draws <= self.tolerance * square * (1 + 1e-6)).all())


def _lasso_errors(
    descent: _Descent,
    grid: Float64[np.ndarray, " grid"],
    design: _Design,
    outputs: Float64[np.ndarray, "draw target"],
    sums: _Sums,
) -> Float64[np.ndarray, "grid target"]:
    """Errors on the draws that ``sums`` does not hold."""
    gram, cross = _symmetric(sums.centred_gram()), sums.centred_cross()
    largest = _largest_penalties(cross, sums.draws)
    down = np.argsort(-grid, kind="stable")
    errors = np.empty((len(grid), outputs.shape[1]))
    for target in range(outputs.shape[1]):
        square = sums.centred_square(target)
        path, _ = descent(gram, cross[:, target], square, grid[down] * largest[target], sums.draws)
        bias = sums.mean_output[target] - sums.mean_mask @ path
        repeated = np.repeat(outputs[:, [target]], len(grid), axis=1)
        errors[down, target] = _errors(design, repeated, path, bias, sums.draws)
    return errors
