"""What drift and a table of ablations say, in a sentence or two computed from their tables."""

from __future__ import annotations

import math
from typing import Any

from ablationlens.diagnostics import AblationTable, Drift
from ablationlens.plots.labels import counted, fixed, output_name, percent


def of_drift(one: Drift) -> str:
    """Under which mask predictions drift most, and where they changed."""
    rows = [row for row in _rows(one.table()) if math.isfinite(row["kl"])]
    if not rows:
        return "No drift is defined: no prediction is finite."
    most, least = (pick(rows, key=lambda row: row["kl"]) for pick in (max, min))
    text = (
        f"Predictions drift most under {most['mask']}: by {_mean(most, 'kl')} nats (KL), and "
        f"{percent(round(most['top1_changed'], 3))} of them change"
    )
    text += f"; least under {least['mask']}, by {_mean(least, 'kl')}." if len(rows) > 1 else "."
    changed = one.changed(1)
    if len(changed):
        row = _rows(changed)[0]
        text += (
            f" The largest change is in {row['example']} after \u201c{_shown(row['token'])}\u201d: from "
            f"\u201c{_shown(row['before'])}\u201d to \u201c{_shown(row['after'])}\u201d."
        )
    return text


def of_ablations(one: AblationTable) -> str:
    """Which part is missed most, and which pattern changes most."""
    rows = [row for row in _rows(one.frame) if math.isfinite(row["kl"])]
    if not rows:
        return "No drift is defined: no prediction is finite."
    most = max(rows, key=lambda row: row["kl"])
    unit = output_name(one.provenance)
    text = (
        f"Of {counted(len(rows), 'part')}, {most['part']} is missed most: without it predictions drift by "
        f"{_mean(most, 'kl')} nats (KL) and the {unit} loses {_mean(most, 'effect')}."
    )
    helped = max(rows, key=lambda row: abs(row["effect"]))
    if helped["part"] != most["part"]:
        word = "loses" if helped["effect"] >= 0 else "gains"
        text += f" The {unit} changes most without {helped['part']}: it {word} {fixed(abs(helped['effect']), 3)}."
    changed = [row for row in rows if math.isfinite(row.get("pattern", math.nan))]
    if changed:
        largest = max(changed, key=lambda row: row["pattern"])
        text += (
            f" The pattern that changes most is that of {largest['pattern_at']} without {largest['part']}: "
            f"{percent(round(largest['pattern'], 3))} of its attention moves."
        )
    return text


def _rows(table: Any) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _mean(row: dict[str, Any], name: str) -> str:
    error = row[f"{name}_se"]
    return fixed(row[name], 3) + (f" \u00b1 {fixed(error, 3)}" if math.isfinite(error) else "")


def _shown(token: Any) -> str:
    return str(token).replace("\n", "\u23ce").replace("\t", "\u21e5")
