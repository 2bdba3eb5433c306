"""What a report can show beside scores: of each kind of result the question, its figures, its finding, its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ablationlens.diagnostics import AblationTable, Domains, Drift, Stability
from ablationlens.errors import InputError
from ablationlens.evaluate import Ceiling, Comparison, Completeness, Faithfulness
from ablationlens.evaluate.studies import (
    AblationMethod,
    FitAlpha,
    ModelEffect,
    OutOfDistribution,
    OutputFunction,
    SampleSize,
)
from ablationlens.plots import (
    ablation_experiment,
    ablation_method,
    ablations,
    agreement,
    ceiling,
    completeness,
    deletion_insertion,
    domain_held_out,
    domain_scatter,
    domain_similarity,
    domain_weights,
    drift,
    drift_positions,
    faithfulness,
    fit_alpha,
    model_effect,
    out_of_distribution,
    output_function,
    pattern_change,
    sample_size,
    stability,
    stability_shares,
)
from ablationlens.report.opened import Opened, opened
from ablationlens.report.says import (
    of_ablation_method,
    of_ceiling,
    of_comparison,
    of_completeness,
    of_faithfulness,
    of_fit_alpha,
    of_model_effect,
    of_out_of_distribution,
    of_output_function,
    of_sample_size,
)
from ablationlens.report.says_ablations import of_ablations, of_drift
from ablationlens.report.says_domains import of_domains, of_stability
from ablationlens.report.says_spd import of_ablation_experiment
from ablationlens.spd_experiment import AblationExperiment


def _pairs(one: Comparison) -> pd.DataFrame:
    """A row for each pair, with the measures side by side."""
    rows: dict[str, dict[str, Any]] = {}
    for record in one.table().to_dict("records"):
        a, b, measure = (str(record[key]) for key in ("a", "b", "measure"))
        row = rows.setdefault(f"{a}, another seed" if a == b else f"{a} and {b}", {})
        if measure == "spearman":
            row |= {"rank correlation": record["mean"], "low": record["low"], "high": record["high"]}
        elif measure == "cosine" or (measure.startswith("top_") and not measure.endswith("_signed")):
            row[measure if measure == "cosine" else f"overlap of top {measure.removeprefix('top_')}"] = record["mean"]
    return pd.DataFrame([{"pair": pair, **row} for pair, row in rows.items()])


def _table(one: Any) -> pd.DataFrame:
    return one.table()


def _drift_positions(one: Drift) -> go.Figure:
    """Where predictions drift under the mask under which they drift most."""
    kl = one.table()["kl"].to_numpy(dtype=float)
    return drift_positions(one, mask=int(np.nan_to_num(kl, nan=-1.0).argmax()))


def _drift_rows(one: Drift) -> pd.DataFrame:
    shown = ("mask", "kl", "kl_se", "reverse_kl", "js", "top1_changed", "log_probability_change", "rank_change")
    return pd.DataFrame(one.table()[list(shown)])


def _ablation_rows(one: AblationTable) -> pd.DataFrame:
    frame = one.frame
    shown = ("part", "components", "kl", "kl_se", "js", "top1_changed", "effect", "effect_se", "pattern", "pattern_at")
    return pd.DataFrame(frame[[name for name in shown if name in frame]])


def _pattern_change(one: AblationTable) -> go.Figure | None:
    return None if one.patterns is None else pattern_change(one)


def _experiment_rows(one: AblationExperiment) -> pd.DataFrame:
    shown = ("mode", "baseline", "ablation", "operation", "kl", "kl_se", "reverse_kl", "js", "top1_changed", "gap_kl")
    table = pd.DataFrame(one.table()[list(shown)])
    return table.assign(kl_se=pd.to_numeric(table["kl_se"]))  # None where there is one sample


def _domain_modules(one: Domains) -> go.Figure | None:
    """Mean weights by module, where there are several."""
    modules = {part.site.module for part in next(iter(one.attributions.values())).registry.parts}
    return domain_weights(one, "module") if len(modules) > 1 else None


def _least_alike(one: Domains) -> go.Figure | None:
    """The two domains that are least alike against each other, with the components that differ most."""
    several = [name for name in one.names if one.attributions[name].weights.sizes["example"] > 1]
    table = one.similarity().table()
    own = (table["domain"] != table["other"]) & table["domain"].isin(several) & table["other"].isin(several)
    pairs = pd.DataFrame(table[own]).dropna(subset=["similarity"]).sort_values("similarity", kind="stable")
    if pairs.empty:
        return None
    return domain_scatter(one, str(pairs["domain"].iloc[0]), str(pairs["other"].iloc[0]))


def _domain_held_out(one: Domains) -> go.Figure | None:
    return None if one.held_out is None else domain_held_out(one)


@dataclass(frozen=True)
class Kind:
    """How a kind of result is shown.

    Attributes:
        title: the question that it answers.
        draw: what draws it; each gives one figure, or None where a result has nothing for it.
        says: its finding, in a sentence or two.
        table: its table.
        wide: whether figure and table each need the width of the page.
        opens: what a click on a cell of its last figure opens, given the ids of that figure and of what is opened.
    """

    title: str
    draw: tuple[Callable[[Any], go.Figure | None], ...]
    says: Callable[[Any], str]
    table: Callable[[Any], pd.DataFrame] = _table
    wide: bool = False
    opens: Callable[[Any, str, str], Opened | None] | None = None

    def figures(self, one: Any) -> list[go.Figure]:
        drawn = (draw(one) for draw in self.draw)
        return [figure for figure in drawn if figure is not None]


KINDS: dict[type, Kind] = {
    FitAlpha: Kind("Does the alpha of the fit matter?", (fit_alpha,), of_fit_alpha),
    SampleSize: Kind("How many draws are enough?", (sample_size,), of_sample_size),
    ModelEffect: Kind("What does an ablation do to the model itself?", (model_effect,), of_model_effect),
    AblationMethod: Kind("Does it matter what stands in for a component?", (ablation_method,), of_ablation_method),
    OutputFunction: Kind("Does it matter what is measured?", (output_function,), of_output_function),
    OutOfDistribution: Kind("Does it work on other examples?", (out_of_distribution,), of_out_of_distribution),
    Comparison: Kind("Do the methods agree?", (agreement,), of_comparison, _pairs, wide=True),
    Ceiling: Kind("How far is it from what any number of draws could reach?", (ceiling,), of_ceiling, wide=True),
    Completeness: Kind("Do the weights add up?", (completeness,), of_completeness, wide=True),
    Faithfulness: Kind(
        "Do the most important components carry the output?",
        (faithfulness, deletion_insertion),
        of_faithfulness,
        wide=True,
    ),
    Drift: Kind("How do predictions change?", (drift, _drift_positions), of_drift, _drift_rows, wide=True),
    AblationTable: Kind(
        "What is lost without each part?",
        (ablations, _pattern_change),
        of_ablations,
        _ablation_rows,
        wide=True,
        opens=opened,
    ),
    Domains: Kind(
        "Do domains use the same parts?",
        (domain_similarity, domain_weights, _domain_modules, _least_alike, _domain_held_out),
        of_domains,
        wide=True,
    ),
    Stability: Kind(
        "Would it come back with other examples, or other masks?",
        (stability, stability_shares),
        of_stability,
        wide=True,
    ),
    AblationExperiment: Kind(
        "What do ablations do in each mode of the decomposition?",
        (ablation_experiment,),
        of_ablation_experiment,
        _experiment_rows,
        wide=True,
    ),
}

CALLS = (
    "al.studies, al.compare, al.ceiling, al.completeness, al.faithfulness, al.drift, al.ablation_table, al.domains, "
    "al.stability and al.spd.ablation_experiment"
)
"""What returns them, for messages."""


def known(one: Any) -> bool:
    """Whether a report can show it."""
    return type(one) in KINDS


def kind_of(one: Any) -> Kind:
    """How it is shown.

    Raises:
        InputError: if a report cannot show it.
    """
    if not known(one):
        raise InputError(f"a report shows what {CALLS} return; got {type(one).__name__}")
    return KINDS[type(one)]


def says_of(one: Any) -> str:
    """The finding of a result."""
    return kind_of(one).says(one)
