"""What the diagnostics of a configuration do: each is the function of its name, and its file is read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablationlens.data import Batch
from ablationlens.diagnostics import AblationTable, Domains, Drift, Stability, ablation_table, domains, drift, stability
from ablationlens.diagnostics.given_masks import Masks
from ablationlens.diagnostics.parts import parts_of
from ablationlens.evaluate import Ceiling, Comparison, Completeness, Faithfulness, studies
from ablationlens.evaluate import ceiling as ceiling_of
from ablationlens.evaluate import compare as comparison_of
from ablationlens.evaluate import completeness as completeness_of
from ablationlens.evaluate import faithfulness as faithfulness_of
from ablationlens.masks.designs import random_design
from ablationlens.results import Attribution
from ablationlens.runs import diagnostic_configs as configs
from ablationlens.runs.diagnostic_configs import DiagnosticConfig
from ablationlens.runs.diagnostic_plans import METHODS, Subject, by_of
from ablationlens.runs.finished import Finding, identity_of

Attributions = Mapping[str, Attribution]

LOADS: Mapping[str, Callable[[Path], Finding]] = {
    "drift": Drift.load,
    "ablation_table": AblationTable.load,
    "domains": Domains.load,
    "stability": Stability.load,
    "ceiling": Ceiling.load,
    "compare": Comparison.load,
    "completeness": Completeness.load,
    "faithfulness": Faithfulness.load,
    "fit_alpha": studies.FitAlpha.load,
    "sample_size": studies.SampleSize.load,
    "model_effect": studies.ModelEffect.load,
    "ablation_method": studies.AblationMethod.load,
    "output_function": studies.OutputFunction.load,
    "out_of_distribution": studies.OutOfDistribution.load,
}
"""What reads the file of each."""


def load(one: DiagnosticConfig, path: Path) -> Finding:
    """Read what a diagnostic has kept.

    Raises:
        StoreError: if there is no such file, it is damaged, or it holds something else.
    """
    return LOADS[one.choice[0]](path)


def asked(one: DiagnosticConfig, subject: Subject) -> dict[str, Any]:
    """Everything that decides the result, JSON-able: its options, model, data and, where it is about them, methods."""
    said: dict[str, Any] = {**one.asked(), **identity_of(subject.model, subject.data)}
    if one.options.seeded:
        said["seed"] = subject.seed
    if one.options.of_attributions or (one.drift is not None and one.drift.top is not None):
        said["methods"] = {method.name: method.asked(subject.seed) for method in subject.methods}
    if one.ceiling is not None:
        said["alphas"] = list(one.ceiling.alphas or subject.alphas)
    sets = {name: {"examples": len(batch), "fingerprint": batch.fingerprint()} for name, batch in subject.sets.items()}
    own = {name: part.describe() for name, part in (subject.ablations or {}).items()}
    for key, each in (("sets", sets), ("ablations", own)):
        if each:
            said |= {key: each, f"order of {key}": list(each)}
    return said


def run_diagnostic(
    one: DiagnosticConfig, subject: Subject, attributions: Attributions, again: Callable[[], Attributions]
) -> Finding:
    """Ask one diagnostic.

    Args:
        one: with its alpha.
        subject: what it is asked of.
        attributions: of the run.
        again: makes those of the next seed, of the methods with random masks.

    Raises:
        InputError: if it does not fit the components or the data.
    """
    model, data, seed, sets = subject.model, subject.data, subject.seed, dict(subject.sets)
    match one.options:
        case configs.DriftConfig() as options:
            return drift(model, data, _masks(options, subject, attributions))
        case configs.AblationTableConfig(by=by, patterns=patterns, attention=attention, scored_only=scored_only):
            return ablation_table(
                model, data, by=by_of(by), patterns=patterns, attention=attention, scored_only=scored_only
            )
        case configs.DomainsConfig(alpha=float(alpha), method=method, draws=draws, held_out=held_out):
            return domains(model, sets, alpha=alpha, method=METHODS[method], draws=draws, held_out=held_out, seed=seed)
        case configs.StabilityConfig(alpha=float(alpha), method=method) as options:
            return stability(
                model,
                sets or data,
                alpha=alpha,
                method=METHODS[method],
                draws=options.draws,
                times=options.times,
                seeds=options.seeds,
                kind=options.kind,
                seed=seed,
            )
        case configs.CeilingConfig(alphas=alphas, draws=draws):
            shares = alphas or list(subject.alphas)
            return ceiling_of(model, data, attributions, again=again(), alphas=shares, draws=draws, seed=seed)
        case configs.CompareConfig(top=top, ceiling=with_ceiling):
            return comparison_of(attributions, top=top, ceiling=again() if with_ceiling else None)
        case configs.CompletenessConfig():
            return completeness_of(model, data, attributions)
        case configs.FaithfulnessConfig(counts=counts, order=order, ranking=ranking, random_orders=orders):
            return faithfulness_of(
                model,
                data,
                attributions,
                counts=counts,
                order=order,
                ranking=ranking,
                random_orders=orders,
                seed=seed,
            )
        case _:
            return _study(one, subject, sets)


def _study(one: DiagnosticConfig, subject: Subject, sets: Mapping[str, Batch]) -> Finding:
    """One of `al.studies`."""
    model, data = subject.model, subject.data
    name, options = one.choice
    settings: dict[str, Any] = {"seed": subject.seed}
    for key in ("alpha", "alphas", "fit_alphas", "fit_draws", "draws"):
        if getattr(options, key, None) is not None:
            settings[key] = getattr(options, key)
    if hasattr(options, "method"):
        settings["method"] = METHODS[options.method]
    match name:
        case "fit_alpha":
            return studies.fit_alpha(model, data, **settings)
        case "sample_size":
            return studies.sample_size(model, data, **settings)
        case "model_effect":
            return studies.model_effect(model, data, **settings)
        case "ablation_method":
            return studies.ablation_method(model, data, ablations=subject.ablations, **settings)
        case "output_function":
            return studies.output_function(model, data, outputs=subject.outputs, **settings)
        case "out_of_distribution":
            return studies.out_of_distribution(model, sets, **settings)
        case _:
            raise AssertionError(f"no study is run for {name}")


def _masks(options: configs.DriftConfig, subject: Subject, attributions: Attributions) -> Masks:
    """The masks of drift."""
    registry = subject.model.registry
    if options.alpha is not None and options.draws is not None:
        return random_design("bernoulli", len(registry), options.alpha, options.draws, subject.seed)
    if options.without is not None:
        return dict(options.without)
    if options.top is not None:
        first = next(iter(attributions.values()))
        sizes = np.abs(np.where(np.isfinite(first.weights.values), first.weights.values, 0).mean(axis=0))
        names = np.asarray(first.components)[np.argsort(-sizes, kind="stable")[: options.top]]
        return {str(name): [str(name)] for name in names}
    parts = parts_of(registry, by_of(options.by))
    return dict(zip(parts.frame["part"], (columns.tolist() for columns in parts.columns), strict=True))
