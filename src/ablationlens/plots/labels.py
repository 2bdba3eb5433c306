"""Words for figures: what the output is called, names that fit an axis, numbers as people write them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any, cast


def output_name(provenance: Mapping[str, Any]) -> str:
    """What a weight is measured in, from an `output` entry as `Output.describe` writes it; ``output`` without one.

    A class gives its name in words (``logit difference``), a function of the user's its own name.
    """
    if "gap" in provenance:
        return "share of the gap"
    name = _name_of(provenance)
    return f"{name} per unit of activation" if provenance.get("method") == "internal influence" else name


def _name_of(provenance: Mapping[str, Any]) -> str:
    output: Any = provenance.get("output")
    if isinstance(output, Mapping):
        described = cast("Mapping[str, Any]", output)
        function: Any = described.get("function")
        if isinstance(function, Mapping) and "name" in function:
            return str(cast("Mapping[str, Any]", function)["name"]).rpartition(".")[2]
        output = described.get("output")
    return spaced(str(output)) if output else "output"


def spaced(name: str) -> str:
    """A class name as words: ``LogitDifference`` -> ``logit difference``; acronyms and other text stay as they are."""
    if not name.isidentifier() or name.isupper() or name.islower():
        return name
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name)
    return words.replace("_", " ").strip()


def shortened(text: str, length: int = 28) -> str:
    """Text cut in the middle to at most `length` characters; component names differ at both ends."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def escaped(text: object) -> str:
    """Text for plotly, which reads a little HTML in every label: tokens such as ``<b>`` must not become markup."""
    return html.escape(str(text), quote=False)


def percent(fraction: float) -> str:
    """A fraction in per cent with at most three significant digits: 0.125 -> ``12.5%``."""
    return f"{100 * fraction:.3g}%"


def signed(value: float) -> str:
    """A number with its sign and three significant digits."""
    return minus(f"{value:+#.3g}".rstrip(".")) if math.isfinite(value) else "undefined"


def fixed(value: float, decimals: int = 2) -> str:
    """A number with so many decimals."""
    return minus(f"{value:.{decimals}f}") if math.isfinite(value) else "undefined"


def minus(text: str) -> str:
    """The same text with minus signs, which are as wide as a plus, for hyphens."""
    return text.replace("-", "\u2212")


def counted(count: int, noun: str) -> str:
    """``1 example``, ``4,608 examples``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
