"""Facts that several parts of the page state: what a provenance holds, and how well an attribution was found to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from ablationlens.evaluate import Scores
from ablationlens.plots.labels import fixed, percent
from ablationlens.report.sections import Section
from ablationlens.results import Attribution


def found(provenance: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of these keys that is there, at the top or nested: None if there is none."""
    for key in keys:
        level: list[Mapping[str, Any]] = [provenance]
        while level:
            for entries in level:
                if entries.get(key) is not None and not isinstance(entries[key], Mapping):
                    return entries[key]
            level = [
                cast("Mapping[str, Any]", value)
                for entries in level
                for value in entries.values()
                if isinstance(value, Mapping)
            ]
    return None


def fitted_alpha(attribution: Attribution) -> float | None:
    """The ablated fraction of the masks that an attribution was fitted on; None for methods without such masks."""
    alpha = found(attribution.provenance, "alpha")
    return None if alpha is None else float(alpha)


def design_of(attribution: Attribution) -> str:
    """The name of the design whose masks an attribution was made from; nothing for methods without masks."""
    masks: Any = attribution.provenance.get("masks")
    return str(cast("Mapping[str, Any]", masks).get("design", "")) if isinstance(masks, Mapping) else ""


@dataclass(frozen=True)
class Tested:
    """How one method did on held-out masks of one ablated fraction.

    Attributes:
        alpha: the ablated fraction.
        pearson: mean over examples.
        low: lower end of its bootstrap 95% interval.
        high: upper end.
        undefined: examples without a correlation.
        examples: examples with and without one.
    """

    alpha: float
    pearson: float
    low: float
    high: float
    undefined: int
    examples: int

    @property
    def interval(self) -> str:
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            return "no interval"
        return f"95% interval {fixed(self.low)} to {fixed(self.high)}"

    def __str__(self) -> str:
        return f"{fixed(self.pearson)} ({self.interval}) at {percent(self.alpha)} ablated"


def tested(scores: Scores | None, method: str) -> list[Tested]:
    """How a method did at each ablated fraction that it was tested at, ascending."""
    if scores is None:
        return []
    table = scores.table()
    sizes = scores.frame[scores.frame["method"] == method].groupby("alpha").size()
    results = [
        Tested(
            alpha=float(row["alpha"]),
            pearson=float(row["pearson"]),
            low=float(row["low"]),
            high=float(row["high"]),
            undefined=int(row["undefined"]),
            examples=int(sizes.loc[row["alpha"]]),
        )
        for row in table.to_dict("records")
        if row["method"] == method
    ]
    return sorted(results, key=lambda each: each.alpha)


def shown_alpha(section: Section) -> float | None:
    """The ablated fraction at which a section's methods are compared: where the main one was fitted, or the first."""
    alphas = [] if section.scores is None else sorted({float(alpha) for alpha in section.scores.frame["alpha"]})
    if not alphas:
        return None
    fitted = fitted_alpha(section.main[1])
    return fitted if fitted in alphas else alphas[0]


def compared(section: Section) -> dict[str, Tested]:
    """Each method at `shown_alpha`."""
    alpha = shown_alpha(section)
    methods = [] if section.scores is None else list(dict.fromkeys(map(str, section.scores.frame["method"])))
    return {method: each for method in methods for each in tested(section.scores, method) if each.alpha == alpha}
