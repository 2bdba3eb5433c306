"""Forward passes of a model whose decomposed modules run on gated components, differentiable in gates and factors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter, Place, Placed
from ablationlens.adapters.watch import Watch, Watched
from ablationlens.data import Batch
from ablationlens.edits import LowRank
from ablationlens.kinds import rank_one_taps
from ablationlens.spd.decomposition import Decomposition, Where, read_taps


class Gates(NamedTuple):
    """How much of each component of a module is kept, at each row of its input.

    Attributes:
        parts: [*rows, C], or anything that broadcasts to it.
        remainder: [*rows, 1], or anything that broadcasts to it.
    """

    parts: Float[Tensor, "*rows C"]
    remainder: Float[Tensor, "*#rows 1"]


class _Site(NamedTuple):
    """Where a module is read (None: where it is written) and written, and what it writes for an input of 0."""

    read: Place | None
    write: Place
    bias: Tensor


class Target(NamedTuple):
    """What the unmodified model does with some examples.

    Attributes:
        logits: [batch, position, class] or [batch, class].
        inputs: of the decomposed modules, [batch, *position, in].
    """

    logits: Tensor
    inputs: dict[Where, Tensor]


class Runs(NamedTuple):
    """What can be run in a session.

    Attributes:
        target: the unmodified model.
        gated: the model under gates; modules that are not named stay as they are.
        seen: what the last pass showed at taps.
    """

    target: Callable[[Batch], Target]
    gated: Callable[[Batch, Mapping[Where, Gates]], Tensor]
    seen: Mapping[Watched, Tensor]


class GatedModel:
    """A model, and the components of some of its modules.

    Args:
        adapter: the model.
        decomposition: of its modules.
        also: taps to be seen of each pass, beside the inputs of the modules.

    Raises:
        InputError: if the decomposition is of another model.
        AdapterError: if a module never fires, or more than once.
    """

    def __init__(self, adapter: Adapter, decomposition: Decomposition, *, also: Iterable[Watched] = ()) -> None:
        decomposition.weights(adapter)
        self.adapter, self.decomposition, self._also = adapter, decomposition, tuple(also)
        self._taps = read_taps(decomposition, adapter)
        self._sites = {where: self._site(where) for where in decomposition.places}

    def _site(self, where: Where) -> _Site:
        bias = self.adapter.bias(*where)
        zero = torch.zeros((), device=self.adapter.device, dtype=self.adapter.dtype)
        _, write = rank_one_taps(self.adapter.layout.module(*where))
        read, written = self.adapter.place(self._taps[where]), self.adapter.place(write)
        return _Site(None if read.key == written.key else read, written, zero if bias is None else bias.detach())

    @contextmanager
    def session(self) -> Generator[Runs]:
        """Many forward passes, whose hooks are laid once and taken off at the end.

        Gradients reach gates and factors, never the model's own parameters.
        """
        watch = Watch((*self._taps.values(), *self._also))
        with self.adapter.session(watch) as run:

            def target(batch: Batch) -> Target:
                with torch.no_grad():
                    logits = run(batch, self._edits({}))
                return Target(logits, {where: watch.seen[tap].detach() for where, tap in self._taps.items()})

            laid = False

            def gated(batch: Batch, gates: Mapping[Where, Gates]) -> Tensor:
                nonlocal laid
                if gates and not laid and len(gates) < len(self._sites):
                    with torch.no_grad():  # hooks are laid where the first pass has edits: at every module
                        run(batch, self._edits(self._whole()))
                laid = laid or bool(gates)
                return run(batch, self._edits(gates))

            yield Runs(target, gated, watch.seen)

    def _whole(self) -> dict[Where, Gates]:
        """Everything kept."""
        return {
            where: Gates(part.V.new_ones(part.components), part.V.new_ones(1))
            for where, part in self.decomposition.items()
        }

    def _edits(self, gates: Mapping[Where, Gates]) -> list[Placed]:
        return [self._edit(where, own) for where, own in gates.items()]

    def _edit(self, where: Where, gates: Gates) -> Placed:
        part, site = self.decomposition[where], self._sites[where]
        edit = LowRank(part.V, part.U, 1 - gates.parts, 1 - gates.remainder, None, site.bias, site.write.features)
        return Placed(edit, site.write, site.read)
