"""How alike mean attributions are, and how sure of it one can be.

A similarity of means is made of inner products of single examples, so that weights are multiplied with one another
once, and every resample of the examples is a sum over a small matrix. Write G for the inner products of examples of
one domain, n for their number. Then

    signal = the mean of G over pairs of *different* examples, which estimates |mean weights without noise|^2,
    size   = the mean of G over examples with themselves,
    norm   = signal + (size - signal) / n, which is |mean of the n examples|^2.

A mean over other texts of the domain would have the inner product `signal` with this one. So signal / norm is what two
samples of n texts agree at: Cronbach's alpha, the mean over every way to split the examples of the split-half agreement
stepped up to all of them (Cronbach, Psychometrika 16, 1951). Between domains, inner / sqrt(signal_a signal_b) is the
similarity corrected for attenuation (Spearman 1904): what means over texts without end would have.

In a bootstrap resample some examples occur twice, and a pair of twins is no pair of different examples. `signal` takes
out what such pairs are expected to add, their share times `size`, and `norm` is made from it, so that resampled
similarities scatter around the one that was measured rather than below it. They scatter as fresh samples do where means
are mostly signal, and up to a half more where they are half noise: intervals are too wide then rather than too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from ablationlens.errors import InputError
from ablationlens.evaluate.intervals import percentiles, shares

Kind: TypeAlias = Literal["pearson", "cosine"]
"""Pearson correlation over components, or the cosine, for which the common level of the weights counts."""
KINDS = ("pearson", "cosine")


def usable(weights: Mapping[str, Float[np.ndarray, "_ component"]]) -> np.ndarray:
    """Components whose weights are finite in every example of every domain: the others cannot be compared."""
    return np.all([np.isfinite(one).all(axis=0) for one in weights.values()], axis=0)


def with_weights(weights: Float[np.ndarray, "example component"]) -> np.ndarray:
    """Which examples have any finite weight: one whose outputs were never finite has none, and is left out."""
    return np.asarray(np.isfinite(weights).any(axis=1))


def vectors(weights: Float[np.ndarray, "example component"], kind: str) -> Float64[np.ndarray, "example component"]:
    """Weights whose cosine is the similarity that is asked for.

    Raises:
        InputError: if there is no such similarity.
    """
    if kind not in KINDS:
        raise InputError(f"a similarity is kind='pearson' or kind='cosine'; got {kind!r}")
    found = weights.astype(np.float64)
    return found - found.mean(axis=1, keepdims=True) if kind == "pearson" else found


def counts_of(name: str, examples: int) -> Float64[np.ndarray, "resample example"]:
    """How much each example counts: all alike in the first row, then bootstrap resamples that depend on the name."""
    return np.vstack([np.full((1, examples), 1 / examples), shares(f"domain:{name}", examples)])


@dataclass(frozen=True)
class Products:
    """Inner products of examples with one another, or with those of another fit of the same examples, resampled.

    Attributes:
        signal: mean over pairs of different examples; NaN where there is none.
        size: mean over examples with themselves.
    """

    signal: Float64[np.ndarray, " resample"]
    size: Float64[np.ndarray, " resample"]

    @classmethod
    def of(
        cls, products: Float64[np.ndarray, "example example"], counts: Float64[np.ndarray, "resample example"]
    ) -> Products:
        """From the inner products of single examples and how much each example counts."""
        size, twins = counts @ np.diagonal(products), (counts**2).sum(axis=1)
        every = np.einsum("re,re->r", counts @ products, counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            signal = np.where(twins < 1 - 1e-9, (every - twins * size) / (1 - twins), np.nan)
        return cls(signal, size)

    def mean_of(self, examples: int) -> Float64[np.ndarray, " resample"]:
        """Inner product of the means over the same so many examples."""
        if examples == 1:
            return self.size
        return self.signal + (self.size - self.signal) / examples


def ratio(
    inner: Float64[np.ndarray, " resample"],
    first: Float64[np.ndarray, " resample"],
    second: Float64[np.ndarray, " resample"],
) -> Float64[np.ndarray, " resample"]:
    """inner / sqrt(first second); NaN where a square is not positive."""
    with np.errstate(invalid="ignore"):
        defined = (first > 0) & (second > 0)
        return np.where(defined, inner / np.sqrt(np.where(defined, first * second, 1.0)), np.nan)


def estimate(resampled: Float64[np.ndarray, " resample"]) -> tuple[float, float, float]:
    """The value, which is the first, and its 95% interval, NaN where resamples say nothing."""
    low, high = percentiles(resampled[1:]) if np.isfinite(resampled[0]) else (np.nan, np.nan)
    return float(resampled[0]), low, high


class MeanAttributions:
    """Mean attributions of several domains, and how alike they are; each answer is [resample], the value first."""

    def __init__(self, weights: Mapping[str, Float[np.ndarray, "_ component"]], kind: str = "pearson") -> None:
        keep = usable(weights)
        self.vectors = {name: vectors(one[:, keep], kind) for name, one in weights.items()}
        self.counts = {name: counts_of(name, len(one)) for name, one in weights.items()}

    @cached_property
    def products(self) -> dict[str, Products]:
        """Of each domain with itself."""
        return {name: Products.of(one @ one.T, self.counts[name]) for name, one in self.vectors.items()}

    def between(self, a: str, b: str, *, corrected: bool = False) -> Float64[np.ndarray, " resample"]:
        """Similarity of the means of two domains, of a domain with other texts of its own if they are the same."""
        if a == b:
            return np.ones(len(self.counts[a])) if corrected else self.again(a)
        inner = np.einsum(
            "re,re->r", self.counts[a] @ (self.vectors[a] @ self.vectors[b].T), self.counts[b]
        )  # the two are resampled independently
        found = ratio(inner, *((self.products[name].signal if corrected else self._norm(name)) for name in (a, b)))
        if not corrected:
            found = np.minimum(found, 1.0)  # of a resample, whose norm is corrected for twins
        if not all(len(self.vectors[name]) > 1 for name in (a, b)):
            found[1:] = np.nan  # a single example is the same in every resample
        return found

    def again(self, name: str, examples: int | None = None) -> Float64[np.ndarray, " resample"]:
        """What two samples of so many examples agree at; by default of as many as there are."""
        examples = len(self.vectors[name]) if examples is None else examples
        norm = self.products[name].mean_of(examples)
        return ratio(self.products[name].signal, norm, norm)

    def _norm(self, name: str) -> Float64[np.ndarray, " resample"]:
        return self.products[name].mean_of(len(self.vectors[name]))
