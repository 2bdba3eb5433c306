"""Path gradient: the coefficients of COAR as an expected gradient, at a cost that does not grow with the components.

With independent gates kept with probability 1 - alpha, the least-squares coefficient of gate j is E[f | m_j = 1] -
E[f | m_j = 0]. That is the expectation, over the other gates, of the integral of df/dm_j as m_j runs from 0 to 1. One
backward pass gives the gradients of all gates that are on such a path at once (see `ablationlens.masks.paths`).
docs/path_gradient.md says why it works, when it is exact, and when not to use it.
"""

from __future__ import annotations

import logging

import numpy as np

from ablationlens.attribution.coar import kept_outputs
from ablationlens.attribution.level import Level
from ablationlens.attribution.path_sums import PathSums
from ablationlens.counterfactuals.gradients import gradients
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.paths import Paths
from ablationlens.results import Attribution, attribution

log = logging.getLogger("ablationlens")


def path_gradient(
    model: MaskedModel,
    data: Batch,
    *,
    alpha: float,
    draws: int,
    rho: float | None = None,
    h: float | None = None,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Estimate what COAR estimates, the least-squares coefficients under random ablation, from gradients.

    A draw is one forward and one backward pass of every example, about 2.5 to 3 forward passes; from 32 draws on, one
    forward pass under a hard mask is added for every 8, up to 32 of them, from which the bias term is. Some hundreds of
    draws are enough however many components there are.

    Exact in expectation for outputs that are multilinear in the gates (additive ones need 1 / rho draws); elsewhere its
    bias shrinks with `rho`. With few components, and draws many times their number, `coar` is as good or better:
    `al.attribute` chooses.

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples.
        alpha: share of components that is ablated on average.
        draws: masks; below 2 / rho no gate is on the path twice, and the weights are those at kept gates.
        rho: share of the gates on the path of a draw, 1 over an integer; by default the largest up to 2 * alpha (2 *
            (1 - alpha) if more than half is ablated), which has the smallest variance. Half of it has half the bias and
            twice the variance.
        h: share of the gates that is ablated outright; rho / 2 + h = alpha, so one of the two is enough. As rho is 1
            over an integer, the h that is drawn may be a little larger: the provenance holds both as drawn.
        seed: draw i depends on (seed, i) alone.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, with bias and standard errors. Draws whose output or gradient was not finite are
        left out and counted in the provenance, which also holds each site's shrinkage weight.

    Raises:
        InputError: if alpha, rho, h and draws do not fit, or the output has no gradient.
    """
    check_call(model, data)
    design = paths(len(model.registry), alpha, draws, rho, h, seed)
    sums = PathSums.empty(len(data), len(model.registry))
    provenance = gradients(model, data, design, sums.add, label="path gradient", rows=rows, show_bar=show_bar)
    full, level = kept_outputs(model, data), Level.measured(model, data, design, rows)
    estimate = sums.estimate(model.registry)
    left_out = int(sums.left_out.sum()) + level.left_out
    if left_out:
        log.warning("%d of %d draws were not finite and are left out", left_out, (draws + len(level.masks)) * len(data))
    return attribution(
        "path gradient",
        estimate.weights,
        level.bias(estimate.weights, otherwise=estimate.bias),
        model.registry,
        data.names(),
        provenance={
            "method": "path gradient",
            "alpha": design.alpha,
            "draws": draws,
            "rho": design.rho,
            "h": design.h,
            "level_draws": len(level.masks),
            "seed": design.seed,
            **estimate.provenance(),
            "quarantined_outputs": left_out,
            "full_output": full.tolist(),
            **provenance,
        },
        errors=estimate.errors,
    )


def paths(components: int, alpha: float, draws: int, rho: float | None, h: float | None, seed: int) -> Paths:
    """The design that alpha, rho and h ask for.

    Raises:
        InputError: if they contradict one another.
    """
    if h is not None:
        if not 0 <= h < alpha:
            raise InputError(
                f"h is the share of gates that is ablated outright, from 0 to below alpha={alpha}; got {h}"
            )
        wanted = 2 * (alpha - h)
        if rho is not None and not np.isclose(rho, wanted):
            raise InputError(f"rho / 2 + h = alpha, so with alpha={alpha} and h={h} rho is {wanted:.4g}; got rho={rho}")
        rho = wanted
    return Paths(components, alpha, draws, seed, rho=rho)
