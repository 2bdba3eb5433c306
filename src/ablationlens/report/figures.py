"""A figure of the page: its titles as text of the page, the rest for plotly."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

MANY_PANELS = 3
"""Panels side by side for which a phone has no room."""


@dataclass(frozen=True)
class Figure:
    """One figure of the page.

    Attributes:
        id: of the element that it is drawn in.
        title: what is seen, as the figure says it.
        note: how to read it.
        height: in pixels, known before it is drawn so that the page does not jump.
        drawing: data and layout for plotly; "panels", how many stand side by side, where a phone has no room for them.
    """

    id: str
    title: str
    note: str
    height: int
    drawing: dict[str, Any]


def figure_of(figure: go.Figure, key: str) -> Figure:
    """Take the titles out of a figure: as text of the page they wrap on a phone, and can be read aloud."""
    drawing: dict[str, Any] = json.loads(figure.to_json() or "{}")
    layout = drawing["layout"]
    title = layout.pop("title")
    layout.pop("template")
    # The top is where plotly's buttons appear.
    layout["margin"] = {"l": 8, "r": 8, "t": 24, "b": 8}
    height = int(layout.pop("height")) - 48
    return Figure(
        key,
        title=str(Markup(title["text"]).unescape()),
        note=str(Markup(title["subtitle"]["text"].replace("<br>", " ")).unescape()),
        height=height,
        drawing={"data": drawing["data"], "layout": layout, **_panels(layout)},
    )


def _panels(layout: dict[str, Any]) -> dict[str, int]:
    """How many titled panels there are, if there are more than two: a phone shows them one below the other."""
    panels = sum(re.fullmatch(r"xaxis\d*", name) is not None for name in layout)
    titled = len(layout.get("annotations", ())) >= panels
    return {"panels": panels} if panels >= MANY_PANELS and titled else {}
