"""Small attributions whose figures can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ablationlens.evaluate import Scores
from ablationlens.kinds import sites_of
from ablationlens.layout import Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.results import Attribution, attribution

EXAMPLES = ["<b>first</b> example", "second", "third"]


def layout() -> Layout:
    modules = [Module(layer, name, 4, 4) for layer in range(3) for name in ("attn.q", "attn.o", "mlp.in")]
    return Layout(tuple(modules), tuple(Heads(layer, 2, 2) for layer in range(3)))


def made(kinds: list[str], seed: int = 0) -> Attribution:
    sites = [site for kind in kinds for site in sites_of(layout(), kind, layers=None, modules=None, size=None)]
    registry = Registry([(site, None) for site in sites], allow_overlap=True)
    random = np.random.default_rng(seed)
    weights = random.normal(size=(len(EXAMPLES), len(registry)))
    provenance = {"method": "COAR", "alpha": 0.1, "output": {"output": "LogitDifference"}}
    return attribution("COAR", weights, random.normal(size=3), registry, EXAMPLES, provenance=provenance)


@pytest.fixture
def rows() -> Attribution:
    """36 rows in 3 layers of 3 modules, 3 examples."""
    return made(["row"])


@pytest.fixture
def heads_only() -> Attribution:
    """6 heads in 3 layers, 3 examples."""
    return made(["head"])


@pytest.fixture
def mixed() -> Attribution:
    """Heads and the rows of attn.q."""
    sites = [*sites_of(layout(), "head"), *sites_of(layout(), "row", modules=["attn.q"])]
    registry = Registry([(site, None) for site in sites])
    weights = np.random.default_rng(1).normal(size=(3, len(registry)))
    return attribution("COAR", weights, np.zeros(3), registry, EXAMPLES, provenance={})


@pytest.fixture
def scores() -> Scores:
    """Two methods at two alphas: one close to the truth, one far from it; one example undefined."""
    random = np.random.default_rng(2)
    true = {alpha: random.normal(size=(50, 3)) for alpha in (0.05, 0.1)}
    predicted, frame = {}, []
    for method, noise in (("COAR", 0.3), ("leave-one-out", 1.5)):
        for alpha, outputs in true.items():
            predicted[method, alpha] = outputs + random.normal(0, noise, outputs.shape)
            for column, example in enumerate(EXAMPLES):
                r = float(np.corrcoef(outputs[:, column], predicted[method, alpha][:, column])[0, 1])
                undefined = column == 2 and alpha == 0.1
                values = dict.fromkeys(("pearson", "spearman", "r2", "slope"), float("nan") if undefined else r)
                frame.append({"method": method, "alpha": alpha, "example": example, **values})
    true[0.05][7, 1] = np.nan
    provenance = {"output": {"output": "Margin"}}
    return Scores(pd.DataFrame(frame), true, predicted, dict.fromkeys(true, 0), 50, provenance)
