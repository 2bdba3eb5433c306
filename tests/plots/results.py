"""Results whose figures can be worked out by hand: no model is run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ablationlens.evaluate import Ceiling, Comparison, Completeness, Faithfulness, compare
from ablationlens.results import Attribution, attribution

NAMES = ("COAR", "leave-<b>one</b>-out")


def again(one: Attribution, noise: float, seed: int) -> Attribution:
    """The same attribution with noise."""
    weights = one.weights.values + noise * np.random.default_rng(seed).standard_normal(one.weights.shape)
    examples = [str(name) for name in one.weights["example"].values]
    return attribution(f"noise {noise}", weights, one.bias.values, one.registry, examples, provenance=one.provenance)


def comparison(one: Attribution, top: int = 3) -> Comparison:
    """Two attributions, the first with another seed."""
    return compare({NAMES[0]: one, NAMES[1]: again(one, 1.0, 1)}, top=top, ceiling={NAMES[0]: again(one, 0.2, 2)})


def curves(examples: int = 3, components: int = 20) -> Faithfulness:
    """F = sqrt(k/N) kept and 1 - sqrt(k/N) ablated, and straight lines for the other method and, nearly, by chance."""
    counts = np.array([0, 1, 4, 10, components])
    share = counts / components
    sizes = np.arange(1.0, examples + 1)
    best, line = (np.stack([values, 1 - values])[:, :, None] * sizes for values in (np.sqrt(share), share))
    chance = np.stack([line + bend * (share * (1 - share))[None, :, None] * sizes for bend in (-0.2, 0.0, 0.1)])
    return Faithfulness(
        methods=NAMES,
        counts=counts,
        examples=tuple(f"example {i}" for i in range(examples)),
        outputs=5 + np.stack([best, line]),
        random=5 + chance,
        full=5 + sizes,
        empty=np.full(examples, 5.0),
        provenance={"order": "signed", "ranking": "mean", "output": {"output": "Margin"}},
    )


def gaps(examples: int = 3) -> Completeness:
    """Gaps of 1, 2, 3 beside changes of 4, 8, 12: a quarter; the second method's are twice as large."""
    sizes = np.arange(1.0, examples + 1)
    tables = []
    for factor, name in enumerate(NAMES, start=1):
        columns = {
            "method": name,
            "example": [f"example {i}" for i in range(examples)],
            "change": 4 * sizes,
            "weights": (4 + factor) * sizes,
            "gap": factor * sizes,
            "relative": np.full(examples, factor / 4),
            "empty": np.zeros(examples),
            "bias": 0.5 * sizes,
            "bias_gap": 0.5 * sizes,
        }
        tables.append(pd.DataFrame(columns))
    return Completeness(pd.concat(tables, ignore_index=True), {"output": {"output": "Margin"}})


def ceilings() -> Ceiling:
    """Two methods at two alphas; the second has no ceiling at the second of them."""
    means = pd.DataFrame(
        {
            "method": [NAMES[0], NAMES[0], NAMES[1], NAMES[1]],
            "alpha": [0.1, 0.05, 0.1, 0.05],
            "pearson": [0.6, 0.7, 0.3, 0.4],
            "reliability": [0.8, 0.9, 0.2, 0.01],
            "ceiling": [0.7, 0.75, 0.65, np.nan],
            "low": [0.66, 0.71, 0.4, np.nan],
            "high": [0.74, 0.79, 1.1, np.nan],
            "undefined": [0, 0, 0, 3],
        }
    )
    frame = pd.DataFrame({"method": [NAMES[0]] * 3, "alpha": 0.1, "example": ["a", "b", "c"]})
    return Ceiling(frame, means, None, {})
