"""Faithfulness: how much of the output the components that an attribution ranks highest make, and break.

Keep the k most important components and ablate the rest, for growing k; or ablate them and keep the rest. An
attribution that ranks well gives back the output of the whole model early (insertion), and loses it early (deletion).
The areas are those of the Mechanistic Interpretability Benchmark (MIB, arXiv 2504.13151, section 3.1).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from jaxtyping import Float64

from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.checks import check_belong, named
from ablationlens.evaluate.curves import Faithfulness
from ablationlens.evaluate.endpoints import endpoints, gap
from ablationlens.evaluate.rankings import (
    DIRECTIONS,
    Order,
    Ranked,
    RankedByExample,
    Ranking,
    random_rankings,
    random_rankings_by_example,
    ranked,
)
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import integer
from ablationlens.progress import bar
from ablationlens.results import Attribution
from ablationlens.sweep import Sweep

log = logging.getLogger("ablationlens")

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the components that MIB keeps."""
EVERY_COUNT = 32
"""Components up to which every count is evaluated."""


def faithfulness(
    model: MaskedModel,
    data: Batch,
    attributions: Mapping[str, Attribution] | Attribution,
    *,
    counts: Sequence[int] | np.ndarray | None = None,
    order: Order = "signed",
    ranking: Ranking = "mean",
    random_orders: int = 20,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Faithfulness:
    """Curves of faithfulness against the number of components kept or ablated, beside random orders.

    Normalised faithfulness of a set of kept components C is F(C) = (f(C) - f(none)) / (f(all) - f(none)), where none
    means that every component *of the registry* is ablated. C_k holds the k most important ones.

    - ``cpr``, the integrated circuit performance ratio: the area under F(C_k) over k/N from 0 to 1. Higher is better;
      it can pass 1. It is also the area under the insertion curve. MIB ranks by the signed weight for it.
    - ``cmd``, the integrated circuit-model distance: the area under |1 - F(C_k)|. 0 is best. MIB ranks by the absolute
      weight for it: ``order="absolute"``.
    - ``deletion``: the area under F(all but C_k). Lower is better for the signed order.

    Where f(all) is below f(none), as for a loss or a divergence, the components that lower the output make it, and come
    first in the signed order. Provenance: ``toward``, the sign of f(all) - f(none).

    Areas are trapezoids in linear k between exact counts, from 0 to N: at both ends F is known. (MIB's own areas begin
    at N/1000, and where a share of the components rounds to the same count twice, its counts collapse.)

    What it costs: (attributions + random_orders) x 2 x counts + 2 masks, each a forward pass of every example, packed;
    logged before it starts. With one attribution of 144 heads: 21 x 2 x 6 + 2 = 254.

    Args:
        model: the masked model.
        data: the examples that the attributions are of.
        attributions: one, or several by name.
        counts: how many components are kept or ablated; 0 and N are always there. By default every count up to 32
            components; above that the distinct counts among 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 and 100% of them, as in
            MIB, rounded down and at least 1.
        order: "signed" (most positive first; most negative where f(all) is below f(none)) or "absolute" (largest
            first).
        ranking: "mean" ranks the mean weights: one set of components for all examples, which is what a circuit of a
            task is, and what MIB measures. "example" ranks the weights of each example for that example alone: use it
            where examples have little in common.
        random_orders: rankings by chance, the same for all attributions; one for all examples, or one for each, as
            `ranking` says. With fewer than 19 no attribution can be better than chance at the 5% level.
        seed: of the random orders.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Raw outputs and F of every example; areas with bootstrap intervals over examples. Areas and curves are those of
        the mean output over examples, as in MIB: the mean of ratios would be ruled by examples whose f(all) - f(none)
        happens to be small. F is NaN where that gap is no more than rounding; the outputs are kept.

    Raises:
        InputError: if an attribution belongs to another registry or other data, or an argument does not fit.
    """
    found = named(attributions, "al.faithfulness(model, data, {'COAR': coar, ...})")
    check_belong(model, data, found)
    components = len(model.registry)
    inner = _inner(counts, components)
    seed = _check(order, ranking, random_orders, seed)
    begun = time.perf_counter()
    full, empty, provenance = endpoints(model, data, label="faithfulness, ends", rows=rows, show_bar=show_bar)
    by_example = ranking == "example"
    toward = np.nan_to_num(np.sign(full - empty) if by_example else np.sign([np.nanmean(full) - np.nanmean(empty)]))
    rankings = [ranked(one, order, ranking, seed, toward) for one in found.values()]
    if by_example:
        chance = random_rankings_by_example(components, random_orders, len(data), seed)
        source = RankedByExample(np.concatenate([np.stack(rankings), chance]), inner)
        masks = _by_example(model, data, source, rows, show_bar)
    else:
        source = Ranked(np.concatenate([*rankings, random_rankings(components, random_orders, seed)]), inner)
        found_outputs = record(model, data, source, label="faithfulness", rows=rows, show_bar=show_bar).outputs
        masks = found_outputs.astype(np.float64)
    curves = with_ends(masks.reshape(-1, len(DIRECTIONS), len(inner), len(data)), full, empty)
    undefined = int(np.isnan(gap(full, empty)).sum())
    not_finite = int((~np.isfinite(curves)).any(axis=(0, 1, 2)).sum())
    if undefined or not_finite:
        log.warning(
            "faithfulness is undefined for %d of %d examples, whose output is the same with everything kept and with "
            "everything ablated; %d have outputs that are not finite, and are left out where they are",
            undefined,
            len(data),
            not_finite,
        )
    return Faithfulness(
        methods=tuple(found),
        counts=np.array([0, *inner, components]),
        examples=data.names(),
        outputs=curves[: len(found)],
        random=curves[len(found) :],
        full=full,
        empty=empty,
        provenance={
            **provenance,
            "masks": source.describe(),
            "order": order,
            "toward": toward.astype(int).tolist() if by_example else int(toward[0]),
            "ranking": ranking,
            "random_orders": random_orders,
            "seed": seed,
            "undefined_examples": undefined,
            "examples_not_finite": not_finite,
            "seconds": round(time.perf_counter() - begun, 2),
        },
    )


def counts_of(components: int) -> tuple[int, ...]:
    """Counts between 0 and N at which faithfulness is evaluated: all of few, MIB's shares of many, no count twice."""
    if components <= EVERY_COUNT:
        return tuple(range(1, components))
    shares = {max(1, int(share * components)) for share in FRACTIONS}
    return tuple(sorted(shares - {components}))


def with_ends(
    inner: Float64[np.ndarray, "curve direction count example"],
    full: Float64[np.ndarray, " example"],
    empty: Float64[np.ndarray, " example"],
) -> Float64[np.ndarray, "curve direction counts example"]:
    """The same curves with the outputs at 0 and at N components, which every curve shares."""
    shape = (inner.shape[0], 1, 1, inner.shape[3])
    none, everything = np.broadcast_to(empty, shape), np.broadcast_to(full, shape)
    first = np.concatenate([none, everything], axis=1)
    return np.concatenate([first, inner, first[:, ::-1]], axis=2)


def _by_example(
    model: MaskedModel, data: Batch, source: RankedByExample, rows: int | None, show_bar: bool | None
) -> Float64[np.ndarray, "draw example"]:
    sweep = Sweep(model, data, source, rows=rows)
    sweep.announce("faithfulness, an order for each example")
    spans = list(sweep.blocks(0, source.draws))
    found = [
        sweep.outputs(start, stop).double().numpy()
        for start, stop in bar(spans, total=len(spans), unit="block", label="faithfulness", show_bar=show_bar)
    ]
    return np.concatenate(found)


def _inner(counts: Sequence[int] | np.ndarray | None, components: int) -> tuple[int, ...]:
    if components < 2:
        raise InputError("an order needs at least 2 components; for one: al.leave_one_out(model, data)")
    if counts is None:
        return counts_of(components)
    asked = sorted({integer("counts", count) for count in counts})
    inner = tuple(count for count in asked if 0 < count < components)
    if not inner or asked[0] < 0 or asked[-1] > components:
        raise InputError(
            f"counts are numbers of components from 0 to {components}, at least one of them between; got "
            f"{list(counts)}: counts=range(0, {components + 1}, {max(1, components // 10)})"
        )
    return inner


def _check(order: Any, ranking: Any, random_orders: Any, seed: Any) -> int:
    if order not in get_args(Order):
        raise InputError(f"order={order!r}: use one of {', '.join(map(repr, get_args(Order)))}")
    if ranking not in get_args(Ranking):
        raise InputError(f"ranking={ranking!r}: use one of {', '.join(map(repr, get_args(Ranking)))}")
    if integer("random_orders", random_orders) < 1:
        raise InputError(f"random_orders={random_orders}: at least 1 is needed to compare with, better 20")
    return integer("seed", seed)
