"""Optional dependencies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import ablationlens as al
from ablationlens.extras import EXTRA_OF, optional


def test_a_missing_extra_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("circuitsvis", "circuitsvis.attention"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(al.MissingExtraError, match=r"pip install 'ablationlens\[circuitsvis\]'"):
        optional("circuitsvis.attention")


def test_what_is_installed_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA_OF, "json", "none")
    import json

    assert optional("json") is json


def test_every_extra_is_in_the_project() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(EXTRA_OF.values()) <= set(project["optional-dependencies"])
