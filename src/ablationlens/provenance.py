"""Which versions of which packages produced a result."""

from __future__ import annotations

import platform
import sys
from functools import cache
from importlib import metadata

PACKAGES = ("ablationlens", "torch", "transformer-lens", "transformers", "numpy", "scipy")
"""Packages whose version can change a result."""


def packages() -> dict[str, str]:
    """Versions of the packages that are installed, and of Python."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3])), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
