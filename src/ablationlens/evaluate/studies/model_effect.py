"""What does an ablated fraction do to the model itself? Appendix E.1 of the COAR paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from torch import Tensor

from ablationlens.attribution.coar import kept_outputs
from ablationlens.counterfactuals.record import record
from ablationlens.data import Batch
from ablationlens.evaluate.agreement import agreement, mean
from ablationlens.evaluate.intervals import percentiles, resamples, shares
from ablationlens.evaluate.studies.base import Study
from ablationlens.evaluate.studies.cost import check_masks, distinct, state_cost, usable
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.outputs import Output
from ablationlens.outputs.scored import select
from ablationlens.types import Scores

ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
STREAM = "model effect"
"""The masks have a stream of random numbers of their own."""
ROUNDING = 1e-12
"""Variance, of values whose variance is 1 before they are resampled, that is none."""
FEWEST_EXAMPLES = 3
"""Below this a correlation across examples says nothing."""


@dataclass(frozen=True, repr=False)
class ModelEffect(Study):
    """Accuracy, and correlation of outputs before and after ablation across examples, against the ablated fraction.

    `frame` has one row per alpha, draw and example: full (output with everything kept), output, correct (share of the
    scored positions whose largest logit is the label's). Its first rows, with alpha 0, are the unmodified model.
    `table` has one row per alpha, 0 included: accuracy, accuracy_low, accuracy_high, pearson (across examples, mean
    over draws), low, high, spearman, change (mean of output - full), undefined (draws without a correlation). Intervals
    are 95% bootstrap intervals over examples; over draws for the accuracy of a single example.
    """


@dataclass(frozen=True)
class Accuracy(Output):
    """Share of the scored positions whose largest logit is the label's."""

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = select(self, logits, batch, labelled=True)
        return rows.mean((rows.logits.argmax(-1) == rows.labels).float())


def model_effect(
    model: MaskedModel,
    data: Batch,
    *,
    alphas: Sequence[float] | None = None,
    draws: int = 100,
    seed: int = 0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> ModelEffect:
    """How far random ablations of each size break the model (arXiv 2404.11534, appendix E.1).

    What a regression learns at an alpha is how the model works when so much of it is gone. Where the accuracy is at
    chance, or outputs under ablation no longer follow those of the whole model from example to example, that is not
    the model one wants to know about: this is how the paper chooses its alpha. Correlations across examples need
    examples, better dozens than a handful; they are undefined for fewer than 3.

    Costs 2 x len(alphas) x draws x examples forward rows (half of them for the accuracy, which is left out where data
    has no integer labels), logged before it starts.

    Args:
        model: the masked model.
        data: the examples.
        alphas: ablated fractions; by default those of 1, 2, 5, 10, 20 and 50% at which some component is ablated.
        draws: masks for each alpha; a stream of their own, the same for both measures.
        seed: of the masks.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if alphas or draws do not fit.
    """
    components, examples = len(model.registry), len(data)
    ablated = distinct("alphas", usable(ALPHAS, components) if alphas is None else alphas, "[0.02, 0.05, 0.1]")
    check_masks(ablated, components, draws, seed, 1)
    labelled = data.labels is not None and not data.labels.is_floating_point()
    measured = {"output": model}
    if labelled:
        measured["correct"] = model.having(output=Accuracy())
    designs = {alpha: random_design("bernoulli", components, alpha, draws, seed, STREAM) for alpha in ablated}
    count = len(measured) * (len(ablated) * draws + 1)  # 1 with everything kept
    cost = state_cost(model, "model under ablation", {f"{count:,} masks": count * examples})
    names = list(data.names())
    whole = {name: kept_outputs(one, data)[None] for name, one in measured.items()}
    full = whole["output"][0]
    frames = [_frame(0.0, names, full, whole)]
    provenance: dict[str, Any] = {}
    for alpha, design in designs.items():
        values: dict[str, np.ndarray] = {}
        for name, one in measured.items():
            label = f"model effect, alpha {alpha:g}"
            found = record(one, data, design, label=label, rows=rows, show_bar=show_bar)
            values[name] = found.outputs.astype(np.float64)
            provenance = provenance or found.provenance
        frames.append(_frame(alpha, names, full, values))
    frame = pd.concat(frames, ignore_index=True)
    provenance = {
        "study": "model effect",
        "alphas": list(ablated),
        "labelled": labelled,
        "cost": cost,
        **provenance,
        "masks": {**provenance["masks"], "alpha": list(ablated)},
    }
    return ModelEffect(frame, _table(frame, examples), provenance)


def _frame(
    alpha: float,
    names: list[str],
    full: Float64[np.ndarray, " example"],
    values: dict[str, Float64[np.ndarray, "draw example"]],
) -> pd.DataFrame:
    draws, examples = values["output"].shape
    missing = np.full((draws, examples), np.nan)
    return pd.DataFrame(
        {
            "alpha": alpha,
            "draw": np.repeat(np.arange(draws), examples),
            "example": names * draws,
            "full": np.tile(full, draws),
            "output": values["output"].ravel(),
            "correct": values.get("correct", missing).ravel(),
        }
    )


def _table(frame: pd.DataFrame, examples: int) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for alpha, group in frame.groupby("alpha", sort=False):
        full, output, correct = (
            group[name].to_numpy(np.float64).reshape(-1, examples) for name in ("full", "output", "correct")
        )
        pearson, spearman, (low, high) = _correlation(full[0], output)
        accuracy_low, accuracy_high = _mean_interval(correct)
        changes = (output - full)[np.isfinite(output) & np.isfinite(full)]
        rows.append(
            {
                "alpha": float(alpha),  # type: ignore[arg-type]
                "accuracy": mean(correct.ravel()),
                "accuracy_low": accuracy_low,
                "accuracy_high": accuracy_high,
                "pearson": mean(pearson),
                "low": low,
                "high": high,
                "spearman": mean(spearman),
                "change": mean(changes),
                "undefined": int(np.isnan(pearson).sum()),
            }
        )
    return pd.DataFrame(rows)


def _correlation(
    full: Float64[np.ndarray, " example"], output: Float64[np.ndarray, "draw example"]
) -> tuple[Float64[np.ndarray, " draw"], Float64[np.ndarray, " draw"], tuple[float, float]]:
    """Correlations of each draw across examples, and the interval of the mean of Pearson's over resampled examples."""
    draws, examples = output.shape
    if examples < FEWEST_EXAMPLES:
        nothing = np.full(draws, np.nan)
        return nothing, nothing, (float("nan"), float("nan"))
    found = agreement(np.tile(full[:, None], (1, draws)), np.ascontiguousarray(output.T))
    defined = np.isfinite(found["pearson"])
    if not defined.any():
        return found["pearson"], found["spearman"], (float("nan"), float("nan"))
    resampled = weighted_pearson(shares("bootstrap:model effect", examples), full, output[defined])
    counts = np.isfinite(resampled).sum(axis=1)
    means = np.where(counts > 0, np.nan_to_num(resampled).sum(axis=1) / np.maximum(counts, 1), np.nan)
    return found["pearson"], found["spearman"], percentiles(means)


def weighted_pearson(
    weights: Float64[np.ndarray, "resample example"],
    x: Float64[np.ndarray, " example"],
    y: Float64[np.ndarray, "draw example"],
) -> Float64[np.ndarray, "resample draw"]:
    """Pearson correlation of each draw across examples that count by weights; NaN where nothing varies.

    Pairs that are not finite are left out.
    """
    ok = np.isfinite(y) & np.isfinite(x)
    scaled = [_scaled(np.where(ok, values, np.nan)) for values in (np.broadcast_to(x, y.shape), y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights @ ok.T
        mean_x, mean_y = (weights @ values.T / total for values in scaled)
        square_x, square_y = (weights @ (values**2).T / total for values in scaled)
        cross = weights @ (scaled[0] * scaled[1]).T / total
        variances = np.maximum(square_x - mean_x**2, 0) * np.maximum(square_y - mean_y**2, 0)
        return np.where(variances > ROUNDING, (cross - mean_x * mean_y) / np.sqrt(variances), np.nan)


def _scaled(values: Float64[np.ndarray, "draw example"]) -> Float64[np.ndarray, "draw example"]:
    """Mean 0 and variance 1 over the examples of a draw, which no correlation sees; 0 where not finite."""
    centred = values - np.nanmean(values, axis=1, keepdims=True)
    size = np.nanstd(values, axis=1, keepdims=True)
    return np.nan_to_num(centred / np.where(size > 0, size, 1.0))


def _mean_interval(correct: Float64[np.ndarray, "draw example"]) -> tuple[float, float]:
    """Of the mean share, over examples; over draws for a single one."""
    values = correct.mean(axis=0) if correct.shape[1] > 1 else correct[:, 0]
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    return percentiles(values[resamples("bootstrap:accuracy", len(values))].mean(axis=1))
