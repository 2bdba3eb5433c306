"""Does it depend on what is measured? Appendix E.3 of the COAR paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import Tensor

from ablationlens.attribution import path_gradient
from ablationlens.data import Batch
from ablationlens.evaluate.agreement import mean
from ablationlens.evaluate.ceiling import reliability
from ablationlens.evaluate.intervals import interval_of_mean
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, check_named, state_cost
from ablationlens.evaluate.studies.fitting import Fitting, Method, tested
from ablationlens.masked_model import MaskedModel
from ablationlens.outputs import CrossEntropy, Logit, Margin, Output
from ablationlens.results import Attribution


@dataclass(frozen=True, repr=False)
class OutputFunction(Study):
    """Held-out correlation of attributions of several outputs, each on its own output.

    `frame` has one row per output and example: pearson, spearman, r2, slope, and cosine, the similarity of its weights
    to those of the first output. `table` has one per output: pearson (mean over examples), low and high (its 95%
    interval), spearman, r2, slope, cosine, cosine_low, cosine_high, undefined (examples without a correlation).
    """


def output_function(
    model: MaskedModel,
    data: Batch,
    *,
    outputs: Mapping[str, Output | Callable[..., Tensor]] | None = None,
    alpha: float = 0.05,
    method: Method = path_gradient,
    fit_draws: int = 500,
    draws: int = 300,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> OutputFunction:
    """The same method on several outputs (arXiv 2404.11534, appendix E.3), each tested on ablations of its own output.

    Outputs that nearly all components change together, or that saturate, need not be as predictable as a margin. A
    negative cosine is right where one output falls when the other rises, as a loss and a margin do.

    Costs len(outputs) fits and len(outputs) x draws x examples forward rows, logged before it starts. A fit with
    `al.path_gradient` counts 3 x fit_draws x examples.

    Args:
        model: the masked model; its own output is not used.
        data: the examples.
        outputs: by name, one or more; by default margin, logit of the label and cross-entropy, which need labels.
        alpha: ablated fraction of the fits and of the held-out masks.
        method: what attributes, called as ``method(model, data, alpha=, draws=, seed=)``.
        fit_draws: draws of each fit, unless the method has its own.
        draws: held-out masks; the same for every output.
        seed: of the fits, and of the held-out masks, which have a stream of their own.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if outputs go by no name, need labels that the data has not, or alpha or draws do not fit.
    """
    if outputs is None:
        outputs = {"margin": Margin(), "label logit": Logit("label"), "cross-entropy": CrossEntropy()}
    check_named("outputs", outputs, "{'margin': al.Margin(), 'loss': al.CrossEntropy()}")
    check_masks([alpha], len(model.registry), draws, seed)
    models = {name: model.having(output=one) for name, one in outputs.items()}
    fitting = Fitting(method, fit_draws, seed, rows, show_bar)
    components, examples, count = len(model.registry), len(data), len(models)
    cost = state_cost(
        model,
        "output function",
        {
            f"{count} fits": fitting.rows_of(components, examples, count),
            f"{count} x {draws:,} held-out masks": count * draws * examples,
        },
    )
    frames: list[pd.DataFrame] = []
    tables: list[pd.DataFrame] = []
    provenance: dict[str, Any] = {}
    first: Attribution | None = None
    for name, one in models.items():
        found = fitting(one, data, alpha=alpha)
        first = found if first is None else first
        scores = tested(one, data, {name: found}, fitting, [alpha], draws)
        similar = reliability(found, first)
        low, high = interval_of_mean(f"bootstrap:{name}", similar)
        frames.append(scores.frame.assign(cosine=similar))
        tables.append(scores.table().assign(cosine=mean(similar), cosine_low=low, cosine_high=high))
        provenance = provenance or scores.provenance
    assert first is not None
    provenance = {
        "study": "output function",
        "method": first.method,
        "alpha": float(alpha),
        "fit_draws": fitting.own_draws(),
        "cost": cost,
        **provenance,
        "output": {name: one.output.describe() for name, one in models.items()},
    }
    return OutputFunction(_of_output(frames), _of_output(tables), provenance)


def _of_output(frames: list[pd.DataFrame]) -> pd.DataFrame:
    frame = pd.concat(frames, ignore_index=True).drop(columns="alpha").rename(columns={"method": "output"})
    last = [name for name in ("undefined",) if name in frame]
    return frame.reindex(columns=[*frame.columns.drop(last), *last])
