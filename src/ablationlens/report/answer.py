"""The question and the short answer, in sentences computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ablationlens.data import Batch
from ablationlens.plots.labels import counted, fixed, output_name, percent, signed, spaced
from ablationlens.report.facts import compared, shown_alpha
from ablationlens.report.sections import Section, components
from ablationlens.results import Attribution

WORTH_NAMING = 0.1
"""Share of the strongest weight below which a component is not named: a sentence would make too much of it."""


def model_name(section: Section) -> str:
    """What the model is called: the name in its adapter's description, or its class."""
    described = section.model.adapter.describe()
    return str(described.get("name") or described.get("class") or "the model")


def measured(section: Section) -> str:
    """The output that was measured, in words."""
    return output_name({"output": section.model.output.describe()})


def heading(found: Sequence[Section]) -> str:
    """The question in one line."""
    outputs = " and the ".join(dict.fromkeys(measured(section) for section in found))
    return f"Which parts of {model_name(found[0])} matter for the {outputs}?"


def question(found: Sequence[Section], data: Batch) -> list[Markup]:
    """What was asked, and how to read the sign of the answer."""
    parts = " and ".join(dict.fromkeys(components(section.registry) for section in found))
    names = [spaced(type(section.model.ablation).__name__) for section in found]
    ablations = " or ".join(dict.fromkeys(names))
    size = counted(len(data), "example") + ("" if data.length is None else f" of {counted(data.length, 'token')}")
    return [
        Markup(
            "What would the {} of {} be, on {}, if some of its {} were gone? An ablated part is replaced "
            "({} ablation), and the {} is measured again."
        ).format(measured(found[0]), model_name(found[0]), size, parts, ablations, measured(found[0])),
        Markup(
            "A positive weight means that <em>keeping</em> the part raises the {}; a negative one, that keeping it "
            "lowers it. A prediction for any ablation is the bias plus the weights of the parts that are kept."
        ).format(measured(found[0])),
    ]


def answer(section: Section) -> list[Markup]:
    """The strongest components, where the weight is, and whether it predicts ablations that were not seen."""
    name, attribution = section.main
    return [_strongest(section, name, attribution), _where(attribution), *_predicts(section)]


def _strongest(section: Section, name: str, attribution: Attribution) -> Markup:
    table, unit = attribution.table(), measured(section)
    weights = table["weight"].to_numpy(dtype=float)
    if not np.nanmax(np.abs(weights)) > 0:
        return Markup("{} gives every component a weight of 0.").format(name)
    clauses: list[Markup] = []
    # The strongest component is in the first clause.
    ways = [(1, "raises"), (-1, "lowers")] if weights[0] > 0 else [(-1, "lowers"), (1, "raises")]
    for sign, verb in ways:
        places = np.flatnonzero(sign * weights >= WORTH_NAMING * np.nanmax(np.abs(weights)))[:3]
        parts = [
            Markup("<strong>{}</strong> ({})").format(table["component"].iloc[place], signed(float(weights[place])))
            for place in places
        ]
        if parts:
            clauses.append(Markup("keeping {} {} the {} most").format(_joined(parts), verb, unit))
        else:
            clauses.append(Markup("no part {} it even a tenth as much").format(verb))
    return Markup("By {}, {}.").format(name, Markup("; ").join(clauses))


def _where(attribution: Attribution) -> Markup:
    table = attribution.table()
    sizes = np.abs(np.nan_to_num(table["weight"].to_numpy(dtype=float)))
    total = float(sizes.sum())
    if not total > 0:
        return Markup("No component stands out.")
    top = max(round(0.01 * len(sizes)), 1)
    by_layer, by_module = (_shares(table[name].tolist(), sizes / total) for name in ("layer", "module"))
    few = "strongest component holds" if top == 1 else f"{top:,} strongest of {len(sizes):,} components hold"
    text = Markup("The {} {} of the absolute weight").format(few, percent(float(sizes[:top].sum()) / total))
    places = [Markup("layer {} holds {}").format(*by_layer[0])]
    if len(by_module) > 1:
        places.append(Markup("{} in all layers {}").format(*by_module[0]))
    return text + Markup("; ") + _joined(places) + Markup(".")


def _shares(places: Sequence[object], shares: np.ndarray) -> list[tuple[str, str]]:
    """What holds which share of the whole, the largest first."""
    sums: dict[str, float] = {}
    for place, share in zip(places, shares, strict=True):
        sums[str(place)] = sums.get(str(place), 0.0) + float(share)
    return [(place, percent(share)) for place, share in sorted(sums.items(), key=lambda item: -item[1])]


def _predicts(section: Section) -> list[Markup]:
    methods, alpha = compared(section), shown_alpha(section)
    if not methods or alpha is None or section.scores is None:
        return [
            Markup(
                "Whether this predicts ablations that were not seen was not measured: call "
                "<code>al.evaluate(model, data, attributions, alphas=[...], draws=500)</code> and give its scores."
            )
        ]
    ranked = sorted(methods.items(), key=lambda item: -item[1].pearson)
    parts = [Markup("{} {} ({})").format(method, fixed(each.pearson), each.interval) for method, each in ranked]
    return [
        Markup("On {} masks that ablate {} of the components, predicted and true outputs correlate: ").format(
            f"{section.scores.draws:,} held-out", percent(alpha)
        )
        + _joined(parts)
        + Markup(".")
    ]


def _joined(parts: Sequence[Markup]) -> Markup:
    if len(parts) < 2:
        return Markup("").join(parts)
    return Markup(", ").join(parts[:-1]) + Markup(" and ") + parts[-1]
