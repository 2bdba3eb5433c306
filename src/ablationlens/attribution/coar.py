"""COAR: component attribution by regression on random ablations (arXiv 2404.11534).

Draw masks at random, record what the model says under each, and fit one linear model per example from the mask to the
output. The coefficient of a component is then its effect averaged over the company of random other ablations, which
predicts ablations that were never run. The price is the draws: every one is a forward pass of every example.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.designs import DesignName, random_design
from ablationlens.results import Attribution, attribution
from ablationlens.solvers import SOLVERS, Fit, check_draws
from ablationlens.sweep import Sweep

log = logging.getLogger("ablationlens")

SolverName = Literal["ridge", "least_squares", "lasso"]


def coar(
    model: MaskedModel,
    data: Batch,
    *,
    alpha: float,
    draws: int,
    seed: int = 0,
    design: DesignName = "bernoulli",
    solver: SolverName = "ridge",
    store: str | Path | None = None,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute the output of each example to the components of a model, by regression (arXiv 2404.11534).

    What it will cost is logged before it starts: draws x examples forward rows.

    Args:
        model: the masked model.
        data: the examples.
        alpha: share of components that a draw ablates.
        draws: number of masks; least squares needs more than there are components.
        seed: draw i depends on (seed, i) alone.
        design: "bernoulli" (every component by itself), "subset" (always the same number, which leaves the common
            level of the weights open: it is then fixed by bias + sum(weights) = f(all kept)), or "balanced" (every
            component equally often).
        solver: "ridge" (penalty chosen by validation), "least_squares" or "lasso".
        store: a directory that keeps the outputs; a run that was stopped goes on from there.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, with the bias. Outputs that were not finite are left out and counted in the
        provenance; components that the draws cannot identify are flagged. The provenance holds ``seconds`` of the
        passes and ``fit_seconds`` of the regression.

    Raises:
        InputError: if alpha, draws, design or solver do not fit.
        StoreError: if the store belongs to another run, is damaged, or cannot be written.
    """
    check_call(model, data)
    if solver not in SOLVERS:
        raise InputError(f"no solver '{solver}': the solvers are {', '.join(SOLVERS)}")
    masks = random_design(design, len(model.registry), alpha, draws, seed)
    check_draws(solver, draws, len(model.registry))
    found = record(model, data, masks, store=store, label="COAR", rows=rows, show_bar=show_bar)
    full = kept_outputs(model, data)
    begun = time.perf_counter()
    result = fit(found.masks(), found.outputs.astype(np.float64), solver, full)
    fit_seconds = round(time.perf_counter() - begun, 2)
    provenance = {
        "method": "COAR",
        **{key: found.provenance["masks"][key] for key in ("design", "alpha", "draws", "seed")},
        "solver": solver,
        **result.provenance(),
        "full_output": full.tolist(),
        **found.provenance,
        "fit_seconds": fit_seconds,
    }
    done = attribution(
        "COAR",
        result.weights,
        result.bias,
        model.registry,
        data.names(),
        provenance=provenance,
        unidentified=result.unidentified,
    )
    if store is not None:
        done.save(Path(store) / "attribution.safetensors")
    return done


@dataclass(frozen=True)
class Regression:
    """Coefficients of all examples, and how far the draws determine them."""

    weights: Float64[np.ndarray, "example component"]
    bias: Float64[np.ndarray, " example"]
    unidentified: Bool[np.ndarray, " component"]
    fits: tuple[Fit, ...]
    quarantined: int
    dropped: int
    level_fixed: bool

    def provenance(self) -> dict[str, Any]:
        """What a reader needs to judge the fit, JSON-able."""
        penalties = np.concatenate([fit.penalty for fit in self.fits]) if self.fits else np.zeros(0)
        return {
            "rank": min((fit.rank for fit in self.fits), default=0),
            "condition": max((fit.condition for fit in self.fits), default=float("nan")),
            "penalty": float(np.median(penalties)) if len(penalties) else 0.0,
            "unidentified": int(self.unidentified.sum()),
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
    quarantined = int((~finite).sum())
    if quarantined:
        log.warning("%d of %d outputs were not finite and are left out of the fit", quarantined, finite.size)
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
        raise InputError(
            f"no example has enough finite outputs for a fit ({quarantined} of {finite.size} are not finite); "
            "check the model and the output, for example model(model.mask(), data)"
        )
    return Regression(
        weights, bias, unidentified, tuple(fits), quarantined, dropped, any(one.level_open for one in fits)
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


def kept_outputs(model: MaskedModel, data: Batch) -> Float64[np.ndarray, " example"]:
    """Output of each example with every component kept."""
    ones = model.source(torch.ones(1, len(model.registry)), data)
    return Sweep(model, data, ones).outputs(0, 1)[0].double().numpy()
