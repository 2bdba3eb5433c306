"""Whether a figure was given what it draws."""

from __future__ import annotations

from typing import Any

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError


def expect(value: Any, kind: type, call: str) -> None:
    """Refuse what a figure cannot draw.

    Args:
        value: what the user gave.
        kind: what the figure is of.
        call: what returns such a thing, for the message.

    Raises:
        InputError: if it is something else.
    """
    if not isinstance(value, kind):
        raise InputError(f"this figure is of what {call} returns, {kind.__name__}; got {type(value).__name__}")


def check_top(top: Any) -> int:
    """How many are drawn.

    Raises:
        InputError: if it is no integer from 1.
    """
    if not is_integer(top) or top < 1:
        raise InputError(f"top is how many are drawn, an integer from 1; got {top!r}")
    return int(top)
