"""PGD: the gates that do the most harm, found by projected gradient ascent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.masks.base import Search
from ablationlens.packing import choose
from ablationlens.progress import log
from ablationlens.registry import Part, Registry
from ablationlens.spd.adversary import STARTS, Ascent, Found, Scope, Start, ascend, joined, worst
from ablationlens.spd.decomposition import Decomposition, Where, check_data
from ablationlens.spd.forward import GatedModel, Gates, Runs, Target
from ablationlens.spd.given import beside, check_gates, check_given, check_moving, importances_at, sources_at
from ablationlens.spd.modes import Mode, Remainder
from ablationlens.spd.objective import Aim, Objective
from ablationlens.spd.sources import Sources, checked_seed, gates_of, multiplied, uniform_sources
from ablationlens.spd.warm_start import WarmStart

RISE = 0.05
"""How much more harm, as a share, further steps may do at a baseline before its user is told."""


class PGD(Mode):
    """Gates that do the most harm between each component's importance and 1, by projected gradient ascent.

    They are found once, with every component kept, and hold for all masks. That costs, for each example, a pass for the
    importances, one of the unmodified model, and for each start steps + 1 forward and steps backward passes: with a
    forward and a backward pass counted as 3, 2 + starts * (3 steps + 1), which is `binding`.

    With `reoptimise` these are only where a further ascent begins, one for each example under each mask. The sources of
    what is kept move; what the mask ablates stays so at every step (the mask multiplies the gates); the output is
    measured with the worst sources that were met, the first included. A gradient in the mask takes them as constants.
    A row then costs 3 steps + 2 forward passes, counted in the same way.

    A mask that keeps everything has no further ascent: it gives what it gives without `reoptimise`. So what more steps
    gain at the baseline too counts as an effect of every ablation, even of a component that does nothing. A regression
    has that in its bias. Elsewhere give the baseline more steps, until the trace of `search` levels off; as many as an
    ablation gets are tried at the baseline when the gates are made, for 3 steps + 2 more of every example, and a rise
    of more than 5% is logged as a warning.

    Args:
        decomposition: whose importances are used.
        steps: of the ascent.
        step_size: how far each source goes in a step.
        starts: where it begins, the worst of all being kept: "random", the sources of `Stochastic` with this seed (a
            second "random" those of its second sample), "ones" or "zeros".
        scope: "example", sources for every position of every example; "shared", the same for all. All examples are then
            in one pass, so that its graph, with the activations of all of them, has to fit into memory.
        output: what is made as large as can be: "kl", of the unmodified model's predictions and these, or "mse", over
            all real positions; or any output, such as ``al.KL()``, which is of scored positions, or a function of
            logits and batch. For what is to become small, give its negative: ``lambda logits, batch:
            -al.Margin()(logits, batch)``.
        seed: of random starts.
        remainder: "source", its gate is part of the ascent; "kept" or "dropped".
        reoptimise: let the ascent go on under each mask.
        reoptimise_steps: of that ascent; as many as `steps` if not given.

    Raises:
        InputError: if something is out of range, or `reoptimise` is asked for with a scope of "shared" (sources that
            all examples share would have to be found over all of them under each mask) or with an output of
            activations.
    """

    def __init__(
        self,
        decomposition: Decomposition,
        steps: int = 20,
        step_size: float = 0.1,
        *,
        starts: Start | Sequence[Start] = "random",
        scope: Scope = "example",
        output: Objective = "kl",
        seed: int = 0,
        remainder: Remainder = "source",
        reoptimise: bool = False,
        reoptimise_steps: int | None = None,
    ) -> None:
        super().__init__(decomposition, remainder=remainder)
        self.ascent = Ascent(steps, step_size, scope)
        self.again = _again(self.ascent, reoptimise, reoptimise_steps)
        given: Any = [starts] if isinstance(starts, str) else starts
        if not isinstance(given, Sequence) or not given or any(start not in STARTS for start in given):
            raise InputError(f"starts are one or several of {', '.join(STARTS)}, in a list; got {starts!r}")
        self.starts: tuple[Start, ...] = tuple(given)
        self.aim = Aim(output)
        if self.again is not None and self.aim.taps:
            read = ", ".join(map(str, self.aim.taps))
            raise InputError(
                f"an ascent under each mask sees logits alone, and this output reads {read}: leave reoptimise out, or "
                "give an output of logits"
            )
        self.seed = checked_seed(seed)

    def _settings(self) -> dict[str, Any]:
        return {
            "steps": self.ascent.steps,
            "step_size": self.ascent.step_size,
            "starts": list(self.starts),
            "scope": self.ascent.scope,
            "output": self.aim.describe(),
            "seed": self.seed,
            **super()._settings(),
            **({} if self.again is None else {"reoptimise": True, "reoptimise_steps": self.again.steps}),
        }

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **({} if self.again is None else {"passes": self.passes})}

    @property
    def binding(self) -> int:
        begun = 1 + len(self.starts) * (3 * self.ascent.steps + 1)
        return super().binding + begun + (0 if self.again is None else 3 * self.again.steps + 2)

    @property
    def passes(self) -> int:
        return 1 if self.again is None else 3 * self.again.steps + 2

    def bind(self, adapter: Adapter, registry: Registry, data: Batch) -> tuple[Tensor, Search | None]:
        if self.again is None:
            return super().bind(adapter, registry, data)
        importances = self.decomposition.importances(adapter, data)
        sources, parts = self.sources(adapter, data, importances, 0), self._parts(registry)
        self._warn_if_rising(adapter, data, importances, sources)

        laid_out = partial(self._laid_with, registry, parts)  # and no function of this call, which could not be pickled
        here, begin = ({at: one.to(adapter.device) for at, one in held.items()} for held in (importances, sources))
        return laid_out(importances, sources)[None], WarmStart(here, begin, laid_out, self.again, self.aim)

    def _laid_with(
        self,
        registry: Registry,
        parts: Mapping[Where, Part],
        importances: Mapping[Where, Tensor],
        sources: Mapping[Where, Tensor],
    ) -> Tensor:
        """Gates of importances and sources, in the order of the registry's columns."""
        return self._laid_out(registry, parts, self._gates_with(importances, sources))

    def _warn_if_rising(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sources: Mapping[Where, Tensor]
    ) -> None:
        """Say so where more steps do more harm with nothing ablated, at the cost of one mask."""
        trace = self.search(adapter, data, importances, begin=sources, ascent=self.again).trace.double()
        before, after = float(trace[0].mean()), float(trace.max(0).values.mean())
        if after > before + RISE * abs(before):
            log.warning(
                "PGD: with nothing ablated, %d more steps raise the mean loss from %.4g to %.4g, and so much of every "
                "effect is not the ablation's; give the baseline more than steps=%d, with reoptimise_steps=%d",
                len(trace) - 1,
                before,
                after,
                self.ascent.steps,
                len(trace) - 1,
            )

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        found = self.search(adapter, data, importances).sources
        return {where: source.expand(*importances[where].shape[:-1], -1) for where, source in found.items()}

    def search(
        self,
        adapter: Adapter,
        data: Batch,
        importances: Mapping[Where, Tensor] | None = None,
        *,
        begin: Mapping[Where, Tensor] | None = None,
        moving: Mapping[Where, Tensor] | None = None,
        kept: Mapping[Where, Gates] | None = None,
        ascent: Ascent | None = None,
    ) -> Found:
        """The ascent: the sources, the loss of each example with them, and the losses on the way.

        Args:
            adapter: the model.
            data: the examples.
            importances: of the components of each module, if they are known: [example, *position, C], or [1, ..., C]
                for all rows alike.
            begin: sources to begin with, in place of the starts: [example, *position, C + 1], or [1, ..., C + 1], from
                which those of a scope of "example" then part.
            moving: with `begin`, True for the sources that the ascent may change, [example, *position, C + 1]; all by
                default.
            kept: what the gates are multiplied by, 0 for what is ablated throughout, [example, *position, C] and for
                remainders [example, *position, 1]; all are kept by default. Here and in `moving` 1 for the examples
                or the positions stands for all alike.
            ascent: in place of the mode's own, of the same scope.

        Returns:
            The worst of all starts: for each example, or over all for a scope of "shared". On the CPU.

        Raises:
            InputError: if model, data, importances, sources, `moving` or `kept` do not fit, a number is outside
                [0, 1], there is `moving` without `begin`, or the ascent has another scope.
        """
        ascent = self._ascent(ascent)
        check_data(adapter, data)
        for given, what in ((importances, "importances"), (begin, "sources")):
            if given is not None:
                check_given(given, what, self.decomposition, len(data))
        if moving is not None and begin is None:
            raise InputError(
                "moving says which of the sources in begin may change: give begin=... too, or leave moving out"
            )
        if moving is not None:
            check_moving(moving, self.decomposition, len(data))
        if kept is not None:
            check_gates(kept, self.decomposition, len(data))
        known = self.decomposition.importances(adapter, data) if importances is None else importances
        given, here = _Given(known, begin, moving, kept), data.to(adapter.device)
        model = GatedModel(adapter, self.decomposition, also=self.aim.taps)
        found: list[Found] = []
        with torch.inference_mode(False), torch.enable_grad(), model.session() as runs:
            for index in torch.arange(len(data)).split(self._rows(adapter, data)):
                batch = here.take(index)
                chunk = self._chunk(given, index, batch, runs.target(batch))
                found.append(self._worst_of(chunk, runs, ascent))
        return joined(found)

    def _ascent(self, given: Ascent | None) -> Ascent:
        """The ascent that was given, or the mode's own."""
        if given is None:
            return self.ascent
        if not isinstance(given, Ascent) or given.scope != self.ascent.scope:
            line = f"al.spd.Ascent(steps=20, step_size=0.1, scope={self.ascent.scope!r})"
            raise InputError(f"an ascent in place of the mode's own is {line}; got {given!r}")
        return given

    def _rows(self, adapter: Adapter, data: Batch) -> int:
        """Examples of one pass: all of them where they share sources."""
        if self.ascent.scope == "shared":
            return len(data)
        return choose(len(data), data.length, adapter.device, adapter.vocabulary).examples

    def _chunk(self, given: _Given, index: Tensor, batch: Batch, target: Target) -> _Chunk:
        """Some examples of a search, with what is given for them.

        Raises:
            InputError: if the shape of importances or sources does not fit.
        """
        lower = importances_at(self.decomposition, given.importances, index, target.inputs)
        shared = self.ascent.scope == "shared"
        if given.begin is None:
            starts = self._begun(lower, index)
        else:
            starts = [sources_at(given.begin, index, lower, shared=shared)]
        moving, kept = given.moving, given.kept
        if moving is not None:
            moving = {at: beside(moving[at], "moving", at, own.shape[-1] + 1, index, own) for at, own in lower.items()}
        if kept is not None:
            kept = {
                at: Gates(
                    beside(kept[at].parts, "parts of kept", at, own.shape[-1], index, own),
                    beside(kept[at].remainder, "remainder of kept", at, 1, index, own),
                )
                for at, own in lower.items()
            }
        return _Chunk(batch, target.logits, lower, starts, moving, kept)

    def _worst_of(self, chunk: _Chunk, runs: Runs, ascent: Ascent) -> Found:
        """The worst sources of some examples, over all starts."""
        loss_of = partial(self._loss, chunk, runs)
        reaches_all = not self.aim.taps
        return worst([ascend(loss_of, one, ascent, reaches_all=reaches_all) for one in chunk.starts], ascent.scope)

    def _loss(self, chunk: _Chunk, runs: Runs, sources: Sources) -> Tensor:
        """What the ascent makes large, of each example of a chunk."""
        gates = {
            where: Gates(own.parts, self._remainder(own.remainder))
            for where, own in gates_of(chunk.importances, chunk.settled(sources)).items()
        }
        if chunk.kept is not None:
            gates = multiplied(gates, chunk.kept)
        return self.aim(runs.gated(chunk.batch, gates), chunk.target, chunk.batch, runs.seen)

    def _begun(self, importances: Mapping[Where, Tensor], index: Tensor) -> list[Sources]:
        """The sources that each start begins with, for some examples."""
        begun: list[Sources] = []
        shared = self.ascent.scope == "shared"
        for number, start in enumerate(self.starts):
            sources: Sources = {}
            for where, lower in importances.items():
                rows = (1,) * (lower.ndim - 1) if shared else (len(index), *lower.shape[1:-1])
                shape = (*rows, lower.shape[-1] + 1)
                if start == "random":
                    sample = self.starts[:number].count("random")
                    one = uniform_sources(shape, self.seed, where, sample, [0] if shared else index.tolist())
                else:
                    one = torch.full(shape, 1.0 if start == "ones" else 0.0)
                sources[where] = one.to(lower.device)
            begun.append(sources)
        return begun


