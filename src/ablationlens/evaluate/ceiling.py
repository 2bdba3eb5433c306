"""Ceiling: the held-out correlation that a method would reach with draws without end.

The output of a model under a mask has no noise, so what keeps a prediction from a correlation of 1 is, first, that
components interact, which no sum of weights can describe, and second, that the weights are estimated from few draws.
This file separates the two.

Let components be ablated independently with one probability alpha, and let w be the coefficients of the best linear
prediction of f from the mask. The rest, f - w.m, is uncorrelated with every linear function of the mask. For *any*
weights v, therefore, and R = corr(f, w.m), the best that a linear prediction can reach,

    corr(f, v.m) = R cos(v, w),                                                                                     (1)

because all gates have the same variance, so that the correlation of two linear functions of the mask is the cosine of
their weights. Let v1 = w + e1 and v2 = w + e2 be two estimates with other seeds, whose errors have the mean 0 and are
independent of each other, and e' the part of e at a right angle to w. Then

    cos(v1, v2) = cos(v1, w) cos(v2, w) + (e1' . e2') / (|v1| |v2|).

The last term has the mean 0 and, for errors that spread over N components, a standard deviation of
(1 - cos(v1, v2)) / sqrt(N - 1). Without it, (1) for both seeds gives

    R = sqrt(r1 r2 / cos(v1, v2)).                                                                                  (2)

That is the correction for attenuation (Spearman, 1904), with the agreement of the seeds as the reliability. Scale does
not matter: weights that are all too small by one factor are as good. A method whose expected weights are something
other than a multiple of w (a ridge that shrinks some more than others, the bias of a path gradient) shares that error
between its seeds, and (2) is then what the *method* tends to, at most R.

Masks that always ablate the same number of components leave the sum of the weights without effect; the cosine is then
that of the weights less their mean: their Pearson correlation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
from jaxtyping import Float64

from ablationlens.data import Batch
from ablationlens.errors import StoreError
from ablationlens.evaluate.agreement import mean, pearson
from ablationlens.evaluate.checks import check_belong, check_seeds, named
from ablationlens.evaluate.frames import load_frames, save_frames
from ablationlens.evaluate.held_out import evaluate
from ablationlens.evaluate.intervals import percentiles, resamples, shares
from ablationlens.evaluate.scores import Scores
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import DesignName
from ablationlens.randomness import normal
from ablationlens.results import Attribution

RESAMPLES = 500
"""Bootstrap resamples of masks and examples behind an interval."""
AGAIN = " (again)"
"""What the second seed of a method is called in the scores."""


@dataclass(frozen=True, repr=False)
class Ceiling:
    """Held-out correlations, and what they would be with draws without end.

    Attributes:
        frame: one row per method, alpha and example: first and second (held-out correlation of the two seeds),
            reliability (agreement of their weights), ceiling; NaN where undefined.
        means: what `table` returns.
        scores: the evaluation of both seeds, on the same masks; not saved with the rest (save it by itself).
        provenance: how they were made, JSON-able.
    """

    frame: pd.DataFrame
    means: pd.DataFrame
    scores: Scores | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.table().to_string(index=False, float_format="{:.3f}".format)

    def table(self) -> pd.DataFrame:
        """One row per method and alpha.

        Columns: method, alpha, pearson (held-out correlation, mean over both seeds and the examples), reliability
        (mean), ceiling (mean), low and high (its 95% interval: bootstrap over masks and examples), undefined (examples
        without a ceiling, because the seeds agree no better than chance or a correlation is not positive).
        """
        return self.means.copy()

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file, without the scores."""
        return save_frames(path, {"frame": self.frame, "means": self.means}, {"provenance": self.provenance})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Ceiling:
        """Read what `save` wrote.

        Raises:
            StoreError: if there is no such file, or it is damaged or something else.
        """
        frames, header = load_frames(path, "noise ceilings")
        try:
            return cls(frames["frame"], frames["means"], None, header["provenance"])
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} does not hold noise ceilings ({error})") from error


