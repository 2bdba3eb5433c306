"""A finding: one sentence or two on one attribution, and how serious it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["good", "note", "caution"]
"""Nothing to worry about; worth knowing; a reason for care."""

MARKED: dict[Level, str] = {"good": "fine", "note": "note", "caution": "care"}
"""The word that stands beside the colour."""


@dataclass(frozen=True)
class Finding:
    """One sentence or two on one attribution."""

    level: Level
    text: str
