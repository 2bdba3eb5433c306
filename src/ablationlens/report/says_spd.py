"""What an ablation experiment says, in a few sentences computed from its tables."""

from __future__ import annotations

from typing import Any

from ablationlens.plots.labels import fixed, percent
from ablationlens.spd_experiment import AblationExperiment


def of_ablation_experiment(one: AblationExperiment) -> str:
    """What is missed most in each mode, and in which modes the gap to the target is larger than that."""
    rows = [{str(key): value for key, value in row.items()} for row in one.table().to_dict("records")]
    most = [_largest([row for row in rows if row["mode"] == mode]) for mode in one.modes]
    known = [row for row in most if row is not None]
    if not known:
        return "Nothing was ablated."
    same = {row["ablation"] for row in known}
    said = [f"{_effect(row)} in {row['mode']}" for row in known]
    if len(same) == 1:
        text = f"Predictions change most without {known[0]['ablation']}: by {_joined(said)} (KL, nats)."
    else:
        each = [f"without {row['ablation']} in {row['mode']}, by {_effect(row)}" for row in known]
        text = f"What predictions change most without differs: {_joined(each)} (KL, nats)."
    far = [row for row in known if row["gap_kl"] > row["kl"]]
    if far:
        gaps = [f"{fixed(row['gap_kl'], 3)} in {row['mode']}" for row in far]
        text += (
            f" The model in the mode itself is further from the target than that: {_joined(gaps)}, where "
            f"{_joined([percent(round(row['gap_top1_changed'], 3)) for row in far])} of the predictions differ before "
            "anything is ablated."
        )
    return text


def _largest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the largest effect of an ablation."""
    ablated = [row for row in rows if row["operation"] == "ablate" and row["kl"] > 0]
    return max(ablated, key=lambda row: row["kl"], default=None)


def _effect(row: dict[str, Any]) -> str:
    error = row["kl_se"]
    return fixed(row["kl"], 3) + ("" if error is None else f" \u00b1 {fixed(error, 3)}")


def _joined(words: list[str]) -> str:
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
