"""Versions of packages."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

from ablationlens import provenance


def test_versions_are_those_installed() -> None:
    found = provenance.packages()
    assert found["torch"] == metadata.version("torch")
    assert found["python"].split(".") == [str(part) for part in sys.version_info[:3]]
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package-at-all"))
    provenance._versions.cache_clear()
    try:
        assert set(provenance.packages()) == {"python", "machine", "torch"}
    finally:
        provenance._versions.cache_clear()
