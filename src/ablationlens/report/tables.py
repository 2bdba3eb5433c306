"""Tables of the page: components (as compact JSON, which the page's script turns into rows), provenance, examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.report.sections import Section

TOKENS_SHOWN = 96
"""Tokens of an example that the page shows; the rest is counted."""

MANY = 8
"""Entries of numbers from which only the smallest and the largest are shown."""

DIGITS = 4
"""Significant digits of numbers in the table of components: more than any of them deserves."""


def component_columns(section: Section) -> list[dict[str, Any]]:
    """The table of all components by columns, the strongest of the main attribution first.

    Text columns that repeat themselves are a list of distinct values and a code for each row: a page with tens of
    thousands of components stays small.
    """
    main = section.main[1]
    order = np.argsort(-np.abs(main.weights.mean("example").to_numpy()), kind="stable")
    frame = section.registry.frame().iloc[order]
    columns: list[dict[str, Any]] = [{"label": "Component", "type": "text", "values": list(frame["component"])}]
    for method, attribution in section.attributions.items():
        weights = attribution.weights.transpose("example", "component")
        found = [
            ("weight", "weight", weights.mean("example").to_numpy()),
            ("spread", "amount", weights.std("example").to_numpy()),
        ]
        if attribution.errors is not None:
            found.append(
                ("error", "amount", mean_error(attribution.errors.transpose("example", "component").to_numpy()))
            )
        for label, kind, values in found:
            numbers = [_rounded(float(value)) for value in values[order]]
            name = f"{method}\n{label}" if len(section.attributions) > 1 else label.capitalize()
            columns.append({"label": name, "type": kind, "values": numbers})
    # Last: the name says them already, and a phone shows the first columns.
    columns.append({"label": "Layer", "type": "count", "values": [int(layer) for layer in frame["layer"]]})
    for label, name in (("Module", "module"), ("Kind", "kind")):
        codes, distinct = pd.factorize(frame[name])
        columns.append({"label": label, "type": "text", "values": codes.tolist(), "names": list(distinct)})
    return columns


def mean_error(errors: Float[np.ndarray, "example component"]) -> Float[np.ndarray, " component"]:
    """Standard error of the mean over examples whose errors are known; NaN where none is."""
    known = np.isfinite(errors)
    total = np.where(known, errors, 0.0) ** 2
    count = known.sum(axis=0)
    return np.where(count > 0, np.sqrt(total.sum(axis=0)) / np.maximum(count, 1), np.nan)


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Entry:
    """One line of the table of how it was run.

    Attributes:
        key: what is said, in words; nested entries are joined.
        cells: what is said of each attribution.
    """

    key: str
    cells: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the same is said of all."""
        return len(set(self.cells)) == 1


def provenance_entries(provenances: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Provenances side by side, one line for each thing that any of them says."""
    flat = [dict(_flattened(provenance)) for provenance in provenances]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    return [Entry(key, tuple(each.get(key, "—") for each in flat)) for key in keys]


def _flattened(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for key, item in value.items():
        # {"output": {"output": "Margin"}} says "output" once.
        words = str(key).replace("_", " ")
        name = prefix if words == prefix else f"{prefix} · {words}" if prefix else words
        if isinstance(item, Mapping) and len(item) > MANY and all(isinstance(each, float) for each in item.values()):
            low, high = min(item.values()), max(item.values())
            entries.append((name, f"{_text(low)} to {_text(high)} ({len(item):,} values)"))
        elif isinstance(item, Mapping):
            entries += _flattened(cast("Mapping[str, Any]", item), name)
        else:
            entries.append((name, _text(item)))
    return entries


def _text(value: Any) -> str:
    """One value as a reader would write it: long lists and hashes cut, numbers with separators."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            # A seed of 1,234 is not a quantity, but five digits without a separator are hard to read.
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            items = [_text(item) for item in cast("Sequence[Any]", value)]
            more = f" … ({len(items):,} in all)" if len(items) > 8 else ""
            return ", ".join(items[:8]) + more if items else "none"
        case _:
            text = str(value)
            is_hash = len(text) >= 32 and all(letter in "0123456789abcdef" for letter in text)
            return f"{text[:12]}…" if is_hash else text


@dataclass(frozen=True)
class Example:
    """One line of the table of examples."""

    name: str
    tokens: tuple[str, ...]
    more: int
    """Tokens that are not shown."""


def examples(data: Batch) -> list[Example]:
    """Names and tokens of the examples, padding left out; no tokens where the inputs are not tokens."""
    try:
        rows = [[token for token in row if token] for row in data.tokens()]
    except InputError:
        rows = [[] for _ in range(len(data))]
    return [
        Example(name, tuple(_visible(token) for token in row[:TOKENS_SHOWN]), max(len(row) - TOKENS_SHOWN, 0))
        for name, row in zip(data.names(), rows, strict=True)
    ]


def _visible(token: str) -> str:
    """A token with its line ends and tabs made visible; spaces are kept by the style of the page."""
    return token.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
