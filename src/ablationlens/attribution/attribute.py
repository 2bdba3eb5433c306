"""Attribute: given a budget, choose the method, spend it in rounds, and stop when more would change nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64

from ablationlens.attribution.coar import fit, kept_outputs
from ablationlens.attribution.costs import GRADIENT_COST, passes_of_paths, paths_for
from ablationlens.attribution.halves import loss_of_paths, loss_of_regression
from ablationlens.attribution.level import Level
from ablationlens.attribution.path_sums import PathHalves
from ablationlens.counterfactuals.gradients import gradients
from ablationlens.counterfactuals.record import identity
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.designs import Bernoulli, integer
from ablationlens.masks.paths import Paths
from ablationlens.progress import announce, bar
from ablationlens.provenance import packages
from ablationlens.results import Attribution, attribution
from ablationlens.sweep import Sweep

Method: TypeAlias = Literal["path gradient", "least squares"]

FEW_ABLATED = 3.0
"""Components ablated by a draw below which a forward pass says more than its share of a gradient."""
FEW_DRAWS = 4
"""Draws for each component that least squares needs at least."""
MANY_DRAWS = 50
"""Draws for each component from which least squares is taken: what is left of its noise is below a path's bias."""
WHOLE_ROUND = 32
"""Draws at a multiple of which a round of least squares ends: where it stops must not depend on the batch size."""
MANY_HITS = 200
"""Draws on the path for each gate from which half the bias is worth twice the variance."""
SMALLEST_BUDGET = 10


