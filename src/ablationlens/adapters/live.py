"""The pass that is running: its edits, which the hooks of a session look up, and what they have seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters.base import Place, Placed
from ablationlens.adapters.hooking import by_example, hook, may_overwrite
from ablationlens.data import Batch
from ablationlens.edits import Coded, Lerp, LowRank, coded, lerp, low_rank
from ablationlens.errors import AdapterError
from ablationlens.types import Side


class Live:
    """The edits of the pass that is running, which the hooks of a session look up, and what they have seen.

    Between passes the hooks do nothing, so that an output, or the user, may run the model as it is. What a module reads
    is let go once its last components have read it, so that memory is free for the next module as in a plain pass.
    """

    def __init__(self) -> None:
        self.running = False
        self.batch: Batch | None = None
        self.edits: dict[tuple[int, Side], list[Placed]] = {}
        self.seen: dict[tuple[int, Side], Tensor] = {}
        self.fired: set[tuple[int, Side]] = set()
        self._last: dict[tuple[int, Side], Placed] = {}

    def begin(self, edits: Sequence[Placed]) -> None:
        """Take the edits of a new pass."""
        self.fired.clear()
        self.seen.clear()
        self.edits.clear()
        self._last.clear()
        for placed in edits:
            self.edits.setdefault(placed.write.key, []).append(placed)
            if placed.read is not None:
                last = self._last.setdefault(placed.read.key, placed)
                if placed.write.order >= last.write.order:
                    self._last[placed.read.key] = placed

    def note(self, key: tuple[int, Side], *, copy: bool) -> Callable[[Tensor], None]:
        """What a hook calls to note an activation, unchanged, where an edit of the pass that is running reads it.

        Args:
            key: of its place.
            copy: note a copy, for an activation that is looked at later: a module such as ``nn.ReLU(inplace=True)``
                overwrites what it is given.
        """

        def remember(activation: Tensor) -> None:
            if self.running and key in self._last:
                self.seen[key] = activation.clone() if copy else activation

        return remember

    def read(self, placed: Placed, activation: Tensor) -> Tensor:
        """What an edit reads: what it writes to, or what was seen before."""
        if placed.read is None:
            return activation
        key = placed.read.key
        # a basis of the user's own may read once and write in every call of a module
        if self._last[key] is placed and not isinstance(placed.edit, Coded):
            return self.seen.pop(key)
        return self.seen[key]

    def check(self) -> None:
        """Refuse a pass in which a site did not fire.

        Raises:
            AdapterError: naming the sites.
        """
        if len(self.fired) < len(self.edits):
            missed = [group[0].write for key, group in self.edits.items() if key not in self.fired]
            names = ", ".join(f"{place.address}.{place.hook}" for place in missed)
            raise AdapterError(f"these sites did not fire in this forward pass, so their ablation did nothing: {names}")


def hook_edit(key: tuple[int, Side], place: Place, live: Live) -> RemovableHandle:
    in_place = may_overwrite(place)

    def edit(activation: Tensor) -> Tensor | None:
        if not live.running:
            return None
        if key not in live.edits:  # a pass without edits, in a session with some
            return None
        live.fired.add(key)
        for placed in live.edits[key]:
            match placed.edit:
                case Lerp():
                    activation = _lerp_as_shown(activation, placed, in_place)
                case LowRank():
                    read = live.read(placed, activation)
                    activation = low_rank(activation, read, placed.edit, in_place=in_place)
                case Coded():
                    activation = coded(activation, live.read(placed, activation), placed.edit)
        return activation

    return hook(place, by_example(place, lambda: live.batch, edit))


def _lerp_as_shown(activation: Tensor, placed: Placed, in_place: bool) -> Tensor:
    assert isinstance(placed.edit, Lerp)
    view = placed.write.view
    if view is None:
        return lerp(activation, placed.edit, in_place=in_place)
    return view.revert(lerp(view.convert(activation), placed.edit))
