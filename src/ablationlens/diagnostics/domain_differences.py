"""Where domains differ: averages of groups of components by domain, and the components whose weights differ most."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from scipy import stats

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.registry import Registry


def averages(
    weights: Mapping[str, Float[np.ndarray, "_ component"]], registry: Registry, group: str | Sequence[str]
) -> pd.DataFrame:
    """Average weights of groups of components by domain: see `Domains.by`.

    Raises:
        InputError: if there is no such column.
    """
    frame = registry.frame()
    known = [column for column in frame if column != "component"]
    columns = [group] if isinstance(group, str) else list(group) if isinstance(group, Sequence) else []
    if not columns or not set(columns) <= set(known):
        raise InputError(f"components are grouped by one or several of {', '.join(map(str, known))}; got {group!r}")
    ids = frame.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()
    labels = frame[columns].drop_duplicates().reset_index(drop=True)
    member = (ids[:, None] == np.arange(len(labels))).astype(np.float64)  # [component, group]
    parts: list[pd.DataFrame] = []
    for name, one in weights.items():
        by_example = _mean_of_finite(one, member)
        count = len(one)
        errors = by_example.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(labels), np.nan)
        size = np.abs(_mean_of_finite(one.T, np.ones((count, 1))).T)  # [1, component]
        parts.append(
            labels.assign(
                domain=name,
                weight=by_example.mean(axis=0),
                error=errors,
                size=_mean_of_finite(size, member)[0],
                components=member.sum(axis=0).astype(int),
            )
        )
    return pd.concat(parts, ignore_index=True)


def _mean_of_finite(
    values: Float[np.ndarray, "row item"], member: Float64[np.ndarray, "item group"]
) -> Float64[np.ndarray, "row group"]:
    """Mean over the items of each group that are finite; NaN if none is."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, values, 0.0).astype(np.float64) @ member / (finite @ member)


def welch(
    first: Float[np.ndarray, "n component"], second: Float[np.ndarray, "m component"]
) -> dict[str, Float64[np.ndarray, " component"]]:
    """Welch's t of each component, its degrees of freedom, two-sided p, and the Benjamini-Hochberg q over components.

    NaN for components with a weight that is not finite, or that vary in neither sample and are equal in both.
    """
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # weights that do not vary: t is undefined or infinite
        found: Any = stats.ttest_ind(first.astype(np.float64), second.astype(np.float64), equal_var=False)
    p = np.asarray(found.pvalue, dtype=np.float64)
    defined, q = np.isfinite(p), np.full(len(p), np.nan)
    if defined.any():
        q[defined] = stats.false_discovery_control(p[defined])
    return {"t": np.asarray(found.statistic), "df": np.broadcast_to(np.asarray(found.df), p.shape), "p": p, "q": q}


def differences(
    weights: Mapping[str, Float[np.ndarray, "_ component"]], registry: Registry, a: str, b: str, n: int | None
) -> pd.DataFrame:
    """Components from the largest |t| to the smallest: see `Domains.differences`.

    Raises:
        InputError: if the two are one, one of them has a single example, or n is no number of rows.
    """
    if a == b:
        raise InputError(f"two domains are compared, such as {_two(weights)}; got {a!r} twice")
    if n is not None and (not is_integer(n) or n < 1):
        raise InputError(f"n is a number of components, or None for all of them; got {n!r}")
    for name in (a, b):
        if len(weights[name]) < 2:
            raise InputError(
                f"domain {name!r} has one example, which has no interval: a Welch t needs at least two of each domain, "
                f"data={{{name!r}: al.batch(texts[:16], tokenizer=...), ...}}"
            )
    first, second = (weights[name].mean(axis=0) for name in (a, b))
    frame = registry.frame().assign(
        first=first, second=second, difference=first - second, **welch(weights[a], weights[b])
    )
    ordered = frame.iloc[np.argsort(-np.abs(frame["t"].to_numpy()), kind="stable")].reset_index(drop=True)
    ordered.attrs = {"first": a, "second": b}
    return ordered if n is None else ordered.head(n)


def _two(weights: Mapping[str, object]) -> str:
    return ", ".join(map(repr, list(weights)[:2]))
