"""Regression of outputs on masks that all examples share: one factorisation for all of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64

from ablationlens.errors import InputError
from ablationlens.solvers import SOLVERS, Fit, check_draws

log = logging.getLogger("ablationlens")

SolverName: TypeAlias = Literal["ridge", "least_squares", "lasso"]


@dataclass(frozen=True)
class Regression:
    """Coefficients of all examples, and how far the draws determine them.

    Attributes:
        weights: effect of keeping each component, in units of the outputs.
        bias: predicted output with every component ablated.
        unidentified: components whose weight the draws leave open in every example.
        fits: what the solver found; one for all examples where they share their draws, else one for each.
        quarantined: outputs that were not finite.
        dropped: examples without weights, for want of finite outputs.
        level_fixed: whether the level of the weights is that of the output with everything kept.
        left_open: where examples have masks of their own, how many weights of an example its draws leave open.
    """

    weights: Float64[np.ndarray, "example component"]
    bias: Float64[np.ndarray, " example"]
    unidentified: Bool[np.ndarray, " component"]
    fits: tuple[Fit, ...]
    quarantined: int
    dropped: int
    level_fixed: bool
    left_open: int | None = None

    def provenance(self) -> dict[str, Any]:
        """What a reader needs to judge the fit, JSON-able."""
        penalties = np.concatenate([fit.penalty for fit in self.fits]) if self.fits else np.zeros(0)
        return {
            "rank": min((fit.rank for fit in self.fits), default=0),
            "condition": max((fit.condition for fit in self.fits), default=float("nan")),
            "penalty": float(np.median(penalties)) if len(penalties) else 0.0,
            "unidentified": int(self.unidentified.sum()),
            **({} if self.left_open is None else {"unidentified_weights": self.left_open}),
            "quarantined_outputs": self.quarantined,
            "examples_without_fit": self.dropped,
            "level": "fixed by bias + sum(weights) = f(all kept)" if self.level_fixed else "identified by the draws",
        }


def fit(
    masks: Bool[np.ndarray, "draw component"],
    outputs: Float64[np.ndarray, "draw example"],
    solver: SolverName,
    full: Float64[np.ndarray, " example"],
) -> Regression:
    """Regress outputs on masks.

    Outputs that are not finite are left out. Examples that share the same finite draws share one factorisation;
    normally that is all of them.

    Args:
        masks: True = kept.
        outputs: of each example under each mask.
        solver: name of the solver.
        full: output of each example with everything kept.
    """
    finite = np.isfinite(outputs)
    quarantined = warn_of_quarantine(finite)
    components, examples = masks.shape[1], outputs.shape[1]
    weights, bias = np.full((examples, components), np.nan), np.full(examples, np.nan)
    unidentified = np.zeros(components, dtype=bool)
    fits: list[Fit] = []
    patterns, belongs = np.unique(finite, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        pattern = np.asarray(patterns[:, number])
        members = np.flatnonzero(np.ravel(belongs) == number)
        try:
            check_draws(solver, int(pattern.sum()), components)
        except InputError as error:
            log.warning("%d examples have too few finite outputs for a fit: %s", len(members), error)
            continue
        whole = bool(pattern.all())
        used = masks if whole else masks[pattern]
        one = SOLVERS[solver](used, outputs[:, members] if whole else outputs[np.ix_(pattern, members)])
        weights[members], bias[members] = (
            _levelled(one, used, full[members]) if one.level_open else (one.weights, one.bias)
        )
        unidentified |= one.unidentified
        fits.append(one)
    dropped = int(np.isnan(bias).sum())
    if dropped == examples:
        refuse_no_fit(quarantined, finite.size)
    return Regression(
        weights, bias, unidentified, tuple(fits), quarantined, dropped, any(one.level_open for one in fits)
    )


def warn_of_quarantine(finite: Bool[np.ndarray, "draw example"]) -> int:
    """How many outputs are not finite, said once."""
    quarantined = int((~finite).sum())
    if quarantined:
        log.warning("%d of %d outputs were not finite and are left out of the fit", quarantined, finite.size)
    return quarantined


def refuse_no_fit(quarantined: int, outputs: int) -> NoReturn:
    """Refuse outputs of which no example has enough.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"no example has enough finite outputs for a fit ({quarantined} of {outputs} are not finite); "
        "check the model and the output, for example model(model.mask(), data)"
    )


def _levelled(
    one: Fit, masks: Bool[np.ndarray, "draw component"], full: Float64[np.ndarray, " target"]
) -> tuple[Float64[np.ndarray, "target component"], Float64[np.ndarray, " target"]]:
    """Add to all weights the constant at which bias + sum(weights) is the output with everything kept.

    Where every draw ablates k components, adding c to all weights and taking c * (kept) from the bias changes no
    fitted value and raises the prediction for "all kept" by c * k.
    """
    varying = np.asarray(masks.any(axis=0) & ~masks.all(axis=0))
    kept = int(masks[0, varying].sum())
    ablated = int(varying.sum()) - kept
    shift = (full - one.bias - one.weights.sum(axis=1)) / ablated
    return one.weights + np.outer(shift, varying), one.bias - shift * kept
