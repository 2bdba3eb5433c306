"""Does it matter what an ablation puts in place of a component? Appendix E.2 of the COAR paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ablationlens.ablations import Ablation, Scale, Zero
from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.agreement import mean
from ablationlens.evaluate.ceiling import reliability
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, check_named, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method, tested
from ablationlens.masked_model import MaskedModel


@dataclass(frozen=True, repr=False)
class AblationMethod(Study):
    """Held-out correlation under several ablations, of attributions fitted under several.

    `frame` has one row per fitted, tested (names of ablations) and example: pearson, spearman, r2, slope, and cosine,
    the similarity of the weights fitted under the two. `table` has one per fitted and tested: pearson (mean over
    examples), low and high (its 95% interval), spearman, r2, slope, cosine, undefined (examples without a correlation).
    """


def ablation_method(
    model: MaskedModel,
    data: Batch,
    *,
    ablations: Mapping[str, Ablation] | None = None,
    alpha: float = 0.05,
    method: Method = path_gradient,
    fit_draws: int = 500,
    draws: int = 300,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> AblationMethod:
    """The same method under several ablations (arXiv 2404.11534, appendix E.2), tested under each.

    By default the two of the paper: `Zero`, and `Scale` by a half, which leaves an ablated component half of its value.
    An attribution fitted under a weaker ablation has smaller weights, so that its slope on a stronger one is far from
    1; its correlation need not be. The cosine of two attributions is lowered by the noise of both: see `sample_size`.

    Costs len(ablations) fits and len(ablations) x draws x examples forward rows, logged before it starts. A fit with
    `al.path_gradient` counts 3 x fit_draws x examples.

    Args:
        model: the masked model; its own ablation is not used.
        data: the examples.
        ablations: by name, one or more.
        alpha: ablated fraction of the fits and of the held-out masks.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``.
        fit_draws: draws of each fit, unless the method has its own.
        draws: held-out masks; every attribution is tested on the same.
        seed: of the fits, and of the held-out masks, which have a stream of their own.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if ablations go by no name, or alpha or draws do not fit.
    """
    ablations = {"zero": Zero(), "scale 0.5": Scale(0.5)} if ablations is None else ablations
    check_named("ablations", ablations, "{'zero': al.Zero(), 'scale 0.5': al.Scale(0.5)}")
    for name, ablation in ablations.items():
        if not isinstance(ablation, Ablation):
            raise InputError(f"ablations[{name!r}] is an ablation such as al.Zero() or al.Scale(0.5); got {ablation!r}")
    check_masks([alpha], len(model.registry), draws, seed)
    fitting = Fitting(method, fit_draws, seed, rows, show_bar)
    components, examples, count = len(model.registry), len(data), len(ablations)
    cost = state_cost(
        model,
        "ablation method",
        {
            f"{count} fits": fitting.rows_of(components, examples, count),
            f"{count} x {draws:,} held-out masks": count * draws * examples,
        },
    )
    models = {name: model.having(ablation=ablation) for name, ablation in ablations.items()}
    found = {name: fitting(one, data, alpha=alpha) for name, one in models.items()}
    frames: list[pd.DataFrame] = []
    tables: list[pd.DataFrame] = []
    provenance: dict[str, object] = {}
    for name, one in models.items():
        scores = tested(one, data, found, fitting, [alpha], draws)
        similar = {other: reliability(each, found[name]) for other, each in found.items()}
        listed = [value for values in similar.values() for value in values]
        frames.append(_tested(scores.frame.assign(cosine=listed), name))
        table = _tested(scores.table(), name)
        table.insert(len(table.columns) - 1, "cosine", [mean(values) for values in similar.values()])
        tables.append(table)
        provenance = provenance or scores.provenance
    provenance = {
        "study": "ablation method",
        "method": next(iter(found.values())).method,
        "alpha": float(alpha),
        "fit_draws": fitting.own_draws(),
        "cost": cost,
        **provenance,
        "ablation": {name: ablation.describe() for name, ablation in ablations.items()},
    }
    return AblationMethod(pd.concat(frames, ignore_index=True), pd.concat(tables, ignore_index=True), provenance)


def _tested(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same rows with the ablation of the fit where the name of the attribution was, and that of the test."""
    frame = frame.drop(columns="alpha").rename(columns={"method": "fitted"})
    frame.insert(1, "tested", name)
    return frame
