"""Watch: what a forward pass under edits shows beside its logits, at taps and of attention patterns."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeAlias

from torch import Tensor

from ablationlens.errors import AdapterError, InputError
from ablationlens.sites import Pattern, Tap

Watched: TypeAlias = Tap | Pattern


class Watch:
    """What is to be seen of each pass of a session, and what the last pass showed.

    An activation is seen as it is handed on: after the edits at its own place. It holds its graph where one is built.

    Args:
        taps: activations and attention patterns.

    Attributes:
        taps: the same, each once.
        seen: of the last pass: [batch, position, feature] of a tap, [batch, head, query, key] of a pattern.
        advice: what to do about one that does not show.
        running: whether a pass is.
    """

    def __init__(self, taps: Iterable[Watched] = ()) -> None:
        given = taps if isinstance(taps, Tap | Pattern | str) else tuple(taps)
        if not isinstance(given, tuple) or not all(isinstance(tap, Tap | Pattern) for tap in given):
            raise InputError(f"taps are several al.Tap or al.Pattern, (al.Tap(1, 'mlp.out', 'out'),); got {given!r}")
        self.taps: tuple[Watched, ...] = tuple(dict.fromkeys(given))
        self.seen: dict[Watched, Tensor] = {}
        self.advice: dict[Watched, str] = {}
        self.running = False

    @property
    def activations(self) -> tuple[Tap, ...]:
        return tuple(tap for tap in self.taps if isinstance(tap, Tap))

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        return tuple(tap for tap in self.taps if isinstance(tap, Pattern))

    @contextmanager
    def one_pass(self) -> Generator[None]:
        """The duration of a pass: only then is anything noted, so that the user may run the model in between.

        Raises:
            AdapterError: if something did not show in a pass that went through.
        """
        self.seen.clear()
        self.running = True
        try:
            yield
        finally:
            self.running = False
        missed = [tap for tap in self.taps if tap not in self.seen]
        if missed:
            advice = self.advice.get(missed[0], "")
            names = ", ".join(map(str, missed))
            raise AdapterError(f"not shown in this forward pass: {names}{'. ' if advice else ''}{advice}")

    def note(self, tap: Watched, value: Tensor) -> None:
        """Keep what a pass shows; nothing between passes."""
        if self.running:
            self.seen[tap] = value
