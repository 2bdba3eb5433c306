"""What a study says, in a sentence or two computed from its table; what is undefined is said to be."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablationlens.evaluate import Ceiling, Comparison, Completeness, Faithfulness
from ablationlens.evaluate.studies import (
    AblationMethod,
    FitAlpha,
    ModelEffect,
    OutOfDistribution,
    OutputFunction,
    SampleSize,
)
from ablationlens.plots.labels import counted, fixed, output_name, percent

CLOSE = 0.01
"""Correlations nearer than this are called the same."""
FOLLOWS = 0.9
"""Correlation from which the ablated model is said to follow the whole one."""
FEW = 5
"""Examples below which a bootstrap interval is too narrow to be believed."""


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _defined(rows: list[dict[str, Any]], column: str = "pearson") -> list[dict[str, Any]]:
    return [row for row in rows if math.isfinite(row[column])]


UNDEFINED = "No correlation is defined: outputs or predictions do not vary between ablations."


def of_fit_alpha(one: FitAlpha) -> str:
    rows = _defined(_rows(one.table()))
    if not rows:
        return UNDEFINED
    own = {row["alpha"]: row["pearson"] for row in rows if row["alpha"] == row["fit_alpha"]}
    if not own:
        best = max(rows, key=lambda row: row["pearson"])
        return (
            f"The highest correlation is {fixed(best['pearson'])}, fitted at {percent(best['fit_alpha'])} and tested "
            f"at {percent(best['alpha'])}; none was tested where it was fitted."
        )
    where = _joined([f"{fixed(value)} at {percent(alpha)}" for alpha, value in sorted(own.items())])
    text = f"Fitted and tested at the same alpha, the mean correlation is {where}."
    elsewhere = [(own[row["alpha"]] - row["pearson"], row) for row in rows if row["alpha"] in own]
    loss, row = max(elsewhere, key=lambda pair: pair[0])
    if len(elsewhere) == len(own):
        return text
    lowest, better = min(elsewhere, key=lambda pair: pair[0])
    if loss < CLOSE and -lowest < CLOSE:
        return f"{text} Fitting at another alpha changes it by less than {CLOSE}: the choice hardly matters here."
    sentences = [text]
    if loss >= CLOSE:
        sentences.append(f"Fitting elsewhere costs up to {fixed(loss)}: most where it was {_where(row)}.")
    if -lowest >= CLOSE:
        sentences.append(f"Fitting elsewhere gains up to {fixed(-lowest)}: most where it was {_where(better)}.")
    return " ".join(sentences)


def _where(row: dict[str, Any]) -> str:
    return f"fitted at {percent(row['fit_alpha'])} and tested at {percent(row['alpha'])}"


def of_sample_size(one: SampleSize) -> str:
    rows = _rows(one.table())
    full, defined = rows[-1], _defined(rows)
    if not defined:
        return UNDEFINED
    best = defined[-1]
    enough = next(row for row in defined if row["pearson"] >= best["pearson"] - CLOSE)
    text = f"With {counted(best['fit_draws'], 'draw')} the mean correlation is {fixed(best['pearson'])}"
    if enough["fit_draws"] < best["fit_draws"]:
        text += f"; {enough['fit_draws']:,} draws already come within {CLOSE} of it."
    else:
        before = defined[-2] if len(defined) > 1 else None
        text += "." if before is None else f", {fixed(best['pearson'] - before['pearson'])} more than with "
        text += "" if before is None else f"{before['fit_draws']:,}: more draws would raise it further."
    if math.isfinite(full["cosine"]):
        text += (
            f" Two independent attributions of {counted(full['fit_draws'], 'draw')} have a cosine of "
            f"{fixed(full['cosine'], 3)}."
        )
    return text


def of_model_effect(study: ModelEffect) -> str:
    rows = _rows(study.table())
    whole, *ablated = sorted(rows, key=lambda row: row["alpha"])
    examples = len(set(study.frame["example"]))
    unit = output_name(study.provenance)
    sentences: list[str] = []
    defined = _defined(ablated)
    if not defined:
        which = "1 example is too few" if examples == 1 else f"{examples:,} examples are too few, or too alike,"
        sentences.append(f"{which} for a correlation across them.")
    else:
        last = _follows_to(defined)
        follows = f"the {unit} under ablation follows that of the whole model across {counted(examples, 'example')}"
        if last is not None:
            text = f"Up to {percent(last['alpha'])} ablated, {follows} (correlation {fixed(last['pearson'])})"
        else:
            first = defined[0]
            text = f"Not even with {percent(first['alpha'])} ablated {follows} (correlation {fixed(first['pearson'])})"
        worst = defined[-1]
        more = f"; with {percent(worst['alpha'])} ablated the correlation is {fixed(worst['pearson'])}"
        sentences.append(f"{text}{'' if worst is (last or defined[0]) else more}.")
    if math.isfinite(whole["accuracy"]):
        named = [row for row in ablated if row is ablated[-1] or (defined and row is _follows_to(defined))]
        falls = _joined([f"{fixed(row['accuracy'])} with {percent(row['alpha'])} ablated" for row in named])
        sentences.append(f"The accuracy goes from {fixed(whole['accuracy'])} for the whole model to {falls}.")
    return " ".join(sentences)


def _follows_to(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The largest ablation under which outputs follow those of the whole model, if there is one."""
    return next((row for row in reversed(rows) if row["pearson"] >= FOLLOWS), None)