def attribute(
    model: MaskedModel,
    data: Batch,
    *,
    alpha: float,
    budget: int = 1000,
    tolerance: float | None = 0.005,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute the output of each example to the components, as well as a budget allows.

    Both methods that it chooses from estimate the coefficients of COAR (arXiv 2404.11534). With N components a path
    gradient has, per pass, squared errors about N * alpha / 3 times smaller than least squares, but a small bias
    (docs/path_gradient.md). So least squares is taken where a draw ablates fewer than 3 components and there are at
    least 4 draws for each weight, or where there are 50 draws for each; the path gradient everywhere else.

    The budget is spent in rounds, each as large as all before it. After each, two independent halves of the draws are
    held against one another; when the correlation that the weights lack to those of infinitely many draws falls below
    `tolerance`, it stops. What it chose, spent and expects is logged and in the provenance: "chosen", "spent",
    "stopped_early", "expected_loss".

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples.
        alpha: share of components that is ablated on average.
        budget: what may be spent, in forward passes of the whole data; a gradient counts 3, and under a base each
            pass counts as many as it has samples, and the search of a PGD that is run again (`MaskedModel.passes`).
        tolerance: the loss of correlation on held-out ablations at which to stop; None spends the whole budget.
        seed: draw i depends on (seed, i) alone.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, with the bias, and standard errors where the path gradient was chosen. How well
        they predict ablations is for `al.evaluate` to measure: the expected loss is that of sampling alone, not of
        what no linear prediction can do.

    Raises:
        InputError: if alpha, budget or tolerance do not fit, or the output has no gradient.
    """
    check_call(model, data)
    budget, components = integer("budget", budget), len(model.registry)
    seed, alpha = integer("seed", seed), Paths(components, alpha, 1).alpha
    if budget < SMALLEST_BUDGET:
        raise InputError(f"budget is a number of forward passes, at least {SMALLEST_BUDGET}; got {budget}")
    each = model.passes
    if budget < SMALLEST_BUDGET * each:
        raise InputError(
            f"a pass under this base costs {each:,} forward passes, so the budget is at least "
            f"{SMALLEST_BUDGET * each:,}; got {budget:,}"
        )
    if tolerance is not None and not (isinstance(tolerance, SupportsFloat) and 0 < float(tolerance) < 1):
        raise InputError(f"tolerance is a loss of correlation between 0 and 1, or None; got {tolerance!r}")
    affordable = budget // each
    chosen = choose(components, alpha, affordable)
    spending = _paths if chosen == "path gradient" else _regression
    under = "" if each == 1 else f", {each:,} for each pass under the base"
    announce(f"attribute: {chosen} for {components:,} components, at most {budget:,} forward passes{under}")
    state: _Round | None = None
    for state in spending(model, data, alpha, affordable, tolerance, seed, rows, show_bar):
        if tolerance is not None and state.loss < tolerance:
            break
    assert state is not None
    spent = state.spent * each
    early = state.spent + GRADIENT_COST < affordable and tolerance is not None and state.loss < tolerance
    announce(
        f"attribute: spent {spent:,} of {budget:,} forward passes{' (stopped early)' if early else ''}; "
        f"expected loss of correlation from sampling {state.loss:.4f}"
    )
    return attribution(
        "attribute",
        state.weights,
        state.bias,
        model.registry,
        data.names(),
        provenance={
            "method": "attribute",
            "chosen": chosen,
            "alpha": float(alpha),
            "budget": budget,
            "spent": spent,
            "draws": state.draws,
            "seed": seed,
            "tolerance": None if tolerance is None else float(tolerance),
            "stopped_early": early,
            "expected_loss": state.loss,
            "full_output": kept_outputs(model, data).tolist(),
            **state.provenance,
        },
        errors=state.errors,
    )


def choose(components: int, alpha: float, budget: int) -> Method:
    """The method for so many components and so large a budget: see `attribute`."""
    ablated = int(alpha * components + 0.5)
    if not 1 <= ablated < components:  # draws that ablate nothing, or all, say nothing; a path is partial
        return "path gradient"
    few = components * alpha < FEW_ABLATED and budget >= FEW_DRAWS * (components + 1)
    return "least squares" if few or budget >= MANY_DRAWS * components else "path gradient"


@dataclass(frozen=True)
class _Round:
    """What is known after a round; `spent` is in passes under masks."""

    weights: Float64[np.ndarray, "example component"]
    bias: Float64[np.ndarray, " example"]
    errors: Float64[np.ndarray, "example component"] | None
    loss: float
    draws: int
    spent: int
    provenance: dict[str, Any]


def _paths(
    model: MaskedModel,
    data: Batch,
    alpha: float,
    budget: int,
    tolerance: float | None,
    seed: int,
    rows: int | None,
    show_bar: bool | None,
) -> Iterator[_Round]:
    """Rounds of path gradients; cycles of even and of odd number are the two halves."""
    draws = paths_for(budget)
    # without early stopping the end is known: many draws can afford twice the variance for half the bias
    widest = 2 * min(alpha, 1 - alpha)
    rho = widest / 2 if tolerance is None and draws * widest >= MANY_HITS else None
    design = Paths(len(model.registry), alpha, draws, seed, rho=rho)
    level = Level.measured(model, data, design, rows)
    halves = PathHalves(len(data), len(model.registry), design.groups)
    seconds = 0.0
    for start, stop in _rounds(draws, first=4 * design.groups, whole=2 * design.groups, stops=tolerance is not None):
        done = gradients(
            model, data, design, halves.add, start=start, stop=stop, label=None, rows=rows, show_bar=show_bar
        )
        seconds += done["seconds"]
        all_sums = halves.even + halves.odd
        found = all_sums.estimate(model.registry)
        estimates = (halves.even.estimate(model.registry).weights, halves.odd.estimate(model.registry).weights)
        yield _Round(
            found.weights,
            level.bias(found.weights, otherwise=found.bias),
            found.errors,
            loss_of_paths(estimates, (halves.even.means(), halves.odd.means())),
            stop,
            passes_of_paths(draws) - GRADIENT_COST * (draws - stop),
            {
                "rho": design.rho,
                "level_draws": len(level.masks),
                **found.provenance(),
                "quarantined_outputs": int(all_sums.left_out.sum()) + level.left_out,
                **done,
                "masks": {**design.describe(), "draws": stop},
                "seconds": round(seconds, 2),
            },
        )


def _regression(
    model: MaskedModel,
    data: Batch,
    alpha: float,
    budget: int,
    tolerance: float | None,
    seed: int,
    rows: int | None,
    show_bar: bool | None,
) -> Iterator[_Round]:
    """Rounds of least squares; draws of even and of odd number are the two halves."""
    components = len(model.registry)
    draws = budget - 1  # and the pass that keeps everything
    design = Bernoulli(components, alpha, draws, seed)
    sweep = Sweep(model, data, design, rows=rows)
    full = kept_outputs(model, data)
    outputs = np.empty((0, len(data)))
    seconds = 0.0
    first = FEW_DRAWS * (components + 1)
    for start, stop in _rounds(draws, first, whole=WHOLE_ROUND, stops=tolerance is not None):
        begun = time.perf_counter()
        spans = list(sweep.blocks(start, stop))
        parts = bar(spans, total=len(spans), unit="block", label="least squares", show_bar=show_bar)
        outputs = np.concatenate([outputs, *(sweep.outputs(*span).double().numpy() for span in parts)])
        masks = design.masks(0, stop)
        found = fit(masks, outputs, "least_squares", full)
        seconds += time.perf_counter() - begun
        used = Bernoulli(components, alpha, stop, seed)
        yield _Round(
            found.weights,
            found.bias,
            None,
            _loss_of_fits(masks, outputs, full),
            stop,
            stop + 1,
            {
                "solver": "least_squares",
                **found.provenance(),
                **identity(model, data, used),
                "masks": used.describe(),
                "packing": {"draws": sweep.packing.draws, "examples": sweep.packing.examples},
                "threads": torch.get_num_threads(),
                "packages": packages(),
                "seconds": round(seconds, 2),
            },
        )


def _loss_of_fits(
    masks: Bool[np.ndarray, "draw component"],
    outputs: Float64[np.ndarray, "draw example"],
    full: Float64[np.ndarray, " example"],
) -> float:
    """1 where the draws are too few for two fits."""
    if len(masks) < 2 * (masks.shape[1] + 2):
        return 1.0
    halves = [fit(masks[start::2], outputs[start::2], "least_squares", full).weights for start in (0, 1)]
    return loss_of_regression(halves[0], halves[1])


def _rounds(total: int, first: int, whole: int, *, stops: bool) -> Iterator[tuple[int, int]]:
    """Spans of draws, each as long as all before it; one span if nothing is to be stopped.

    Args:
        total: draws in all.
        first: about so many in the first round.
        whole: rounds end at multiples of it.
        stops: whether the rounds may be stopped.
    """
    done = 0
    while done < total:
        wanted = -(-max(first, 2 * done) // whole) * whole if stops else total
        stop = total if wanted + first > total else wanted
        yield done, stop
        done = stop
