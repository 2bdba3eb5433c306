"""How well attributions of rank-one components predict ablations, in each mode of SPD, and how alike the modes are.

    python benchmarks/spd_modes.py            # about a quarter of an hour on one core
    python benchmarks/spd_modes.py --quick    # seconds, to see that it runs

The bundled decomposition of `induction`: the components of every attention projection and their remainders. What is
measured is the margin of the right token in the second half of a sequence that comes twice. In each mode COAR gets four
draws for each component, the path gradient 1,000 forward-equivalents. Both are held against the same held-out
ablations. Beside them stands how the weights go with the components' mean importances.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

import ablationlens as al
from ablationlens.attribution.costs import paths_for

ALPHA, EXAMPLES, LENGTH = 0.05, 4, 16
PER_COMPONENT, EQUIVALENTS, HELD_OUT = 4, 1000, 300
MODES: dict[str, Callable[[al.spd.Decomposition], Any]] = {
    "deterministic": al.spd.Deterministic,
    "stochastic": al.spd.Stochastic,
    "adversarial": al.spd.PGD,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws, to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread")
    scores, weights, data, decomposition = measured(options.seeds, quick=options.quick)
    print(scores.to_string(index=False, float_format="{:.3f}".format))
    print("\nSpearman's correlation of mean weights between modes, COAR below and path gradient above the diagonal:")
    between = modes_agree(weights)
    print(between.to_string(float_format="{:.3f}".format))
    print("\nSpearman's correlation of mean weights with mean importances, over components without remainders:")
    importance = with_importances(weights, decomposition, data)
    print(importance.to_string(index=False, float_format="{:.3f}".format))
    if options.json is not None:
        found = {"scores": scores, "between modes": between.reset_index(), "importances": importance}
        options.json.write_text(json.dumps({name: frame.to_dict("records") for name, frame in found.items()}, indent=1))


Weights = dict[tuple[str, str, int], np.ndarray]
"""Mean weights by mode, method and seed."""


def measured(seeds: list[int], *, quick: bool) -> tuple[pd.DataFrame, Weights, al.Batch, al.spd.Decomposition]:
    """Held-out correlations, a row for each mode, method and seed, and the mean weights."""
    zoo = al.zoo.load("induction")
    adapter, decomposition = al.adapt(zoo.model), al.spd.bundled("induction")
    registry = decomposition.registry(adapter)
    data = al.batch(zoo.sequences(EXAMPLES, LENGTH, seed=11), positions=slice(LENGTH, None))
    draws = 40 if quick else PER_COMPONENT * len(registry)
    paths = 40 if quick else paths_for(EQUIVALENTS)
    rows: list[dict[str, Any]] = []
    weights: Weights = {}
    for mode, base in MODES.items():
        model = al.MaskedModel(adapter, registry, output=al.Margin(), base=base(decomposition))
        for seed in seeds:
            made: dict[str, al.Attribution] = {}
            spent: dict[str, float] = {}
            for method, make, count in (("COAR", al.coar, draws), ("path gradient", al.path_gradient, paths)):
                begun = time.perf_counter()
                made[method] = make(model, data, alpha=ALPHA, seed=seed, draws=count, show_bar=False)
                spent[method] = time.perf_counter() - begun
                weights[mode, method, seed] = made[method].weights.mean("example").values
            held_out = 20 if quick else HELD_OUT
            scores = al.evaluate(model, data, made, alphas=[ALPHA], draws=held_out, seed=seed, show_bar=False)
            for line in scores.table().to_dict("records"):
                own = {key: line[key] for key in ("pearson", "low", "high", "spearman")}
                method = str(line["method"])
                rows.append({"mode": mode, "method": method, "seed": seed, **own, "seconds": spent[method]})
    return pd.DataFrame(rows), weights, data, decomposition


def modes_agree(weights: Weights) -> pd.DataFrame:
    """Rank correlation of mean weights between modes, averaged over seeds."""
    seeds = sorted({seed for _, _, seed in weights})
    table = pd.DataFrame(1.0, index=list(MODES), columns=list(MODES))
    for i, first in enumerate(MODES):
        for j, second in enumerate(MODES):
            method = "COAR" if i > j else "path gradient"
            pairs = [stats.spearmanr(weights[first, method, s], weights[second, method, s]).statistic for s in seeds]
            table.loc[first, second] = float(np.mean(pairs))
    return table


def with_importances(weights: Weights, decomposition: al.spd.Decomposition, data: al.Batch) -> pd.DataFrame:
    """Rank correlation of weights, and of their sizes, with mean importances over positions and examples."""
    zoo = al.zoo.load("induction")
    found = decomposition.importances(al.adapt(zoo.model), data)
    flat = [np.append(lower.numpy().mean((0, 1)), np.nan) for lower in found.values()]
    mean = np.concatenate(flat)
    parts = np.isfinite(mean)
    rows: list[dict[str, Any]] = []
    for (mode, method, seed), own in weights.items():
        signed = stats.spearmanr(own[parts], mean[parts]).statistic
        sizes = stats.spearmanr(np.abs(own[parts]), mean[parts]).statistic
        rows.append({"mode": mode, "method": method, "seed": seed, "signed": signed, "sizes": sizes})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