def of_ablation_method(one: AblationMethod) -> str:
    rows = _defined(_rows(one.table()))
    if not rows:
        return UNDEFINED
    own = [f"{fixed(row['pearson'])} under {row['tested']}" for row in rows if row["fitted"] == row["tested"]]
    text = f"Tested under the ablation that it was fitted under, the mean correlation is {_joined(own)}." if own else ""
    crossed = [row for row in rows if row["fitted"] != row["tested"]]
    if crossed:
        worst = min(crossed, key=lambda row: row["pearson"])
        cosines = [row["cosine"] for row in crossed if math.isfinite(row["cosine"])]
        text += (
            f" Carried over to another ablation it is {fixed(worst['pearson'])} at least (fitted under "
            f"{worst['fitted']}, tested under {worst['tested']}, where its slope is {fixed(worst['slope'])})"
        )
        text += f"; the weights have a cosine of {fixed(min(cosines))}" if cosines else ""
        text += " or more." if len(cosines) > 2 else "."
    return text.strip()


def of_output_function(one: OutputFunction) -> str:
    rows = _rows(one.table())
    defined = sorted(_defined(rows), key=lambda row: -row["pearson"])
    if not defined:
        return UNDEFINED
    listed = _joined([f"{fixed(row['pearson'])} for the {row['output']}" for row in defined])
    text = f"The mean correlation is {listed}, each tested on its own output."
    first, others = rows[0], [row for row in rows[1:] if math.isfinite(row["cosine"])]
    if others:
        cosines = _joined([f"{fixed(row['cosine'])} ({row['output']})" for row in others])
        text += f" The weights of the others have a cosine to those of the {first['output']} of {cosines}."
    return text + _undefined([f"for the {row['output']}" for row in rows if not math.isfinite(row["pearson"])])


def of_out_of_distribution(one: OutOfDistribution) -> str:
    rows = _rows(one.table())
    if not _defined(rows):
        return UNDEFINED
    first, others = rows[0], _defined(rows[1:])
    text = f"On {first['domain']} the mean correlation is {fixed(first['pearson'])}"
    if others:
        low, high = (pick(others, key=lambda row: row["pearson"]) for pick in (min, max))
        text += f", on other domains {fixed(low['pearson'])} ({low['domain']})"
        text += f" to {fixed(high['pearson'])} ({high['domain']})" if len(others) > 1 else ""
    smallest = min(row["examples"] for row in rows)
    if smallest < FEW:
        text += f"; an interval of {counted(smallest, 'example')} is too narrow to be relied on"
    missing = [f"on {row['domain']}" for row in rows[1:] if not math.isfinite(row["pearson"])]
    return f"{text}.{_undefined(missing)}"


def _undefined(places: list[str]) -> str:
    """A sentence for what a list of correlations has to leave out."""
    return f" It is undefined {_joined(places)}." if places else ""


def of_comparison(one: Comparison) -> str:
    rows = _rows(one.table("spearman"))
    pairs = _defined([row for row in rows if row["a"] != row["b"]], "mean")
    text = ""
    if pairs:
        best, worst = (pick(pairs, key=lambda row: row["mean"]) for pick in (max, min))
        text = f"By rank correlation {best['a']} and {best['b']} agree most ({fixed(best['mean'])})"
        text += "" if len(pairs) < 2 else f", {worst['a']} and {worst['b']} least ({fixed(worst['mean'])})"
        text += "."
    again = _defined([row for row in rows if row["a"] == row["b"]], "mean")
    if again:
        seeds = _joined([f"{fixed(row['mean'])} ({row['a']})" for row in again])
        text += (
            f" With another seed of itself a method agrees at {seeds}; two methods can be expected to agree at most "
        )
        text += "at about the geometric mean of theirs."
    differ = one.provenance.get("differ") or []
    text += f" They differ in their {' and '.join(differ)}." if differ else ""
    return text.strip() or "No rank correlation is defined: weights do not vary."


def of_ceiling(one: Ceiling) -> str:
    rows = _rows(one.table())
    defined = _defined(rows, "ceiling")
    if not defined:
        return "No ceiling is defined: two seeds agree no better than chance."
    listed = _joined(
        [
            f"{row['method']} reaches {fixed(row['pearson'])} of at most {fixed(row['ceiling'])}"
            f" ({percent(row['alpha'])} ablated)"
            for row in defined
        ]
    )
    short = max(defined, key=lambda row: row["ceiling"] - row["pearson"])
    more = max(short["ceiling"] - short["pearson"], 0.0)
    return f"{listed[0].upper()}{listed[1:]}. More draws could bring {short['method']} about {fixed(more)}."


def of_completeness(one: Completeness) -> str:
    rows = _rows(one.table())
    defined = sorted(_defined(rows, "gap"), key=lambda row: row["gap"])
    if not defined:
        return "No gap is defined: outputs are not finite."
    parts = [
        f"{percent(row['relative'])} for {row['method']}"
        if math.isfinite(row["relative"])
        else f"{row['gap']:.2g} for {row['method']}"
        for row in defined
    ]
    of = " of the latter" if math.isfinite(defined[0]["relative"]) else ""
    return (
        f"Between the sum of the weights and what all components do together there is a gap of {_joined(parts)}{of}. "
        "Where it is large, weights are no shares of a whole."
    )


def of_faithfulness(one: Faithfulness) -> str:
    rows = _rows(one.table())
    cpr = sorted(_defined([row for row in rows if row["measure"] == "cpr"], "value"), key=lambda row: -row["value"])
    if not cpr:
        return "Faithfulness is undefined: the output is the same with everything kept and everything ablated."
    listed = _joined([f"{fixed(row['value'])} ({row['method']})" for row in cpr])
    text = f"Keeping the most important components first gives an area (CPR) of {listed}"
    if math.isfinite(cpr[0]["random"]):
        text += f"; random orders {fixed(cpr[0]['random_low'])} to {fixed(cpr[0]['random_high'])}"
    return text + "."


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
