"""How far to trust an attribution: findings in plain words, generated from the numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ablationlens.plots.labels import counted, percent
from ablationlens.report.facts import Tested, design_of, fitted_alpha, found, tested
from ablationlens.report.finding import Finding, Level
from ablationlens.report.made import made
from ablationlens.report.sections import Section
from ablationlens.results import Attribution

ROUNDING = 1e-5
"""Share of the output below which a gap is rounding."""

GENERAL = (
    "A correlation says how well a sum of weights predicts what the model does when a random set of parts is gone. "
    "Its square is the share of the variation between ablations that the sum accounts for; the rest is parts acting "
    "together, or noise of the fit. A low one does not say that the parts are unimportant: it says that their effects "
    "do not add up, or that more draws are needed, and that single weights should not be read closely. All of it holds "
    "for these examples, this ablation and this ablated fraction, and may be otherwise elsewhere."
)


def trust(section: Section, method: str) -> list[Finding]:
    """Findings on one attribution of a section, reasons for care first."""
    attribution = section.attributions[method]
    findings = [
        *_correlation(section, method, attribution),
        *_held_out(section),
        *made(attribution),
        *_completeness(attribution),
        *_examples(attribution),
    ]
    order: list[Level] = ["caution", "note", "good"]
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _correlation(section: Section, method: str, attribution: Attribution) -> Iterator[Finding]:
    results = tested(section.scores, method)
    if not results:
        yield Finding("caution", "It was not tested on held-out ablations: nothing here says that it predicts them.")
        return
    alpha = fitted_alpha(attribution)
    here = [each for each in results if alpha is not None and math.isclose(each.alpha, alpha)]
    elsewhere = [each for each in results if each not in here]
    for each in here:
        yield Finding(_level(each), f"Held-out correlation {each}, the fraction that it was made for: {_verdict(each)}")
    if alpha is None:
        best = max(elsewhere, key=lambda each: each.pearson if math.isfinite(each.pearson) else -math.inf)
        yield Finding(
            _level(best),
            "It was not made from random ablations, so no ablated fraction is its own. Held-out correlation "
            f"{_series(elsewhere)}. At its best: {_verdict(best)}",
        )
    elif elsewhere and here:
        drop = here[0].pearson - min(each.pearson for each in elsewhere)
        text = f"At fractions that it was not made for: {_series(elsewhere)}."
        far = drop > 0.1
        yield Finding("note" if far else "good", text + (" It does not carry over everywhere." if far else ""))
    elif elsewhere:
        yield Finding(
            "caution",
            f"It was made for {percent(alpha)} ablated and tested only elsewhere: correlation {_series(elsewhere)}.",
        )
    undefined = max(each.undefined for each in results)
    if undefined:
        yield Finding(
            "caution",
            f"{undefined:,} of {counted(results[0].examples, 'example')} had no correlation, because the true or the "
            "predicted output did not vary between ablations; the mean leaves them out.",
        )


def _held_out(section: Section) -> Iterator[Finding]:
    if section.scores is None:
        return
    draws = section.scores.draws
    shared = {alpha: count for alpha, count in section.scores.overlap.items() if count}
    unknown = [name for name, attribution in section.attributions.items() if design_of(attribution) == "captum"]
    if shared:
        counts = ", ".join(f"{count:,} of {draws:,} at {percent(alpha)}" for alpha, count in shared.items())
        yield Finding(
            "caution",
            f"Some test masks were also drawn for fitting ({counts}), because with so few components most of what is "
            "drawn was drawn before: the correlation there may be too high, the less so the more draws the fit had.",
        )
    elif unknown:
        yield Finding(
            "note",
            f"Captum draws the masks of {', '.join(unknown)} and does not keep them: whether they are among the "
            f"{draws:,} test masks for each fraction is not known.",
        )
    else:
        yield Finding("good", f"None of the {draws:,} test masks for each fraction was used for fitting.")


def _completeness(attribution: Attribution) -> Iterator[Finding]:
    """Whether bias plus weights is the output of the whole model."""
    recorded = found(attribution.provenance, "full_output")
    if recorded is None:
        return
    full = np.asarray(recorded, dtype=float)
    gaps = np.abs(attribution.bias.to_numpy() + attribution.weights.sum("component").to_numpy() - full)
    if not np.isfinite(gaps).any():
        return
    worst, usual = float(np.nanmax(gaps)), float(np.nanmean(np.abs(full)))
    recorded = attribution.provenance.get("completeness_gap")
    if recorded is not None:
        missed = float(np.nanmax(np.abs(np.asarray(recorded, dtype=float))))
        yield Finding(
            "good" if missed <= 0.01 * max(usual, 1e-12) else "note",
            f"The method is complete: its weights sum to f(all) \u2212 f(none) up to {missed:.2g}.",
        )
    if worst <= ROUNDING * max(usual, 1e-12):
        yield Finding(
            "good",
            "With every part kept, bias plus weights are the model's own output: by construction, so no evidence.",
        )
        return
    large = worst > 0.1 * usual
    yield Finding(
        "note" if large else "good",
        f"With every part kept, bias plus weights miss the model's own output by at most {worst:.2g} (its mean size is "
        f"{usual:.2g})" + (": a sum fitted far from the whole model need not pass through it." if large else "."),
    )


def _examples(attribution: Attribution) -> Iterator[Finding]:
    """Whether a mean over examples stands for the examples."""
    weights = attribution.weights.transpose("example", "component").to_numpy()
    weights = weights[np.isfinite(weights).all(axis=1)]
    if len(weights) < 2:
        yield Finding("note", "There is only one example with weights: nothing says that others look alike.")
        return
    mean = weights.mean(axis=0)
    strongest = np.argsort(-np.abs(mean), kind="stable")[:10]
    mixed = [column for column in strongest if np.mean(np.sign(weights[:, column]) == np.sign(mean[column])) < 0.75]
    kept = len(strongest) - len(mixed)
    level: Level = "good" if not mixed else "note" if kept >= len(strongest) / 2 else "caution"
    yield Finding(
        level,
        f"Of the {len(strongest)} strongest components, {kept} have the same sign in at least three quarters of the "
        f"{len(weights):,} examples.",
    )


def _level(each: Tested) -> Level:
    if not math.isfinite(each.pearson) or each.pearson < 0.4 or each.low <= 0:
        return "caution"
    return "good" if each.pearson >= 0.7 else "note"


def _verdict(each: Tested) -> str:
    r = each.pearson
    if not math.isfinite(r):
        return "it is undefined for every example."
    if each.low <= 0:
        return "the interval holds 0, so it cannot be told from no prediction at all."
    share = f"a sum of weights accounts for about {percent(round(r * r, 2))} of the variation between ablations"
    if r >= 0.9:
        return f"{share}; it may be read as a close description."
    if r >= 0.7:
        return f"{share}; strong components can be read one by one, weak ones in groups."
    if r >= 0.4:
        return f"{share}; read groups of components rather than single ones."
    return f"{share}; do not read single weights."


def _series(results: list[Tested]) -> str:
    return ", ".join(str(each) for each in results)
