"""What the measures of drift are called in figures."""

from __future__ import annotations

from dataclasses import dataclass

from ablationlens.errors import InputError


@dataclass(frozen=True)
class Measure:
    """What one measure of drift is called.

    Attributes:
        words: what it is.
        short: the same for a narrow axis.
        unit: of its values; "" for a share.
        signed: whether they can be negative.
    """

    words: str
    short: str
    unit: str = ""
    signed: bool = False

    @property
    def axis(self) -> str:
        return f"{self.words}, {self.unit}" if self.unit else self.words

    @property
    def narrow_axis(self) -> str:
        return f"{self.short}, {self.unit}" if self.unit else self.short


MEASURES = {
    "kl": Measure("KL(clean || ablated)", "KL", "nats"),
    "reverse_kl": Measure("KL(ablated || clean)", "reverse KL", "nats"),
    "js": Measure("Jensen-Shannon divergence", "JS", "nats"),
    "top1_changed": Measure("share of predictions that changed", "top-1 changed"),
    "log_probability_change": Measure(
        "change of the right class's log-probability", "log-probability", "nats", signed=True
    ),
    "rank_change": Measure("change of the right class's rank", "rank", "places", signed=True),
}
"""By the names that `al.drift` and `al.ablation_table` give them."""


def measure_named(name: str) -> Measure:
    """The measure of this name.

    Raises:
        InputError: naming all, if there is none such.
    """
    if name not in MEASURES:
        raise InputError(f"no measure {name!r}: the measures are {', '.join(MEASURES)}")
    return MEASURES[name]
