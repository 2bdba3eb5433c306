"""Shapley values of the mask game: each component's effect, averaged over the orders in which all could be added.

The players are the components, and a coalition is what a mask keeps. Sampling and KernelSHAP are captum's; where all
masks can be listed, the values are computed from them, which is exact and costs less than captum's walk through every
order.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ablationlens.attribution.ends import Ends, ends
from ablationlens.attribution.with_captum import captum_attr, run_provenance
from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.masks.designs import MAX_ALL_MASKS, AllMasks, integer
from ablationlens.progress import announce, bar
from ablationlens.randomness import permutation
from ablationlens.results import Attribution, attribution
from ablationlens.sweep import GivenMasks, Sweep

log = logging.getLogger("ablationlens")

ShapleyMethod: TypeAlias = Literal["sampling", "kernel", "exact"]

MOST_COMPONENTS = 1000
"""Components up to which Shapley values are sampled: each order alone costs as many forward passes."""
ORDERS = 32
"""Orders that are sampled, if not said otherwise."""
MASKS_PER_COMPONENT = 16
"""Masks that KernelSHAP takes for each component, if not said otherwise."""
MASKS_PER_CALL = 1024
"""Masks that captum hands over at once, at most: they are packed into forward passes here."""


def shapley(
    model: MaskedModel,
    data: Batch,
    *,
    method: ShapleyMethod = "sampling",
    samples: int | None = None,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute by Shapley values: the effect of keeping a component, averaged over all orders of adding components.

    Complete: the weights sum to f(all) - f(none), up to rounding. With few components this is the fairest share-out
    there is; its price grows with their number, so more than some hundreds are refused.

    Args:
        model: the masked model.
        data: the examples.
        method: how the average is taken, which decides what it costs in forward passes of every example, for N
            components:
            "sampling" (captum's `ShapleyValueSampling`; Castro, Gomez and Tejada, 2009): `samples` random orders,
            samples * N + 2 passes. Unbiased, with standard errors.
            "kernel" (captum's `KernelShap`, arXiv 1705.07874): a regression on `samples` random masks, samples + 2
            passes. All examples share their masks. Captum fits in single precision and ties the ends by a large
            weight, so the sum is right to about 1e-4.
            "exact": every mask, 2**N passes, for up to 20 components. (captum's `ShapleyValues` gives the same for N!
            * N passes.)
        samples: orders (32 by default) or masks (16 for each component by default); none for "exact".
        seed: order i depends on (seed, i) alone. Masks of "kernel" are drawn by PyTorch, from this seed.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output; the bias is f(none). "sampling" has standard errors. An example with an output
        that was not finite has no weights (NaN); such outputs are counted in the provenance.

    Raises:
        InputError: for too many components, with what they would cost; for an unknown method, or samples that are
            none.
        MissingExtraError: if captum is not installed ("exact" does without).
    """
    check_call(model, data)
    count = len(model.registry)
    number = _samples(method, samples, count)
    seed = integer("seed", seed)
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is an integer from 0 to 2**63 - 1; got {seed}")
    if method == "exact":
        return _exact(model, data, rows, show_bar)
    captum = captum_attr()
    cost = number * count if method == "sampling" else number
    announce(f"Shapley values ({method}): {cost:,} masks x {len(data)} examples = {cost * len(data):,} forward rows")
    begun = time.perf_counter()
    with bar(range(cost), total=cost, unit="mask", label="Shapley values", show_bar=show_bar) as progress:
        game = Game(model, data, rows, progress.update)
        both = ends(model, data, rows=rows)
        sampled = method == "sampling"
        found = _sampled(captum, game, both, number, seed) if sampled else _kernel(captum, game, number, seed)
    run = {
        "samples": number,
        "draws": cost,
        "seed": seed,
        "masks": {"design": "captum", "draws": cost},
        **run_provenance(model, data, game.sweep.packing, time.perf_counter() - begun),
    }
    return _labelled(model, data, method, found, both, game.not_finite, run)


@dataclass(frozen=True)
class Values:
    """Shapley values, and their standard errors where they are known: [example, component]."""

    weights: Float64[np.ndarray, "example component"]
    errors: Float64[np.ndarray, "example component"] | None = None


class Game:
    """The mask game, as the forward function that captum asks for: all examples under each of its masks.

    Args:
        model: the masked model.
        data: the examples.
        rows: rows of one forward pass; chosen if not given.
        done: called with the number of masks that were run.

    Attributes:
        not_finite: outputs that were not finite.
    """

    def __init__(self, model: MaskedModel, data: Batch, rows: int | None, done: Callable[[int], Any]) -> None:
        self.sweep = Sweep(model, data, GivenMasks(torch.ones(1, len(model.registry))), rows=rows)
        self.not_finite = 0
        self._done = done

    def __call__(self, masks: Float[Tensor, "mask component"]) -> Float[Tensor, "mask example"]:
        self.sweep.source = GivenMasks(masks)
        outputs = self.sweep.outputs(0, len(masks))
        self.not_finite += int((~torch.isfinite(outputs)).sum())
        self._done(len(masks))
        return outputs


