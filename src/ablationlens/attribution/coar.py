"""COAR: component attribution by regression on random ablations (arXiv 2404.11534).

Draw masks at random, record what the model says under each, and fit one linear model per example from the mask to the
output. The coefficient of a component is then its effect averaged over the company of random other ablations, which
predicts ablations that were never run. The price is the draws: every one is a forward pass of every example.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from ablationlens.attribution.regression import SolverName, fit
from ablationlens.attribution.regression_by_example import fit_by_example
from ablationlens.attribution.stochastic_masks import StochasticMasks, stochastic_masks
from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.base import Base
from ablationlens.masks.designs import Design, DesignName, check_design_name, random_design
from ablationlens.results import Attribution, attribution
from ablationlens.solvers import check_draws, check_solver
from ablationlens.spd.modes import Stochastic
from ablationlens.sweep import Sweep


def coar(
    model: MaskedModel,
    data: Batch,
    *,
    alpha: float | None = None,
    draws: int,
    seed: int | None = None,
    design: DesignName | Stochastic = "bernoulli",
    solver: SolverName = "ridge",
    store: str | Path | None = None,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute the output of each example to the components of a model, by regression (arXiv 2404.11534).

    What it will cost is logged before it starts: draws x examples forward rows.

    **Fractional masks.** With ``design=al.spd.Stochastic(decomposition, seed=0)``, on the registry of that
    decomposition, draw i is sample i of the mode (arXiv 2506.20790): each component has a gate between its causal
    importance and 1, at each position of each example. The regression of an example is on the gates that it had, means
    over its real positions. So

    - a weight is still the effect of keeping, per unit of mask: by how much the output rises when the gate of the
      component rises by 1 at every position, seen from the gates that the draws have. Those of an unimportant component
      go from 0 to 1; those of an important one stay near 1, and that is where its weight is measured.
    - a prediction of hard masks extrapolates: no draw ever ablates anything important. `al.evaluate` says how well
      that goes. On the bundled decomposition of `induction` (1,032 components, texts of 24 tokens) it hardly does: the
      correlation with held-out ablations of 5% was below 0.1 with 5,000 draws, and 0.82 with 1,000 hard masks. To
      learn what ablations do in a stochastic model, give the mode as the base of the model, and draw hard masks.
    - a component whose importance is about 1 hardly moves in an example (root mean square over positions of
      1 - importance below 0.01). Its weight there is NaN with least squares, and 0 with ridge and lasso, as the penalty
      would have it; its effect is in the bias, and a prediction takes the weight for 0. The provenance counts such
      ``unidentified_weights``. Remainders that the mode keeps or drops are among them.
    - positions have gates of their own, so a mean over T of them varies by only 1 / sqrt(T) of what each does, and what
      they do beyond their mean is noise. Long texts need more draws.
    - each example has a regression of its own, and masks are drawn twice, for the passes and for the regressions: with
      N components, draws * N^2 multiplications in float64 and one (least squares) or nine (ridge) factorisations for
      each example, where hard masks take that once. In memory are the masks of one pass (of one draw, where the
      examples take several passes) and the regression of one example.

    Args:
        model: the masked model; without a base for fractional masks.
        data: the examples.
        alpha: share of components that a draw of hard masks ablates; not given with fractional masks.
        draws: number of masks; least squares needs more than there are components.
        seed: draw i depends on (seed, i) alone; 0 if not given. Fractional masks have that of their mode.
        design: "bernoulli" (every component by itself), "subset" (always the same number, which leaves the common
            level of the weights open: it is then fixed by bias + sum(weights) = f(all kept)), "balanced" (every
            component equally often), or `al.spd.Stochastic` (fractional masks).
        solver: "ridge" (penalty chosen by validation), "least_squares" or "lasso".
        store: a directory that keeps the outputs; a run that was stopped goes on from there.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, with the bias. Outputs that were not finite are left out and counted in the
        provenance; components that the draws cannot identify (with fractional masks: in no example) are flagged. The
        provenance holds ``seconds`` of the passes and ``fit_seconds`` of the regression.

    Raises:
        InputError: if alpha, draws, design, solver or store do not fit, or a mode does not fit the model.
        StoreError: if the store belongs to another run, is damaged, or cannot be written.
    """
    check_call(model, data)
    check_solver(solver)
    masks = _design(model, data, design, alpha, draws, seed)
    check_draws(solver, draws, len(model.registry))
    found = record(model, data, masks, store=store, label="COAR", rows=rows, show_bar=show_bar)
    full = kept_outputs(model, data)
    begun = time.perf_counter()
    outputs = found.outputs.astype(np.float64)
    if isinstance(masks, StochasticMasks):
        result = fit_by_example(masks, outputs, solver, show_bar=show_bar)
    else:
        result = fit(found.masks(), outputs, solver, full)
    fit_seconds = round(time.perf_counter() - begun, 2)
    described = found.provenance["masks"]
    provenance = {
        "method": "COAR",
        **{key: described[key] for key in ("design", "alpha", "draws", "seed") if key in described},
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


def _design(
    model: MaskedModel, data: Batch, design: DesignName | Base, alpha: float | None, draws: int, seed: int | None
) -> Design:
    """The masks that were asked for."""
    if isinstance(design, Base):
        return stochastic_masks(model, data, design, draws, {"alpha": alpha, "seed": seed})
    if isinstance(design, type) and issubclass(design, Base):
        raise InputError(
            f"design={design.__name__} is a class: give one of a decomposition, "
            f"design=al.spd.{design.__name__}(decomposition)"
        )
    check_design_name(design)
    if alpha is None:
        raise InputError(
            "alpha is the share of components that a draw ablates, between 0 and 1: "
            "al.coar(model, data, alpha=0.05, draws=...)"
        )
    return random_design(design, len(model.registry), alpha, draws, 0 if seed is None else seed)


def kept_outputs(model: MaskedModel, data: Batch) -> Float64[np.ndarray, " example"]:
    """Output of each example with every component kept."""
    ones = model.source(torch.ones(1, len(model.registry)), data)
    return Sweep(model, data, ones).outputs(0, 1)[0].double().numpy()
