"""Does the ablated fraction that an attribution is fitted at matter? Appendix C.4 of the COAR paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, distinct, state_cost, usable
from ablationlens.evaluate.studies.fitting import Fitting, Method, tested
from ablationlens.masked_model import MaskedModel

ALPHAS = (0.02, 0.05, 0.1)


@dataclass(frozen=True, repr=False)
class FitAlpha(Study):
    """Held-out correlation at several ablated fractions, of attributions fitted at several.

    `frame` has one row per fit_alpha, alpha and example: pearson, spearman, r2, slope. `table` has one per fit_alpha
    and alpha: pearson (mean over examples), low and high (its 95% interval), spearman, r2, slope, undefined (examples
    without a correlation).
    """


def fit_alpha(
    model: MaskedModel,
    data: Batch,
    *,
    fit_alphas: Sequence[float] | None = None,
    alphas: Sequence[float] | None = None,
    method: Method = path_gradient,
    fit_draws: int = 500,
    draws: int = 300,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> FitAlpha:
    """Held-out correlation at each alpha of attributions fitted at each of several (arXiv 2404.11534, appendix C.4).

    A weight is the effect of a component in the company of random other ablations, and how many those are is chosen
    by the fit. Where the lines lie together, that choice hardly matters for predictions; where the best one at an
    alpha is the one fitted there, attributions should be fitted where they are used.

    Costs len(fit_alphas) fits and len(alphas) x draws x examples forward rows, logged before it starts. A fit with
    `al.path_gradient` counts 3 x fit_draws x examples.

    Args:
        model: the masked model.
        data: the examples.
        fit_alphas: ablated fractions to fit at; by default those of 2%, 5% and 10% at which some component is ablated.
        alphas: ablated fractions of the held-out masks; by default the same.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``; it must take alpha.
            ``functools.partial(al.coar, draws=20_000)`` sets arguments of its own.
        fit_draws: draws of each fit, unless the method has its own.
        draws: held-out masks for each alpha; every attribution is tested on the same.
        seed: of the fits, and of the held-out masks, which have a stream of their own.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if the method takes no alpha, or alphas or draws do not fit.
    """
    components, examples = len(model.registry), len(data)
    fitted_at = distinct("fit_alphas", usable(ALPHAS, components) if fit_alphas is None else fit_alphas, "[0.02, 0.05]")
    tested_at = fitted_at if alphas is None else distinct("alphas", alphas, "[0.02, 0.05]")
    check_masks(tested_at, components, draws, seed)
    fitting = Fitting(method, fit_draws, seed, rows, show_bar)
    fitting.check_varies("alpha")
    cost = state_cost(
        model,
        "fit alpha",
        {
            f"{len(fitted_at)} fits": fitting.rows_of(components, examples, len(fitted_at)),
            f"{len(tested_at) * draws:,} held-out masks": len(tested_at) * draws * examples,
        },
    )
    found = {repr(alpha): fitting(model, data, alpha=alpha) for alpha in fitted_at}
    scores = tested(model, data, found, fitting, tested_at, draws)
    provenance = {
        "study": "fit alpha",
        "method": next(iter(found.values())).method,
        "fit_alphas": list(fitted_at),
        "fit_draws": fitting.own_draws(),
        "cost": cost,
        **scores.provenance,
    }
    return FitAlpha(_fitted_at(scores.frame), _fitted_at(scores.table()), provenance)


def _fitted_at(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the alpha of the fit where the name of the attribution was."""
    return frame.assign(method=frame["method"].map(float)).rename(columns={"method": "fit_alpha"})
