"""How many draws does an attribution need? Appendix C.5 of the COAR paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.agreement import mean
from ablationlens.evaluate.ceiling import reliability
from ablationlens.evaluate.intervals import interval_of_mean
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, distinct, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method, tested
from ablationlens.masked_model import MaskedModel

SIZES = (25, 50, 100, 200, 500)


@dataclass(frozen=True, repr=False)
class SampleSize(Study):
    """Held-out correlation, and similarity to an independent full-sample attribution, against the number of draws.

    `frame` has one row per fit_draws and example: pearson, spearman, r2, slope, cosine. `table` has one per fit_draws:
    pearson (mean over examples), low and high (its 95% interval), spearman, cosine (mean over examples), cosine_low and
    cosine_high (its interval over examples, NaN for a single one), undefined (examples without a correlation).
    """


def sample_size(
    model: MaskedModel,
    data: Batch,
    *,
    fit_draws: Sequence[int] = SIZES,
    alpha: float = 0.05,
    method: Method = path_gradient,
    draws: int = 300,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> SampleSize:
    """Held-out correlation against the number of draws of the fit (arXiv 2404.11534, appendix C.5).

    Beside it stands the cosine similarity to a *full-sample* attribution, one of the largest number of draws. In the
    paper the smaller samples are parts of the full one; here that one is fitted by itself with another seed, so that
    the similarity at the largest number of draws is not 1 by construction: it says how far the method repeats itself,
    and no smaller sample can be expected to come closer.

    Costs sum(fit_draws) + max(fit_draws) draws of the method and draws x examples forward rows, logged before it
    starts. A draw of `al.path_gradient` counts 3 x examples.

    Args:
        model: the masked model.
        data: the examples.
        fit_draws: numbers of draws.
        alpha: ablated fraction of the fits and of the held-out masks.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``; it must take draws and
            seed.
        draws: held-out masks; every attribution is tested on the same.
        seed: of the fits, and of the held-out masks, which have a stream of their own; the full sample has seed + 1.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if the method takes no draws or no seed, or alpha or draws do not fit.
    """
    components, examples = len(model.registry), len(data)
    given = sorted(distinct("fit_draws", fit_draws, "[50, 100, 200]"))
    sizes = [int(size) for size in given]
    if sizes[0] < 1 or sizes != given:
        raise InputError(f"fit_draws are positive numbers of draws, such as [50, 100, 200]; got {fit_draws!r}")
    check_masks([alpha], components, draws, seed)
    fitting = Fitting(method, sizes[-1], seed, rows, show_bar)
    fitting.check_varies("draws")
    fitting.check_varies("seed")
    costs = [fitting.rows_of(components, examples, 1, size) for size in (*sizes, sizes[-1])]
    known = [each for each in costs if each is not None]
    cost = state_cost(
        model,
        "sample size",
        {
            f"{len(sizes)} fits and a full sample": sum(known) if len(known) == len(costs) else None,
            f"{draws:,} held-out masks": draws * examples,
        },
    )
    found = {str(size): fitting(model, data, alpha=alpha, draws=size) for size in sizes}
    full = fitting(model, data, alpha=alpha, seed=seed + 1)
    scores = tested(model, data, found, fitting, [alpha], draws)
    similar = {size: reliability(one, full) for size, one in found.items()}
    frame = scores.frame.assign(cosine=[value for values in similar.values() for value in values])
    table = scores.table()
    limits = [interval_of_mean(f"bootstrap:{size}", values) for size, values in similar.items()]
    table = table.assign(
        cosine=[mean(values) for values in similar.values()],
        cosine_low=[low for low, _ in limits],
        cosine_high=[high for _, high in limits],
    )
    columns = ["pearson", "low", "high", "spearman", "cosine", "cosine_low", "cosine_high", "undefined"]
    provenance = {
        "study": "sample size",
        "method": next(iter(found.values())).method,
        "alpha": float(alpha),
        "fit_draws": sizes,
        "full_sample": {"draws": sizes[-1], "seed": seed + 1},
        "cost": cost,
        **scores.provenance,
    }
    summary = _of_size(table).reindex(columns=["fit_draws", *columns])
    return SampleSize(_of_size(frame).drop(columns="alpha"), summary, provenance)


def _of_size(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the number of draws where the name of the attribution was."""
    return frame.assign(method=frame["method"].map(int)).rename(columns={"method": "fit_draws"})
