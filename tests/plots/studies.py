"""Studies whose figures can be worked out by hand: no model is run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from ablationlens.evaluate.studies import (
    AblationMethod,
    FitAlpha,
    ModelEffect,
    OutOfDistribution,
    OutputFunction,
    SampleSize,
)

NAN = float("nan")
EXAMPLES = ("<b>a</b>", "b")
MEASURES = ("spearman", "r2", "slope")


def spread(keys: dict[str, Any], pearson: float, examples: tuple[str, ...] = EXAMPLES) -> list[dict[str, Any]]:
    """A row for each example, with correlations 0.02 to either side of the mean."""
    moves = np.linspace(-0.02, 0.02, len(examples)) if len(examples) > 1 else [0.0]
    return [
        {**keys, "example": name, "pearson": pearson + move, **dict.fromkeys(MEASURES, 0.5), "cosine": 0.9}
        for name, move in zip(examples, moves, strict=True)
    ]


def mean(keys: dict[str, Any], pearson: float, **others: Any) -> dict[str, Any]:
    """A row of a table, with an interval 0.03 below to 0.05 above the mean."""
    row = {**keys, "pearson": pearson, "low": pearson - 0.03, "high": pearson + 0.05, **dict.fromkeys(MEASURES, 0.5)}
    return {**row, **others, "undefined": len(EXAMPLES) if np.isnan(pearson) else 0}


def fitted_at(values: dict[tuple[float, float], float]) -> FitAlpha:
    """(fit_alpha, alpha) -> mean correlation."""
    keys = [{"fit_alpha": fit, "alpha": alpha} for fit, alpha in values]
    frame = [row for key, value in zip(keys, values.values(), strict=True) for row in spread(key, value)]
    summary = [mean(key, value) for key, value in zip(keys, values.values(), strict=True)]
    return FitAlpha(pd.DataFrame(frame), pd.DataFrame(summary), {"study": "fit alpha", "method": "path gradient"})


def sized(values: dict[int, float], cosines: dict[int, float]) -> SampleSize:
    """fit_draws -> mean correlation, and -> cosine."""
    frame = [row for size, value in values.items() for row in spread({"fit_draws": size}, value)]
    summary = [
        mean(
            {"fit_draws": size},
            value,
            cosine=cosines[size],
            cosine_low=cosines[size] - 0.04,
            cosine_high=cosines[size] + 0.02,
        )
        for size, value in values.items()
    ]
    provenance = {"method": "<path> gradient", "alpha": 0.05, "fit_draws": list(values)}
    return SampleSize(pd.DataFrame(frame), pd.DataFrame(summary).drop(columns=["r2", "slope"]), provenance)


def broken(
    pearson: dict[float, float], accuracy: dict[float, float], examples: int = 4, draws: int = 2, **output: str
) -> ModelEffect:
    """alpha -> correlation before and after, and -> accuracy, alpha 0 included."""
    frame = [
        {
            "alpha": alpha,
            "draw": draw,
            "example": f"example {i}",
            "full": 1.0,
            "output": 1.0,
            "correct": accuracy[alpha],
        }
        for alpha in pearson
        for draw in range(1 if alpha == 0 else draws)
        for i in range(examples)
    ]
    summary = [
        {
            "alpha": alpha,
            "accuracy": accuracy[alpha],
            "accuracy_low": accuracy[alpha] - 0.1,
            "accuracy_high": accuracy[alpha] + 0.1,
            "pearson": pearson[alpha],
            "low": pearson[alpha] - 0.03,
            "high": pearson[alpha] + 0.01,
            "spearman": pearson[alpha],
            "change": -alpha,
            "undefined": (1 if alpha == 0 else draws) if np.isnan(pearson[alpha]) else 0,
        }
        for alpha in pearson
    ]
    provenance = {"output": output or {"output": "LogitDifference"}, "labelled": True}
    return ModelEffect(pd.DataFrame(frame), pd.DataFrame(summary), provenance)


def under(
    pearson: dict[tuple[str, str], float], cosine: float = 0.8, slope: float = 0.5, alpha: float = 0.05
) -> AblationMethod:
    """(fitted, tested) -> mean correlation."""
    keys = [{"fitted": fitted, "tested": tested} for fitted, tested in pearson]
    pairs = list(zip(keys, pearson.values(), strict=True))
    frame = list(itertools.chain.from_iterable(spread(key, value) for key, value in pairs))
    summary = [
        mean(key, value, slope=slope, cosine=1.0 if key["fitted"] == key["tested"] else cosine) for key, value in pairs
    ]
    return AblationMethod(pd.DataFrame(frame), pd.DataFrame(summary), {"alpha": alpha})


def measured(pearson: dict[str, float], cosines: dict[str, float]) -> OutputFunction:
    """output -> mean correlation, and -> cosine to the first."""
    frame = [row for name, value in pearson.items() for row in spread({"output": name}, value)]
    summary = [
        mean({"output": name}, value, cosine=cosines[name], cosine_low=NAN, cosine_high=NAN)
        for name, value in pearson.items()
    ]
    return OutputFunction(pd.DataFrame(frame), pd.DataFrame(summary), {"alpha": 0.125})


def elsewhere(pearson: dict[str, float], examples: int = 2) -> OutOfDistribution:
    """domain -> mean correlation."""
    names = tuple(f"example {i}" for i in range(examples))
    frame = [row for name, value in pearson.items() for row in spread({"domain": name}, value, names)]
    summary = [mean({"domain": name, "examples": examples}, value) for name, value in pearson.items()]
    return OutOfDistribution(pd.DataFrame(frame), pd.DataFrame(summary), {"alpha": 0.05})
