"""Every figure says what it is of when it is given something else."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import ablationlens as al
from ablationlens import plots
from ablationlens.plots.theme import template_of

FIGURES = [name for name, value in vars(plots).items() if inspect.isfunction(value)]
INSIDE = ("heads", "layers")
"""Which check in a function of their own, behind the type checker of the tests: see `of_components`."""


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in INSIDE])
def test_what_a_figure_is_not_of_is_refused(name: str) -> None:
    figure: Any = inspect.unwrap(getattr(plots, name))  # past the type checker of the tests
    needed = [one for one in inspect.signature(figure).parameters.values() if one.default is one.empty]
    with pytest.raises(al.InputError, match=r"al\.\w+.*; got dict"):
        figure(*[{} for _ in needed])


def test_all_figures_are_here() -> None:
    assert len(FIGURES) >= 30


def test_the_name_of_a_theme_is_no_theme() -> None:
    assert template_of(plots.DARK) == plots.DARK.template
    for wrong in ("dark", None, plots.DARK.template):
        with pytest.raises(al.InputError, match=r"theme=al\.plots\.DARK"):
            template_of(wrong)


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "circuitsvis"])
def test_every_figure_asks_for_its_theme_there(name: str) -> None:
    """A template that is read off a theme elsewhere would be an AttributeError for theme="dark"."""
    figure: Any = inspect.unwrap(getattr(plots, name))
    source = inspect.getsource(inspect.getmodule(figure))  # pyright: ignore[reportArgumentType]
    assert "theme" in inspect.signature(figure).parameters
    assert "theme.template" not in source
