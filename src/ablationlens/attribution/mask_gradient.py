"""Mask gradients at fixed masks: gradient x parameter, and integrated gradients along the mask.

Both follow from the one equation. With zero ablation, the derivative of the output in a gate is the gradient of the
component's parameters times these parameters; with a counterfactual replacement it is attribution patching. The path
gradient (`ablationlens.attribution.path_gradient`) takes the same derivative at random masks.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ablationlens.attribution.ends import Ends, ends
from ablationlens.counterfactuals.gradients import gradients
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.diagonal import Diagonal, gauss_legendre
from ablationlens.results import Attribution, attribution

log = logging.getLogger("ablationlens")

TOLERATED_GAP = 0.01
"""Share of f(all) - f(none) that integrated gradients may miss without a warning."""


def gradient_x_parameter(
    model: MaskedModel, data: Batch, *, rows: int | None = None, show_bar: bool | None = None
) -> Attribution:
    """Attribute by the gradient of the output in the mask, with every component kept.

    With `Zero` this is the gradient of each component's parameters times the parameters, summed over the component
    (without the bias); with `Counterfactual` it is attribution patching (Nanda, 2023; Syed, Rager and Conmy, arXiv
    2310.10348). It is the first-order guess of leave-one-out, and exact where the output is additive in the gates.

    Costs one forward and one backward pass of every example, about 3 forward passes, however many components there
    are. Not complete: the weights sum to f(all) - f(none) for additive outputs only.

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output. The bias is f(all kept) - sum(weights), so that the prediction for "all kept"
        is right. Gradients that are not finite are NaN, those of an output that is not finite too, and counted in the
        provenance.

    Raises:
        InputError: if the output has no gradient.
    """
    check_call(model, data)
    sums = WeightedSum(len(data), len(model.registry), np.ones(1))
    design = Diagonal(len(model.registry), (1.0,))
    run = gradients(model, data, design, sums.add, label="gradient x parameter", rows=rows, show_bar=show_bar)
    weights, full = sums.result(), sums.outputs.numpy()
    return attribution(
        "gradient x parameter",
        weights,
        full - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance={
            "method": "gradient x parameter",
            "draws": 1,
            "quarantined_outputs": sums.not_finite,
            "full_output": full.tolist(),
            **run,
        },
    )


def integrated_gradients(
    model: MaskedModel, data: Batch, *, steps: int = 32, rows: int | None = None, show_bar: bool | None = None
) -> Attribution:
    """Attribute by the mean gradient in the mask as all gates open together from 0 to 1 (arXiv 1703.01365).

    The integral along this line is taken at the nodes of a Gauss-Legendre rule. For an output that is multilinear in
    the gates the weights are its Shapley values (Owen, 1972), which `shapley` finds at a far higher cost. What lies on
    the line are models with every component half ablated, far from the one with all kept: as predictions of a few
    ablations the weights are worse than those of `path_gradient`, or of a single gradient.

    Costs steps forward and backward passes of every example, about 3 * steps forward passes, and 2 more forward
    passes, however many components there are. Complete: the weights sum to f(all) - f(none) up to the error of the
    rule. That gap is measured for every example and recorded as ``provenance["completeness_gap"]``; a warning says
    if it is large, as it may be for an output that has kinks or turns quickly near the ends.

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples.
        steps: nodes of the rule.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output. The bias is f(all kept) - sum(weights). Where a gradient is not finite at some
        node the weight is NaN, for the whole example if its output is not; the provenance counts them.

    Raises:
        InputError: if steps is no positive integer, or the output has no gradient.
    """
    check_call(model, data)
    check_steps(steps)
    levels, shares = gauss_legendre(steps)
    sums = WeightedSum(len(data), len(model.registry), shares)
    design = Diagonal(len(model.registry), tuple(levels.tolist()))
    run = gradients(model, data, design, sums.add, label="integrated gradients", rows=rows, show_bar=show_bar)
    weights, both = sums.result(), ends(model, data, rows=rows)
    _warn_of_gap(both, weights, steps)
    return attribution(
        "integrated gradients",
        weights,
        both.kept - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance={
            "method": "integrated gradients",
            "steps": int(steps),
            "draws": int(steps),
            "rule": "Gauss-Legendre",
            "quarantined_outputs": sums.not_finite,
            **both.provenance(weights),
            **run,
        },
    )


class WeightedSum:
    """Running weighted sum of the gradients of draws that come in order; memory does not grow with the draws.

    Attributes:
        outputs: weighted sum of the outputs, [example].
        not_finite: outputs, or gradients of a draw and example, that were not finite.
    """

    def __init__(self, examples: int, components: int, shares: Float64[np.ndarray, " draw"]) -> None:
        self._total = torch.zeros(examples, components, dtype=torch.float64)
        self._shares = torch.from_numpy(shares)
        self._done = 0
        self.outputs = torch.zeros(examples, dtype=torch.float64)
        self.not_finite = 0

    def add(
        self,
        masks: Float[Tensor, "draw component"],
        outputs: Float[Tensor, "draw example"],
        gradients: Float[Tensor, "draw example component"],
    ) -> None:
        """Count a block of draws."""
        shares = self._shares[self._done : self._done + len(masks)]
        self._done += len(masks)
        self._total += torch.einsum("d,dec->ec", shares, gradients.double())
        self.outputs += shares @ outputs.double()
        self.not_finite += int((~(torch.isfinite(outputs) & torch.isfinite(gradients).all(-1))).sum())

    def result(self) -> Float64[np.ndarray, "example component"]:
        """The sum, NaN where a gradient was not finite, and for examples with an output that was not."""
        if self.not_finite:
            log.warning("%d outputs or their gradients were not finite", self.not_finite)
        finite = torch.isfinite(self._total) & torch.isfinite(self.outputs)[:, None]
        return self._total.where(finite, torch.nan).numpy()


def check_steps(steps: Any) -> None:
    """Refuse what is no number of steps.

    Raises:
        InputError: if it is no positive integer.
    """
    if not is_integer(steps) or steps < 1:
        raise InputError(f"steps is the number of points of an integral, an integer from 1; got {steps!r}")


def _warn_of_gap(both: Ends, weights: Float64[np.ndarray, "example component"], steps: int) -> None:
    gap, whole = np.abs(both.gap(weights)), np.abs(both.kept - both.ablated)
    missed = np.isfinite(gap) & (gap > TOLERATED_GAP * whole)
    if missed.any():
        log.warning(
            "integrated gradients: the weights of %d of %d examples miss f(all) - f(none) by more than %.0f%% "
            "(provenance['completeness_gap']); take more than steps=%d",
            int(missed.sum()),
            len(gap),
            100 * TOLERATED_GAP,
            steps,
        )
