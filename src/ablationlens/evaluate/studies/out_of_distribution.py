"""Does it work on examples that the model was not made for? Appendix C.1 of the COAR paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, check_named, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method, tested
from ablationlens.masked_model import MaskedModel


@dataclass(frozen=True, repr=False)
class OutOfDistribution(Study):
    """Held-out correlation on the examples of several domains, each with its own attribution.

    `frame` has one row per domain and example: pearson, spearman, r2, slope. `table` has one per domain: examples,
    pearson (mean over examples), low and high (its 95% interval), spearman, r2, slope, undefined (examples without a
    correlation).
    """


def out_of_distribution(
    model: MaskedModel,
    data: Mapping[str, Batch],
    *,
    alpha: float = 0.05,
    method: Method = path_gradient,
    fit_draws: int = 500,
    draws: int = 300,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> OutOfDistribution:
    """Held-out correlation on examples of other domains (arXiv 2404.11534, appendix C.1).

    Every example is attributed by itself, whatever domain it is of, so that a method may do as well on examples that
    the model does badly on. It says nothing of carrying an attribution over from one example to another.

    Costs one fit and draws forward rows for every example of every domain, logged before it starts. A fit with
    `al.path_gradient` counts 3 x fit_draws x examples.

    Args:
        model: the masked model.
        data: name of a domain -> its examples; the first is what the others are held against.
        alpha: ablated fraction of the fits and of the held-out masks.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``.
        fit_draws: draws of each fit, unless the method has its own.
        draws: held-out masks; the same for every domain.
        seed: of the fits, and of the held-out masks, which have a stream of their own.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if data is no batches by name, or alpha or draws do not fit.
    """
    check_named("data", data, "{'python': python_batch, 'prose': prose_batch}")
    for name, batch in data.items():
        if not isinstance(batch, Batch):
            raise InputError(f"data[{name!r}] is a Batch, al.batch(texts, tokenizer=...); got {type(batch).__name__}")
    check_masks([alpha], len(model.registry), draws, seed)
    fitting = Fitting(method, fit_draws, seed, rows, show_bar)
    components, examples = len(model.registry), sum(len(batch) for batch in data.values())
    cost = state_cost(
        model,
        "domains",
        {
            f"fits of {examples:,} examples": fitting.rows_of(components, examples, 1),
            f"{draws:,} held-out masks": draws * examples,
        },
    )
    frames: list[pd.DataFrame] = []
    tables: list[pd.DataFrame] = []
    provenance: dict[str, Any] = {}
    for name, batch in data.items():
        found = fitting(model, batch, alpha=alpha)
        scores = tested(model, batch, {name: found}, fitting, [alpha], draws)
        frames.append(_of_domain(scores.frame))
        table = _of_domain(scores.table())
        table.insert(1, "examples", len(batch))
        tables.append(table)
        provenance = provenance or {"method": found.method, **scores.provenance}
    provenance = {
        "study": "out of distribution",
        "alpha": float(alpha),
        "fit_draws": fitting.own_draws(),
        "cost": cost,
        **provenance,
        "data": {name: {"examples": len(batch), "fingerprint": batch.fingerprint()} for name, batch in data.items()},
    }
    return OutOfDistribution(pd.concat(frames, ignore_index=True), pd.concat(tables, ignore_index=True), provenance)


def _of_domain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="alpha").rename(columns={"method": "domain"})
