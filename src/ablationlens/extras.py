"""Import an optional dependency, or say which extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from ablationlens.errors import MissingExtraError

EXTRA_OF: dict[str, str] = {"captum": "captum", "circuitsvis": "circuitsvis"}
"""Which extra of this package brings which optional module."""


def optional(module: str) -> ModuleType:
    """Import `module`, which one of the package's extras brings.

    Raises:
        MissingExtraError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF[module.partition(".")[0]]
        raise MissingExtraError(
            f"'{module}' is not installed. It comes with an extra: pip install 'ablationlens[{extra}]'"
        ) from error
