"""Similarity of domains: a matrix with intervals, what one domain agrees with itself at, and an order for a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Float64
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from ablationlens.diagnostics.domain_agreement import MeanAttributions, estimate


@dataclass(frozen=True, eq=False, repr=False)
class Similarity:
    """How alike the mean attributions of domains are.

    Attributes:
        kind: "pearson" or "cosine".
        arrays: ``[domain, other]``: `similarity`, with its 95% bootstrap interval over examples, `low` and `high`; and
            `corrected`, `corrected_low`, `corrected_high`, the same corrected for attenuation by the scatter of
            examples, which chance may carry above 1. On the diagonal of `similarity` stands what two samples of as
            many texts of that domain agree at (Cronbach's alpha: every split-half agreement, stepped up to all
            examples, averaged). It is the most that another domain can be expected to reach.
        halves: ``[domain]``: what two halves of its examples agree at, averaged over every split. NaN for one example.
        linkage: the average linkage of 1 - similarity, as `scipy.cluster.hierarchy.dendrogram` takes it. An undefined
            similarity counts as 0.
        order: the domains as a dendrogram has them, similar ones side by side.
    """

    kind: str
    arrays: xr.Dataset
    halves: xr.DataArray
    linkage: Float64[np.ndarray, "merge 4"]
    order: tuple[str, ...]

    def __repr__(self) -> str:
        return self.matrix().to_string(float_format="{:.3f}".format)

    def matrix(self, *, corrected: bool = False) -> pd.DataFrame:
        """The similarities in dendrogram order, one row and one column per domain."""
        found = self.arrays["corrected" if corrected else "similarity"]
        return found.sel(domain=list(self.order), other=list(self.order)).to_pandas()  # pyright: ignore[reportReturnType]

    def table(self) -> pd.DataFrame:
        """One row per pair of domains, and per domain with itself: domain, other, and the values with intervals."""
        names = [str(name) for name in self.arrays["domain"].values]
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i:]]
        rows = [
            {"domain": a, "other": b}
            | {str(key): float(self.arrays[key].sel(domain=a, other=b)) for key in self.arrays.data_vars}
            for a, b in pairs
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Closer:
    """Whether two domains are more alike than either is to a third.

    Attributes:
        pair: the two.
        than: the third.
        between: their similarity.
        others: similarity of each of the two to the third.
        difference: between - max(others): positive if both are closer to each other.
        low: of the 95% bootstrap interval of the difference, over examples of all three.
        high: its other end.
        corrected: whether similarities are corrected for attenuation.
    """

    pair: tuple[str, str]
    than: str
    between: float
    others: tuple[float, float]
    difference: float
    low: float
    high: float
    corrected: bool

    def __str__(self) -> str:
        (a, b), (to_a, to_b) = self.pair, self.others
        return (
            f"{a} with {b} {self.between:.3f}; {a} with {self.than} {to_a:.3f}, {b} with {self.than} {to_b:.3f}: "
            f"closer by {self.difference:.3f} [{self.low:.3f}, {self.high:.3f}]"
        )


def similarity(weights: Mapping[str, Float[np.ndarray, "_ component"]], kind: str) -> Similarity:
    """Similarity of the mean weights of every pair of domains.

    Args:
        weights: domain -> [example, component]; components with a weight that is not finite are left out.
        kind: "pearson" or "cosine".

    Raises:
        InputError: if there is no such similarity.
    """
    means, names = MeanAttributions(weights, kind), list(weights)
    shape = (len(names), len(names))
    columns = ("similarity", "low", "high", "corrected", "corrected_low", "corrected_high")
    values = {column: np.full(shape, np.nan) for column in columns}
    for i, a in enumerate(names):
        for j, b in enumerate(names[i:], start=i):
            found = (*estimate(means.between(a, b)), *estimate(means.between(a, b, corrected=True)))
            for column, value in zip(columns, found, strict=True):
                values[column][i, j] = values[column][j, i] = value
    arrays = xr.Dataset(
        {column: (("domain", "other"), one) for column, one in values.items()}, {"domain": names, "other": names}
    )
    halves = [float(means.again(name, max(len(one) // 2, 1))[0]) for name, one in weights.items()]
    merges = _linkage(values["similarity"])
    order = tuple(names[leaf] for leaf in leaves_list(merges))
    return Similarity(kind, arrays, xr.DataArray(halves, coords={"domain": names}, name="halves"), merges, order)


def closer(
    weights: Mapping[str, Float[np.ndarray, "_ component"]], a: str, b: str, than: str, kind: str, corrected: bool
) -> Closer:
    """Whether two domains are more alike than either is to a third; all three are resampled together."""
    means = MeanAttributions(weights, kind)
    pair, first, second = (means.between(*of, corrected=corrected) for of in ((a, b), (a, than), (b, than)))
    difference, low, high = estimate(np.minimum(pair - first, pair - second))
    return Closer((a, b), than, float(pair[0]), (float(first[0]), float(second[0])), difference, low, high, corrected)


def _linkage(similar: Float64[np.ndarray, "domain domain"]) -> Float64[np.ndarray, "merge 4"]:
    distance = np.clip(1 - np.nan_to_num(similar), 0, None)
    np.fill_diagonal(distance, 0)
    return linkage(squareform(distance), "average", optimal_ordering=True)
