"""One of several things, given by its name or by its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError


def place_of(wanted: Any, names: Sequence[str], what: str) -> int:
    """Place of something that is given by its name or its place.

    Args:
        wanted: name or place.
        names: of all there are.
        what: what it is, for the message.

    Raises:
        InputError: if there is none such.
    """
    place: Any = names.index(wanted) if isinstance(wanted, str) and wanted in names else wanted
    if not is_integer(place) or not -len(names) <= place < len(names):
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(f"no {what} {wanted!r}: there are {len(names)}, 0 to {len(names) - 1}, called {some}")
    return int(place) % len(names)
