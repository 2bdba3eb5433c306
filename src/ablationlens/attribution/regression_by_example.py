"""Regression of each example's outputs on masks of its own: a factorisation for every example."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from ablationlens.attribution.regression import Regression, SolverName, log, refuse_no_fit, warn_of_quarantine
from ablationlens.attribution.stochastic_masks import StochasticMasks
from ablationlens.errors import InputError
from ablationlens.progress import bar
from ablationlens.solvers import SOLVERS, Fit, check_draws

LEAST_LEEWAY = 0.01
"""Leeway below which a weight is not known: its standard error would be 100 times that of a free component."""


def fit_by_example(
    masks: StochasticMasks,
    outputs: Float64[np.ndarray, "draw example"],
    solver: SolverName,
    *,
    show_bar: bool | None = None,
) -> Regression:
    """Regress the outputs of each example on the means of its own masks.

    A component that the draws hardly move in an example is no part of its regression, and its effect there is in the
    bias. Its weight in that example is 0 with a penalty, which is what the penalty would make of it, and NaN in least
    squares, where it would be noise. `Regression.unidentified` has the components that this befalls in every example.

    What it costs: the masks are drawn a second time, and each example takes what a hard design takes for all: draws *
    components^2 multiplications in float64 and components^3 / 3 for each factorisation. One example is in memory at a
    time.

    Args:
        masks: the design.
        outputs: of each example under each draw; those that are not finite are left out.
        solver: name of the solver.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if no example has enough finite outputs.
    """
    finite = np.isfinite(outputs)
    quarantined = warn_of_quarantine(finite)
    examples, components = outputs.shape[1], masks.components
    unknown = np.nan if solver == "least_squares" else 0.0
    weights, bias = np.full((examples, components), np.nan), np.full(examples, np.nan)
    left_open = masks.leeway < LEAST_LEEWAY
    fits: list[Fit] = []
    for example in bar(range(examples), total=examples, unit="example", label="regression", show_bar=show_bar):
        draws, columns = finite[:, example], np.flatnonzero(~left_open[example])
        try:
            check_draws(solver, int(draws.sum()), max(1, len(columns)))
        except InputError as error:
            log.warning("example %d has too few finite outputs for a fit: %s", example, error)
            continue
        weights[example] = unknown
        own = outputs[draws, example]
        if not len(columns):  # nothing moves: the output is what it is
            bias[example] = own.mean()
            continue
        one = SOLVERS[solver](masks.means(example)[np.ix_(draws, columns)], own[:, None])
        weights[example, columns] = np.where(one.unidentified, unknown, one.weights[0])
        bias[example] = one.bias[0]
        left_open[example, columns] = one.unidentified
        fits.append(one)
    dropped = int(np.isnan(bias).sum())
    if dropped == examples:
        refuse_no_fit(quarantined, finite.size)
    return Regression(
        weights, bias, np.asarray(left_open.all(axis=0)), tuple(fits), quarantined, dropped, False, int(left_open.sum())
    )
