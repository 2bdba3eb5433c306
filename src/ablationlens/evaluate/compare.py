"""How far attributions agree with one another, and with themselves under another seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import stats

from ablationlens.errors import InputError
from ablationlens.evaluate.agreement import constant, pearson
from ablationlens.evaluate.checks import check_alike, check_seeds, fingerprint, named
from ablationlens.evaluate.comparison import Comparison
from ablationlens.masks.designs import integer
from ablationlens.provenance import packages
from ablationlens.results import Attribution

TOPS = (10, 100)
"""Sizes of the top that are compared by default, as far as the registry has twice as many components."""
SETTINGS = ("model", "ablation", "output")
"""What attributions that are compared may differ in: it is recorded."""


def compare(
    attributions: Mapping[str, Attribution],
    *,
    top: Sequence[int] | int | None = None,
    ceiling: Mapping[str, Attribution] | None = None,
) -> Comparison:
    """Agreement of every pair of attributions, example by example, from their weights alone: no forward passes.

    For each pair and example:

    - ``spearman``: rank correlation of the weights, with their signs;
    - ``pearson`` and ``cosine`` of the weights. Cosine is the one that matters for prediction: under masks that ablate
      every component independently and equally often, it is the correlation of the two attributions' predictions;
    - ``top_10``: share of the ten largest weights *in absolute value* of one that are among those of the other: do they
      find the same components, helpful or harmful?
    - ``top_10_signed``: the same for the ten most positive weights: do they find the same components that raise the
      output? Harmful components count nowhere in it.

    Components that tie for a place in the top share it, as if the tie were broken at random, so that many weights of 0
    do not agree by the order of the registry. Components whose weight is not finite in one of the two are left out. A
    measure is NaN where the weights of one of the two do not vary.

    What the agreement can at most be is what a method reaches with itself under another seed: give second-seed
    attributions as `ceiling`. By the formula of attenuation (Spearman, 1904), the Pearson correlation of two methods
    with independent errors is at most the geometric mean of their ceilings. A method without randomness
    (leave-one-out, gradients, patching) agrees with itself exactly: give it as its own ceiling for a 1 there; methods
    that are not in `ceiling` have NaN.

    Args:
        attributions: by name, at least two, or one with its ceiling.
        top: sizes of the top; 10 and 100 by default, where the registry has at least twice as many components.
        ceiling: for some of the names, the same method on the same model and data with another seed.

    Raises:
        InputError: if the attributions are of different registries, examples or data, if a ceiling has no attribution
            of its name or the same seed as that, or if a top is not between 1 and the number of components.
    """
    found = named(attributions, "al.compare({'COAR': coar, 'leave-one-out': loo})")
    again = {} if ceiling is None else dict(ceiling)
    _check(found, again)
    components = len(next(iter(found.values())).registry)
    sizes = _sizes(top, components)
    weights = {name: one.weights.values.astype(np.float64) for name, one in found.items()}
    examples = [str(name) for name in next(iter(found.values())).weights["example"].values]
    rows: list[dict[str, Any]] = []
    for a, b in combinations_with_replacement(found, 2):
        if a == b and a not in again:
            continue
        other = again[a].weights.values.astype(np.float64) if a == b else weights[b]
        rows += [
            {"a": a, "b": b, "example": example, **dict(_measures(weights[a][i], other[i], sizes))}
            for i, example in enumerate(examples)
        ]
    differ = [key for key in SETTINGS if len({repr(one.provenance.get(key)) for one in found.values()}) > 1]
    provenance = {
        "compared": {name: _summary(one) for name, one in found.items()},
        "ceiling": {name: _summary(one) for name, one in again.items()},
        "differ": differ,
        "registry": {
            "components": components,
            "fingerprint": next(iter(found.values())).registry.fingerprint,
        },
        "data": {"examples": len(examples), "fingerprint": fingerprint(next(iter(found.values())))},
        "packages": packages(),
    }
    return Comparison(pd.DataFrame(rows), tuple(found), sizes, components, provenance)


def overlap(a: Float64[np.ndarray, " component"], b: Float64[np.ndarray, " component"], k: int) -> float:
    """Share of the k largest values of one that are expected among those of the other, ties broken at random."""
    return float((_places(a, k) * _places(b, k)).sum()) / k


def _places(values: Float64[np.ndarray, " component"], k: int) -> Float64[np.ndarray, " component"]:
    """Chance of each component to be among the k largest: 1 or 0, and between them for those that tie for a place."""
    last = np.partition(values, -k)[-k]
    above, tied = values > last, values == last
    return above + tied * ((k - above.sum()) / tied.sum())


def _measures(
    a: Float64[np.ndarray, " component"], b: Float64[np.ndarray, " component"], sizes: Sequence[int]
) -> Iterator[tuple[str, float]]:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    varies = len(a) > 1 and not constant(a) and not constant(b)
    nan = float("nan")
    yield "spearman", float(pearson(stats.rankdata(a)[:, None], stats.rankdata(b)[:, None])[0]) if varies else nan
    yield "pearson", float(pearson(a[:, None], b[:, None])[0]) if varies else nan
    yield "cosine", float(a @ b / np.sqrt((a @ a) * (b @ b))) if varies else nan
    for k in sizes:
        enough = varies and len(a) > k
        yield f"top_{k}", overlap(np.abs(a), np.abs(b), k) if enough else nan
        yield f"top_{k}_signed", overlap(a, b, k) if enough else nan


def _sizes(top: Sequence[int] | int | None, components: int) -> tuple[int, ...]:
    if top is None:
        return tuple(k for k in TOPS if 2 * k <= components) or (max(1, components // 4),)
    sizes = tuple(integer("top", k) for k in (top if isinstance(top, Sequence) else [top]))
    if not sizes or len(set(sizes)) < len(sizes) or not all(1 <= k < components for k in sizes):
        raise InputError(
            f"top has different sizes from 1 to {components - 1}, one less than there are components; got {top!r}: "
            f"top=({max(1, min(10, components // 2))},)"
        )
    return sizes


def _check(found: Mapping[str, Attribution], again: Mapping[str, Attribution]) -> None:
    if len(found) < 2 and not again:
        raise InputError(
            f"there is only '{next(iter(found))}': give at least two attributions, or its second seed: "
            "al.compare({'COAR': coar}, ceiling={'COAR': coar_seed_1})"
        )
    check_alike(found)
    check_seeds(found, again)
    for name, other in again.items():
        check_alike({name: found[name], f"second seed of {name}": other})


def _summary(attribution: Attribution) -> dict[str, Any]:
    """What made an attribution, as far as its provenance says: settings, not measurements."""
    keys = ("alpha", "draws", "seed", "design", "solver", "rho", *SETTINGS)
    kept = {key: attribution.provenance[key] for key in keys if key in attribution.provenance}
    return {"method": attribution.method, **kept}
