"""What a long run tells its user: a line before it starts, and a bar while it goes on.

The library logs to the logger ``ablationlens`` and never prints. A notebook shows that logger by default, because a
researcher should see what a call will cost; a script shows it if it configures logging; the command line does so.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import TqdmWarning

with warnings.catch_warnings():  # a notebook without ipywidgets gets the plain bar, which is no reason to warn
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

Item = TypeVar("Item")

log = logging.getLogger("ablationlens")


def show(level: int = logging.INFO) -> None:
    """Show the library's log on the standard error stream, once however often it is called."""
    if not any(getattr(handler, "ablationlens", False) for handler in log.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.ablationlens = True  # type: ignore[attr-defined]
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)


def announce(message: str) -> None:
    """Log a line about what is about to happen."""
    if _in_notebook() and not log.handlers:
        show()
    log.info(message)


def bar(items: Iterable[Item], *, total: int, unit: str, label: str, show_bar: bool | None = None) -> tqdm[Item]:
    """A progress bar over `items`; by default where there is a screen to see it."""
    disabled = not show_bar if show_bar is not None else not (_in_notebook() or sys.stderr.isatty())
    options: dict[str, Any] = {"disable": True} if disabled else {}  # not given otherwise, so that TQDM_DISABLE counts
    return tqdm(items, total=total, unit=unit, desc=label, leave=False, **options)


def duration(seconds: float) -> str:
    """A length of time in words: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 1:
        return "a second"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None
