"""The look of every figure: two themes, handed to the figures explicitly. No global template is ever set.

Whatever differs between light and dark lives in the template (ink, grid, the middle of the diverging scale), and what
traces carry themselves (blue, orange) has enough contrast on both, so that a page can switch a finished figure from
one theme to the other by switching its template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ablationlens.errors import InputError

POSITIVE = "#2f7fc2"
"""Keeping the component raises the output."""

NEGATIVE = "#d4622a"
"""Keeping the component lowers the output."""

NEUTRAL = "#8a9099"
"""Reference lines: visible on white and on near-black."""

SERIES: tuple[str, ...] = (
    "#2f7fc2",
    "#d4622a",
    "#1a9e77",
    "#b765a8",
    "#c79413",
    "#4fb3dd",
    "#7d74d6",
    "#8a9099",
)
"""Colours of methods and of examples, told apart by readers with any common colour blindness (after Okabe and Ito)."""

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


CELLS_WITH_NUMBERS = 160
"""Cells of a heat map up to which its values are written in: in more they are smaller than anyone can read."""


@dataclass(frozen=True)
class Theme:
    """Colours of everything in a figure but its data.

    Attributes:
        name: "light" or "dark".
        surface: behind the figure.
        ink: text.
        muted: secondary text, whiskers.
        grid: grid lines.
        middle: the colour of 0 in a diverging scale.
        deep: ends of the diverging scale, negative and positive.
        sequential: colours of amounts, from none to most.
    """

    name: str
    surface: str
    ink: str
    muted: str
    grid: str
    middle: str
    deep: tuple[str, str]
    sequential: tuple[str, str, str]

    @property
    def diverging(self) -> list[list[float | str]]:
        """Colour scale for signed values: orange below 0, blue above it."""
        return [[0.0, self.deep[0]], [0.25, NEGATIVE], [0.5, self.middle], [0.75, POSITIVE], [1.0, self.deep[1]]]

    @property
    def amounts(self) -> list[list[float | str]]:
        """Colour scale for values that cannot be negative."""
        return [[0.0, self.sequential[0]], [0.5, self.sequential[1]], [1.0, self.sequential[2]]]

    @property
    def template(self) -> go.layout.Template:
        """The plotly template that carries the theme; `coloraxis` is for signed values, `coloraxis2` for amounts."""
        axis = {
            "gridcolor": self.grid,
            "linecolor": self.grid,
            "zerolinecolor": self.muted,
            "zerolinewidth": 1,
            "tickfont": {"color": self.ink},
            "title": {"font": {"color": self.muted, "size": 12}, "standoff": 12},
            "automargin": True,
        }
        bar = {
            "thickness": 12,
            "len": 1.0,
            "outlinewidth": 0,
            "tickfont": {"color": self.ink},
            "title": {"font": {"color": self.muted, "size": 12}, "side": "right"},
        }
        return go.layout.Template(
            layout={
                "font": {"family": FONT, "size": 12, "color": self.ink},
                "title": {
                    "font": {"size": 16, "color": self.ink},
                    "subtitle": {"font": {"size": 12, "color": self.muted}},
                    "x": 0,
                    "xref": "container",
                    "xanchor": "left",
                    "pad": {"l": 10},
                },
                "paper_bgcolor": self.surface,
                "plot_bgcolor": self.surface,
                "colorway": list(SERIES),
                "coloraxis": {"colorscale": self.diverging, "colorbar": bar},
                "coloraxis2": {"colorscale": self.amounts, "colorbar": bar},
                "xaxis": axis,
                "yaxis": axis,
                "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"color": self.ink}},
                # Plotly's own bar of buttons is a dark box over the data, and one of them uploads the figure.
                "modebar": {
                    "bgcolor": "rgba(0,0,0,0)",
                    "color": self.muted,
                    "activecolor": self.ink,
                    "remove": ["sendChartToCloud", "lasso2d", "select2d"],
                },
                "hoverlabel": {"align": "left", "namelength": -1, "font": {"family": FONT}},
                "margin": {"l": 8, "r": 8, "t": 72, "b": 8},
            },
            data={"bar": [{"error_x": {"color": self.ink, "thickness": 1, "width": 2}}]},
        )


LIGHT = Theme(
    name="light",
    surface="#ffffff",
    ink="#1c2330",
    muted="#5a6372",
    grid="#e3e7ec",
    middle="#f4f5f7",
    deep=("#8a3208", "#0c4a85"),
    sequential=("#f4f5f7", "#6aa5d6", "#0c4a85"),
)

DARK = Theme(
    name="dark",
    surface="#161a21",
    ink="#e4e8ee",
    muted="#a2abb8",
    grid="#2e3541",
    middle="#242a33",
    deep=("#ffb080", "#9fd0ff"),
    sequential=("#242a33", "#2f7fc2", "#b5dbff"),
)


def template_of(theme: Any) -> go.layout.Template:
    """The template of the theme that a figure was given; every figure asks for it here.

    Raises:
        InputError: if it is no theme, such as "dark".
    """
    if not isinstance(theme, Theme):
        raise InputError(
            f"a theme is a Theme, not its name: theme=al.plots.DARK or theme=al.plots.LIGHT; got {theme!r}"
        )
    return theme.template