def ceiling(
    model: MaskedModel,
    data: Batch,
    attributions: Mapping[str, Attribution] | Attribution,
    *,
    again: Mapping[str, Attribution] | Attribution,
    alphas: Sequence[float] | np.ndarray | SupportsFloat = (0.05,),
    draws: int = 500,
    seed: int = 0,
    design: DesignName = "bernoulli",
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Ceiling:
    """Noise ceiling of the held-out correlation: what a method would reach with draws without end.

    Two attributions by the same method with different seeds are evaluated on the same held-out masks; their ceiling is
    sqrt(r1 r2 / reliability), where the reliability is the cosine of their weights (for masks that ablate a fixed
    number, the cosine of the weights less their mean). For a method whose expected weights are those of the best linear
    prediction, that is the highest correlation any weights can reach; what is missing to 1 is interaction between
    components. For one with a bias of its own (strong ridge, few draws on the path) it is the method's own limit, which
    is lower. It is assumed that the errors of the two seeds are independent with the mean 0, and spread over many
    components; and that the ceiling is asked at the alpha that the attributions were made for: elsewhere it is the
    limit of *these* weights. Estimates are not cut off at 1, so that their mean has no bias.

    It costs draws x examples forward passes for each alpha, as `evaluate` does, and holds the scores of both seeds.

    Args:
        model: the masked model.
        data: the examples that the attributions are of.
        attributions: one, or several by name.
        again: the same methods with another seed, under the same names; some may be left out, and have no ceiling. A
            method without randomness has none: its reliability is 1 and its limit its own correlation.
        alphas: shares of components to ablate.
        draws: held-out masks for each alpha.
        seed: of the held-out masks.
        design: how they are drawn.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Raises:
        InputError: if attributions belong to another registry or other data, if `again` has a name of its own or the
            same seed, or if draws or alphas do not fit.
    """
    first = named(attributions, "al.ceiling(model, data, {'COAR': coar}, again={'COAR': coar_seed_1})")
    second = {next(iter(first)): again} if isinstance(again, Attribution) and len(first) == 1 else again
    second = named(second, "al.ceiling(model, data, {'COAR': coar}, again={'COAR': coar_seed_1})")
    check_belong(model, data, first)
    check_belong(model, data, second)
    check_seeds(first, second)
    scores = evaluate(
        model,
        data,
        {**first, **{name + AGAIN: one for name, one in second.items()}},
        alphas=alphas,
        draws=draws,
        seed=seed,
        design=design,
        rows=rows,
        show_bar=show_bar,
    )
    frames: list[pd.DataFrame] = []
    means: list[dict[str, Any]] = []
    for name in second:
        agreement = reliability(first[name], second[name], centred=design != "bernoulli")
        for alpha, true in scores.true.items():
            pair = scores.predicted[name, alpha], scores.predicted[name + AGAIN, alpha]
            one, two = (_correlation(true, predicted) for predicted in pair)
            limit = attenuated(one, two, agreement, len(model.registry))
            columns = {"first": one, "second": two, "reliability": agreement, "ceiling": limit}
            labels = {"method": name, "alpha": alpha, "example": list(data.names())}
            frames.append(pd.DataFrame({**labels, **columns}))
            known = np.isfinite(limit)
            low, high = _interval(
                f"{name}:{alpha}",
                true[:, known],
                (pair[0][:, known], pair[1][:, known]),
                agreement[known],
                len(model.registry),
            )
            means.append(
                {
                    "method": name,
                    "alpha": alpha,
                    "pearson": mean((one + two) / 2),
                    "reliability": mean(agreement),
                    "ceiling": mean(limit),
                    "low": low,
                    "high": high,
                    "undefined": int(np.isnan(limit).sum()),
                }
            )
    return Ceiling(pd.concat(frames, ignore_index=True), pd.DataFrame(means), scores, scores.provenance)


def reliability(first: Attribution, second: Attribution, *, centred: bool = False) -> Float64[np.ndarray, " example"]:
    """Agreement of two attributions' predictions under random masks, example by example: the cosine of their weights.

    Args:
        first: an attribution.
        second: another, of the same components and examples.
        centred: for masks that always ablate the same number of components, under which the mean weight has no effect.
    """
    a, b = (np.nan_to_num(one.weights.values.astype(np.float64)) for one in (first, second))
    if centred:
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    sizes = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(sizes > 0, (a * b).sum(axis=1) / np.where(sizes > 0, sizes, 1.0), np.nan)


def attenuated(
    first: Float64[np.ndarray, "*resample example"],
    second: Float64[np.ndarray, "*resample example"],
    agreement: Float64[np.ndarray, "*resample example"],
    components: int,
) -> Float64[np.ndarray, "*resample example"]:
    """sqrt(r1 r2 / reliability); NaN where a correlation is not positive or the seeds agree no better than chance.

    Unrelated weights of N components have a cosine of about 1 / sqrt(N); three times that counts as agreement.
    """
    with np.errstate(invalid="ignore"):
        defined = (agreement > min(3 / np.sqrt(components), 0.5)) & (first > 0) & (second > 0)
    below = np.where(defined, agreement, 1.0)
    return np.where(defined, np.sqrt(np.where(defined, first * second, 0.0) / below), np.nan)


def _correlation(
    true: Float64[np.ndarray, "draw example"], predicted: Float64[np.ndarray, "draw example"]
) -> Float64[np.ndarray, " example"]:
    """Pearson correlation over the masks whose outputs are finite."""
    finite = np.isfinite(true) & np.isfinite(predicted)
    if finite.all():
        return pearson(true, predicted)
    found = np.full(true.shape[1], np.nan)
    for example in np.flatnonzero(finite.sum(axis=0) > 1):
        ok = finite[:, example]
        found[example] = pearson(true[ok, example][:, None], predicted[ok, example][:, None])[0]
    return found


def _interval(
    name: str,
    true: Float64[np.ndarray, "draw example"],
    pair: tuple[Float64[np.ndarray, "draw example"], Float64[np.ndarray, "draw example"]],
    agreement: Float64[np.ndarray, " example"],
    components: int,
) -> tuple[float, float]:
    """95% interval of the mean ceiling: masks and examples resampled, and the agreement moved by its own error."""
    draws, examples = true.shape
    if not examples:
        return float("nan"), float("nan")
    error = np.maximum(1 - agreement, 0) / np.sqrt(max(components - 1, 1))
    moved = agreement + error * normal(0, f"ceiling:{name}", 0, (RESAMPLES, examples)).astype(np.float64)
    counts = shares(f"ceiling:masks:{name}", draws)[:RESAMPLES]
    one, two = (_resampled(true, predicted, counts) for predicted in pair)
    limits = attenuated(one, two, moved, components)
    of_examples = resamples(f"ceiling:examples:{name}", examples)[:RESAMPLES]
    return percentiles(np.array([mean(limit[picked]) for limit, picked in zip(limits, of_examples, strict=True)]))


def _resampled(
    true: Float64[np.ndarray, "draw example"],
    predicted: Float64[np.ndarray, "draw example"],
    counts: Float64[np.ndarray, "resample draw"],
) -> Float64[np.ndarray, "resample example"]:
    """Pearson correlation over masks that count so often in each resample."""
    finite = np.isfinite(true) & np.isfinite(predicted)
    size = np.maximum(finite.sum(axis=0), 1)
    y, p = (np.where(finite, values, 0.0) for values in (true, predicted))
    y, p = (np.where(finite, values - values.sum(axis=0) / size, 0.0) for values in (y, p))  # squares stay small
    share = counts @ finite
    with np.errstate(invalid="ignore", divide="ignore"):
        my, mp = counts @ y / share, counts @ p / share
        covariance = counts @ (y * p) / share - my * mp
        variances = (counts @ y**2 / share - my**2) * (counts @ p**2 / share - mp**2)
        return covariance / np.sqrt(variances)
