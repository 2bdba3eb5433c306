"""The decomposition that ships with the package: every attention projection of the bundled model `induction`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ablationlens.errors import UnknownNameError
from ablationlens.spd.decomposition import Decomposition
from ablationlens.spd.saving import load

FILE, CARD = "decomposition.safetensors", "card.json"
_WEIGHTS = Path(__file__).parent / "weights"
_NAMES = ("induction",)


def bundled(name: str = "induction") -> Decomposition:
    """A decomposition of a bundled model; `card` says what it can do.

    Args:
        name: ``"induction"``: rank-one components of q, k, v and o in both layers of the model of that name
            (`al.zoo.load`), with importance functions, trained by ``python -m ablationlens.spd.decompose_induction``.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    return load(_folder(name) / FILE)


def card(name: str = "induction") -> dict[str, Any]:
    """What was measured of a bundled decomposition: reconstruction, live components and importances of each module.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    found: dict[str, Any] = json.loads((_folder(name) / CARD).read_text(encoding="utf-8"))
    return found


def _folder(name: str) -> Path:
    if name not in _NAMES:
        raise UnknownNameError(f"no bundled decomposition is called {name!r}: there is {', '.join(_NAMES)}")
    return _WEIGHTS / name