@dataclass(frozen=True, eq=False)
class _Given:
    """What a search is given for all examples: see `PGD.search`."""

    importances: Mapping[Where, Tensor]
    begin: Mapping[Where, Tensor] | None
    moving: Mapping[Where, Tensor] | None
    kept: Mapping[Where, Gates] | None


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some examples of a search, which are in one pass, and what their loss depends on beside the sources.

    Attributes:
        batch: the examples.
        target: logits of the unmodified model for them.
        importances: [example, *position, C] of each module.
        starts: the sources that each ascent begins with.
        moving: True for sources that the ascent may change; all if None.
        kept: what the gates are multiplied by; nothing if None.
    """

    batch: Batch
    target: Tensor
    importances: Mapping[Where, Tensor]
    starts: Sequence[Sources]
    moving: Mapping[Where, Tensor] | None
    kept: Mapping[Where, Gates] | None

    def settled(self, sources: Sources) -> Sources:
        """The sources, with those that may not change as they were begun with."""
        if self.moving is None:
            return sources
        (begun,) = self.starts
        return {where: torch.where(self.moving[where], one, begun[where]) for where, one in sources.items()}


def _again(ascent: Ascent, reoptimise: bool, steps: int | None) -> Ascent | None:
    """The ascent under each mask, if there is to be one."""
    if not isinstance(reoptimise, bool):
        raise InputError(f"reoptimise is True or False; got {reoptimise!r}: steps are reoptimise_steps={reoptimise!r}")
    if not reoptimise:
        if steps is not None:
            raise InputError(f"reoptimise_steps={steps!r} are of reoptimise=True: give both, or neither")
        return None
    if ascent.scope != "example":
        raise InputError(
            "reoptimise=True finds sources for each example under each mask, and a scope of 'shared' has the same for "
            "all examples: PGD(decomposition, scope='example', reoptimise=True)"
        )
    if steps is not None and (not is_integer(steps) or steps < 1):
        raise InputError(f"reoptimise_steps is a whole number from 1; got {steps!r}")
    return ascent if steps is None else replace(ascent, steps=int(steps))
