"""Results of a study of stability whose tables can be written down: no model is run."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ablationlens.diagnostics import Stability
from ablationlens.diagnostics.stability import AGREEMENTS, SHARES

NAN = float("nan")


def stable(values: Mapping[tuple[str, int], tuple[float, float, float]], half: int = 10) -> Stability:
    """(data, draws) -> shares in common, of the masks and of the examples; intervals are 0.04 below to 0.02 above."""
    rows = []
    for (data, draws), (common, masks, examples) in values.items():
        agreements = (common + masks, common, common + examples)
        shares = (common, masks, examples, 1 - common - masks - examples)
        for what, names, found in (("agreement", AGREEMENTS, agreements), ("share", SHARES, shares)):
            for name, value in zip(names, found, strict=True):
                row = {"what": what, "data": data, "draws": draws, "quantity": name, "value": value}
                ends = {"low": value - 0.04, "high": value + 0.02, "lowest": value - 0.01, "highest": value + 0.01}
                rows.append({**row, **ends, "examples": half})
    return Stability(pd.DataFrame(), pd.DataFrame(rows))
