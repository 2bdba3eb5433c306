"""What a run will do and did, in a few lines for the screen: what it costs, what it found, how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ablationlens.plots.labels import percent
from ablationlens.report.catalogue import says_of
from ablationlens.results import Attribution
from ablationlens.runs import diagnostic_plans
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.runs.methods import passes
from ablationlens.runs.running import Prepared, Results


def planned(prepared: Prepared) -> Iterator[str]:
    """Lines on what every diagnostic of a run will cost at most."""
    for one in prepared.config.diagnostics.values():
        rows = diagnostic_plans.rows(one, prepared.subjects[one.name])
        cost = f"{rows:,} forward rows, a gradient counted as three" if rows else "no forward passes"
        yield f"diagnose {one.name}: {cost}"


def told(prepared: Prepared, results: Results) -> Iterator[str]:
    """Lines on every method and every diagnostic of a run."""
    scores = results.scores.table().to_dict("records")
    for method in prepared.config.method:
        attribution = results.attributions[method.name]
        yield f"{method.name}: {_done(method, attribution, len(prepared.model.registry))}"
        for row in scores:
            if row["method"] == method.name and row["alpha"] == method.alpha:
                yield f"  {_trust(row)}"
    for name, found in results.diagnostics.items():
        yield f"{name}: {says_of(found)}"


def _done(method: MethodConfig, attribution: Attribution, components: int) -> str:
    """What was computed, and at what cost."""
    made = attribution.provenance
    if method.attribute is None:
        cost = passes(method, components)
        return f"{made.get('seconds', 0):,.0f} s" if cost is None else f"{cost:,} forward passes of the data"
    text = f"{made['chosen']}, {made['spent']:,} of at most {made['budget']:,} forward passes of the data"
    loss = made["expected_loss"]
    if made["stopped_early"]:
        return f"{text}; stopped early, because all further draws would gain about {loss:.3f} of correlation"
    return f"{text}; sampling noise costs it about {loss:.3f} of correlation"


def _trust(row: Mapping[Any, Any]) -> str:
    """How well it predicts what it was fitted to predict."""
    r, at = float(row["pearson"]), f"with {percent(row['alpha'])} of the components ablated"
    if not math.isfinite(r):
        return f"held-out correlation undefined {at}: the true or the predicted outputs do not vary"
    interval = f"95% interval {row['low']:.2f} to {row['high']:.2f}"
    if row["low"] <= 0:
        return f"held-out correlation {r:.2f} ({interval}) {at}: no better than no prediction at all"
    return (
        f"held-out correlation {r:.2f} ({interval}) {at}: a sum of its weights accounts for about {r * r:.0%} of the "
        "variation between such ablations"
    )