def _samples(method: str, samples: int | None, count: int) -> int:
    """Orders or masks of a method.

    Raises:
        InputError: if the method is unknown, or there are too few samples, or too many components for it.
    """
    fewer = (
        "Take fewer or larger components, registry.select(...) or adapter.registry('row_block', size=...), or "
        "al.path_gradient, whose cost does not grow with them"
    )
    match method:
        case "sampling" | "kernel":
            default = ORDERS if method == "sampling" else MASKS_PER_COMPONENT * count
        case "exact":
            if samples is not None:
                raise InputError(f"method='exact' takes every mask, and no samples; got samples={samples}")
            if count > MAX_ALL_MASKS:
                raise InputError(
                    f"exact Shapley values of {count:,} components take 2**{count} forward passes of every example; up "
                    f"to {MAX_ALL_MASKS} components are taken. Sample them, method='sampling'. {fewer}"
                )
            return 0
        case _:
            raise InputError(f"no method '{method}': the methods are sampling, kernel, exact")
    number = default if samples is None else samples
    least = 1 if method == "sampling" else count + 2
    if not is_integer(number) or number < least:
        what = "orders" if method == "sampling" else f"masks, which a regression needs more of than {count} components"
        raise InputError(f"samples is the number of {what}, an integer from {least}; got {samples!r}")
    if count > MOST_COMPONENTS:
        cost = number * count if method == "sampling" else number
        raise InputError(
            f"Shapley values of {count:,} components take {cost:,} forward passes of every example, with "
            f"samples={number:,}; up to {MOST_COMPONENTS:,} components are taken. {fewer}"
        )
    if method == "kernel" and count < 2:
        raise InputError("the regression of method='kernel' needs at least 2 components: method='exact' is for 1")
    return int(number)


def _sampled(captum: Any, game: Game, both: Ends, samples: int, seed: int) -> Values:
    """Captum's values, one order at a time, so that their spread is known."""
    examples, count = len(both.kept), game.sweep.source.components
    none = torch.from_numpy(both.ablated).float()[None]

    def forward(masks: Tensor) -> Tensor:
        return game(masks) if bool(masks.any()) else none  # every order begins with nothing, which is known

    algorithm = captum.ShapleyValueSampling(forward)
    total, squares = np.zeros((examples, count)), np.zeros((examples, count))
    for draw in range(samples):
        order = permutation(seed, "shapley", draw, count).tolist()
        algorithm.permutation_generator = partial(_only, order)
        found = algorithm.attribute(
            torch.ones(1, count), n_samples=1, perturbations_per_eval=min(count, MASKS_PER_CALL)
        )
        values = found[0].double().numpy()
        total += values
        squares += values**2
    mean = total / samples
    if samples < 2:
        return Values(mean)
    variance = np.maximum(squares - samples * mean**2, 0) / (samples - 1)
    return Values(mean, np.sqrt(variance / samples))


def _kernel(captum: Any, game: Game, samples: int, seed: int) -> Values:
    """Captum's values: its masks are drawn first, run for all examples at once, and then given to one after another."""
    count = game.sweep.source.components
    drawn: list[Tensor] = []

    def values(forward: Callable[[Tensor], Tensor]) -> Tensor:
        with _seeded(seed):  # so that captum draws the same masks every time
            return captum.KernelShap(forward).attribute(
                torch.ones(1, count), n_samples=samples, perturbations_per_eval=min(samples, MASKS_PER_CALL)
            )[0]

    def draw(masks: Tensor) -> Tensor:
        drawn.append(masks.clone())
        return torch.zeros(len(masks))

    values(draw)
    outputs = [game(masks) for masks in drawn]
    weights = np.full((game.sweep.examples, count), np.nan)
    for example in range(game.sweep.examples):
        known = [block[:, example] for block in outputs]
        if all(bool(torch.isfinite(block).all()) for block in known):
            given = iter(known)
            weights[example] = values(partial(_replay, given)).double().numpy()
    return Values(weights)


def _only(order: list[int], *_sizes: int) -> list[list[int]]:
    return [order]


def _replay(given: Iterator[Tensor], _masks: Tensor) -> Tensor:
    return next(given)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """PyTorch's generator on the CPU begins at a seed, and goes on afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _exact(model: MaskedModel, data: Batch, rows: int | None, show_bar: bool | None) -> Attribution:
    design = AllMasks(len(model.registry))
    found = record(model, data, design, label="Shapley values (exact)", rows=rows, show_bar=show_bar)
    outputs = found.outputs.astype(np.float64)
    both = Ends(outputs[0], outputs[-1])
    not_finite = int((~np.isfinite(outputs)).sum())
    return _labelled(model, data, "exact", Values(exact_values(outputs)), both, not_finite, found.provenance)


def exact_values(outputs: Float64[np.ndarray, "mask example"]) -> Float64[np.ndarray, "example component"]:
    """Shapley values from the outputs under all masks; component j is ablated in mask i where bit j of i is set.

    phi_j is the sum, over coalitions S without j, of |S|! (N - |S| - 1)! / N! * (f(S with j) - f(S)).
    """
    count = len(outputs).bit_length() - 1
    masks = np.arange(len(outputs))
    size = np.full(len(masks), count)  # how many are kept
    for j in range(count):
        size -= (masks >> j) & 1
    share = np.array([1 / (count * math.comb(count - 1, others)) for others in range(count)])
    values = np.empty((outputs.shape[1], count))
    for j in range(count):
        without = masks[(masks >> j) & 1 == 1]
        values[:, j] = share[size[without]] @ (outputs[without ^ (1 << j)] - outputs[without])
    return values


def _labelled(
    model: MaskedModel, data: Batch, method: str, found: Values, both: Ends, not_finite: int, run: dict[str, Any]
) -> Attribution:
    if not_finite:
        log.warning("%d outputs were not finite: their examples have no Shapley values", not_finite)
    weights = np.where(np.isfinite(found.weights).all(1, keepdims=True), found.weights, np.nan)
    return attribution(
        "Shapley",
        weights,
        both.kept - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance={
            "method": "Shapley",
            "estimator": method,
            "quarantined_outputs": not_finite,
            **both.provenance(weights),
            **run,
        },
        errors=found.errors,
    )
