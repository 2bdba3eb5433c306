"""What studies of domains and of stability say, in a sentence or two computed from their tables."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablationlens.diagnostics import Domains, Stability
from ablationlens.diagnostics.stability import AGREEMENTS, SHARES
from ablationlens.plots.labels import counted, fixed, percent

COMMON, MASKS, EXAMPLES, _ = SHARES
SURE = 0.9
"""Agreement from which a mean attribution is said to come back."""


def of_domains(one: Domains) -> str:
    """The most and the least similar pair of domains, and whether they differ by more than samples of one would."""
    rows = _rows(one.similarity().table())
    pairs = [row for row in rows if row["domain"] != row["other"] and math.isfinite(row["similarity"])]
    if not pairs:
        return "No similarity is defined: mean attributions do not vary between components."
    best, worst = (pick(pairs, key=lambda row: row["similarity"]) for pick in (max, min))
    text = f"The mean attributions of {_pair(best)} are most alike, with a correlation of {_value(best)}"
    text = (
        f"The mean attributions of {_pair(best)} have a correlation of {_value(best)}."
        if len(pairs) == 1
        else f"{text}; those of {_pair(worst)} least, with {_value(worst)}."
    )
    own = [row for row in rows if row["domain"] == row["other"] and math.isfinite(row["similarity"])]
    known = [row for row in pairs if math.isfinite(row["corrected_high"])]
    if not own or not known:
        return f"{text} How far samples of one domain agree is not known, so that nothing follows from it."
    low, high = (pick(own, key=lambda row: row["similarity"]) for pick in (min, max))
    alike = f"{fixed(low['similarity'])} ({low['domain']})"
    alike += f" to {fixed(high['similarity'])} ({high['domain']})" if len(own) > 1 else ""
    text += f" Two samples of one domain would agree at {alike}"
    below = [row for row in known if row["corrected_high"] < 1]
    if not below:
        return f"{text}: no pair is less alike than the noise of examples explains."
    if len(known) == 1:
        return f"{text}: the two are less alike than the noise of examples explains."
    many = "all" if len(below) == len(known) else f"{len(below):,} of"
    return f"{text}: {many} {len(known):,} pairs are less alike than the noise of examples explains."


def of_stability(one: Stability) -> str:
    """How far halves of the examples agree under masks of their own, and what would raise it, at the most draws."""
    table, shares = one.table(), one.shares()
    agreements = {row["data"]: row for row in _last(table, "comparison", AGREEMENTS[1])}
    defined = {name: row for name, row in agreements.items() if math.isfinite(row["value"])}
    if not defined:
        return "No agreement is defined: mean attributions do not come back at all."
    first = next(iter(defined.values()))
    several = len(agreements) > 1
    parts = [_value(row, "value") + (f" for {name}" if several else "") for name, row in defined.items()]
    text = (
        f"With {counted(int(first['draws']), 'draw')}, mean attributions of two halves of the examples, each with "
        f"masks of its own, agree at {_joined(parts)}."
    )
    by_source = {
        source: {row["data"]: float(row["value"]) for row in _last(shares, "source", source)} for source in SHARES
    }
    sentences: list[str] = []
    enough = [name for name, row in defined.items() if row["value"] >= SURE]
    for what, other, helps in ((EXAMPLES, MASKS, "more examples"), (MASKS, EXAMPLES, "more draws")):
        here = [name for name in defined if name not in enough and by_source[what][name] > by_source[other][name]]
        if here:
            values = _joined([f"{_share(by_source[what][name])}" for name in here])
            others = _joined([f"{_share(by_source[other][name])}" for name in here])
            where = f" for {_joined(here)}" if several else ""
            sentences.append(
                f"What does not come back goes mostly with the {what}{where} ({values} of the variance, against "
                f"{others} with the {other}): {helps} would help."
            )
    missing = [name for name in agreements if name not in defined]
    sentences += [f"It is undefined for {_joined(missing)}."] if missing else []
    return " ".join([text, *sentences])


def _last(table: pd.DataFrame, column: str, value: str) -> list[dict[str, Any]]:
    """The rows with this value and the most draws."""
    return _rows(pd.DataFrame(table[(table[column] == value) & (table["draws"] == table["draws"].max())]))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _pair(row: dict[str, Any]) -> str:
    return f"{row['domain']} and {row['other']}"


def _value(row: dict[str, Any], column: str = "similarity") -> str:
    text = fixed(row[column])
    return f"{text} ({fixed(row['low'])} to {fixed(row['high'])})" if math.isfinite(row["low"]) else text


def _share(value: float) -> str:
    return percent(max(round(value, 2), 0.0))


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
