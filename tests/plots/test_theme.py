"""Themes: contrast, as WCAG 2.2 measures it, and the templates that carry them."""

from __future__ import annotations

from itertools import combinations

import plotly.graph_objects as go
import plotly.io as pio
import pytest

import ablationlens as al
from ablationlens.plots.theme import DARK, LIGHT, NEGATIVE, NEUTRAL, POSITIVE, SERIES, Theme, template_of

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


def channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(colour)]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@THEMES
def test_text_can_be_read(theme: Theme) -> None:
    assert contrast(theme.ink, theme.surface) >= 7  # AAA
    assert contrast(theme.muted, theme.surface) >= 4.5  # AA


@THEMES
@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE, NEUTRAL])
def test_bars_and_lines_stand_out_on_both(theme: Theme, colour: str) -> None:
    assert contrast(colour, theme.surface) >= 3  # AA for graphics


@THEMES
def test_ends_of_scales_differ_from_their_middle(theme: Theme) -> None:
    assert all(contrast(end, theme.middle) >= 4.5 for end in theme.deep)
    assert contrast(theme.sequential[-1], theme.sequential[0]) >= 4.5
    assert [place for place, _ in theme.diverging] == [0, 0.25, 0.5, 0.75, 1]
    assert theme.diverging[2][1] == theme.middle


def test_colours_of_series_are_all_different() -> None:
    for a, b in combinations(SERIES, 2):
        assert max(abs(x - y) for x, y in zip(channels(a), channels(b), strict=True)) > 0.1


@THEMES
def test_a_figure_takes_its_theme_and_nothing_global_changes(theme: Theme) -> None:
    before = pio.templates.default
    figure = go.Figure(go.Bar(x=[1], y=[2]), layout={"template": template_of(theme)})
    assert figure.layout.template.layout.paper_bgcolor == theme.surface
    assert figure.layout.template.layout.font.color == theme.ink
    assert pio.templates.default == before


def test_a_name_is_no_theme() -> None:
    with pytest.raises(al.InputError, match=r"theme=al\.plots\.DARK .* got 'dark'"):
        template_of("dark")
