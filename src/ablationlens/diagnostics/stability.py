"""Stability: how much of a mean attribution would come back with other examples, and with other masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.diagnostics.domain_agreement import (
    Kind,
    Products,
    counts_of,
    estimate,
    ratio,
    usable,
    vectors,
    with_weights,
)
from ablationlens.diagnostics.domain_data import check_data, draws_for
from ablationlens.errors import InputError
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, distinct, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method, name_of
from ablationlens.masked_model import MaskedModel

AGREEMENTS = ("other examples, same masks", "other examples, other masks", "same examples, other masks")
"""Two mean attributions of half of the examples each, and in what they differ."""
SHARES = ("in common", "masks", "examples", "rest")
"""What the variance of a mean attribution consists of."""


@dataclass(frozen=True, repr=False)
class Stability(Study):
    """How far two mean attributions agree that differ in their examples, in their masks, or in both.

    `frame` has one row per data set, draws, quantity and seed (or pair of seeds): value. `table` and `shares` average
    them over seeds, with a 95% bootstrap interval over examples (low, high) for the seeds that were drawn, and the
    lowest and highest over seeds, which are few.
    """

    home: ClassVar[str] = "al"

    def table(self) -> pd.DataFrame:
        """Agreement of two means over half of the examples, averaged over every way to split them.

        One row per data set, draws of the fit and comparison ("other examples, same masks", "other examples, other
        masks", "same examples, other masks"); value, low, high, lowest, highest, examples (in a half).
        """
        return self._of("agreement").rename(columns={"quantity": "comparison"})

    def shares(self) -> pd.DataFrame:
        """The variance over components of such a mean, split into its sources, which sum to 1 (chance may carry one
        below 0).

        One row per data set, draws of the fit and source: "in common" (comes back with other examples and other masks),
        "masks" (comes back with other examples, but goes with the masks), "examples" (comes back with other masks, but
        goes with the examples), "rest" (goes with either); value, low, high, lowest, highest, examples (in a half).
        """
        return self._of("share").rename(columns={"quantity": "source"})

    def _of(self, what: str) -> pd.DataFrame:
        return self.summary.loc[self.summary["what"] == what].drop(columns="what").reset_index(drop=True)


def stability(
    model: MaskedModel,
    data: Batch | Mapping[str, Batch],
    *,
    alpha: float,
    method: Method = path_gradient,
    draws: int | None = None,
    times: Sequence[int] = (1, 4),
    seeds: int = 2,
    kind: Kind = "pearson",
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Stability:
    """Which part of a mean attribution is the model's, which the examples', and which the masks'.

    Attributions of single examples are fitted with several seeds and several numbers of draws. Means over two halves of
    the examples then share their masks or not, and two seeds share their examples or not; from how far they agree,
    the shares of variance follow as in a two-way analysis of variance (generalizability theory).

    Where two halves agree with the same masks but not with others, the masks are too few: more draws help, and more
    examples do not. Where the same examples agree but others do not, it is the other way round.

    Costs seeds x sum(times) x draws of the method for every example, logged before it starts: by default 10 fits of
    `draws`. A draw of `al.path_gradient` counts 3 rows. Splitting the examples costs nothing, because each has weights
    of its own.

    Args:
        model: the masked model.
        data: at least 4 examples; or several data sets by name, each of which is looked at by itself.
        alpha: ablated fraction of the fits.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``; it must take draws and seed.
        draws: of a fit; by default 4 for each component with `al.coar`, 500 with any other method.
        times: multiples of draws to look at.
        seeds: how many, at least 2: seed, seed + 1, ...
        kind: agreement as "pearson" correlation over components, or "cosine".
        seed: the first.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if there are fewer than 4 examples or 2 seeds, the method takes no draws or no seed, or alpha,
            draws, times or kind do not fit.
    """
    sets = {"data": data} if isinstance(data, Batch) else data
    check_data(model, sets, fewest=1, examples=4)
    vectors(np.zeros((1, 1)), kind)  # refuses another kind before anything is run
    components, examples = len(model.registry), sum(len(batch) for batch in sets.values())
    fitting = Fitting(method, draws_for(method, components, draws), seed, rows, show_bar)
    fitting.check_varies("draws")
    fitting.check_varies("seed")
    factors = distinct("times", times, "(1, 4)")
    if any(factor < 1 or factor != int(factor) for factor in factors):
        raise InputError(f"times are whole multiples of draws, such as times=(1, 4); got {times!r}")
    if not is_integer(seeds) or seeds < 2:
        raise InputError(f"seeds is how many are compared, at least 2; got {seeds!r}")
    check_masks([alpha], components, fitting.draws, seed, fewest=1)
    sizes = [int(factor) * fitting.draws for factor in factors]
    used = range(seed, seed + seeds)
    costs = [fitting.rows_of(components, examples, seeds, size) for size in sizes]
    known = [each for each in costs if each is not None]
    part = f"{seeds} fits each of {', '.join(f'{size:,}' for size in sizes)} draws"
    cost = state_cost(model, "stability", {part: sum(known) if len(known) == len(costs) else None})
    rows_of_frame: list[dict[str, Any]] = []
    rows_of_summary: list[dict[str, Any]] = []
    provenance: dict[str, Any] = {}
    for name, batch in sets.items():
        for size in sizes:
            fits = {one: fitting(model, batch, alpha=alpha, draws=size, seed=one) for one in used}
            provenance = provenance or next(iter(fits.values())).provenance
            found = _quantities({str(one): fit.weights.values for one, fit in fits.items()}, name, kind)
            for quantity, by_seed in found.items():
                labels = {"data": name, "draws": size, "quantity": quantity}
                rows_of_frame += [{**labels, "seeds": at, "value": float(one[0])} for at, one in by_seed.items()]
                rows_of_summary.append(_summed_up(labels, by_seed, len(batch) // 2))
    record = {
        "study": "stability",
        "method": name_of(method),
        "alpha": float(alpha),
        "draws": sizes,
        "seeds": list(used),
        "kind": kind,
        "cost": cost,
        **{
            key: provenance[key] for key in ("model", "registry", "ablation", "output", "packages") if key in provenance
        },
        "data": {name: {"examples": len(batch), "fingerprint": batch.fingerprint()} for name, batch in sets.items()},
    }
    return Stability(pd.DataFrame(rows_of_frame), pd.DataFrame(rows_of_summary), record)


def _quantities(
    weights: Mapping[str, Float[np.ndarray, "example component"]], name: str, kind: str
) -> dict[str, dict[str, Float64[np.ndarray, " resample"]]]:
    """Agreements and shares -> by seed or pair of seeds -> [resample], the value first."""
    has = np.all([with_weights(one) for one in weights.values()], axis=0)
    if has.sum() < 4:
        raise InputError(f"{name!r}: only {has.sum()} examples have finite weights, and halves need at least 4")
    weights = {seed: one[has] for seed, one in weights.items()}
    keep = usable(weights)
    fits = {seed: vectors(one[:, keep], kind) for seed, one in weights.items()}
    examples = len(next(iter(fits.values())))
    counts, half = counts_of(name, examples), examples // 2
    own = {seed: Products.of(one @ one.T, counts) for seed, one in fits.items()}
    norm = {seed: one.mean_of(half) for seed, one in own.items()}
    same = {seed: ratio(own[seed].signal, norm[seed], norm[seed]) for seed in fits}
    found: dict[str, dict[str, Float64[np.ndarray, " resample"]]] = {key: {} for key in (*AGREEMENTS, *SHARES)}
    found[AGREEMENTS[0]] = same
    for a, b in combinations(fits, 2):
        both = Products.of(fits[a] @ fits[b].T, counts)
        other, texts = (ratio(one, norm[a], norm[b]) for one in (both.signal, both.mean_of(half)))
        masks = (same[a] + same[b]) / 2
        values = (other, texts, other, masks - other, texts - other, 1 - masks - texts + other)
        for key, value in zip((*AGREEMENTS[1:], *SHARES), values, strict=True):
            found[key][f"{a}, {b}"] = value
    return found


def _summed_up(
    labels: Mapping[str, Any], by_seed: Mapping[str, Float64[np.ndarray, " resample"]], half: int
) -> dict[str, Any]:
    """One row of the summary: the mean over seeds, its interval, and how far seeds lie apart."""
    values = np.stack(list(by_seed.values()))
    value, low, high = estimate(values.mean(axis=0))
    return {
        "what": "agreement" if labels["quantity"] in AGREEMENTS else "share",
        **labels,
        "value": value,
        "low": low,
        "high": high,
        "lowest": float(values[:, 0].min()),
        "highest": float(values[:, 0].max()),
        "examples": half,
    }
