"""Modes: the gates that kept components get, from their importances and from sources.

Each is a base of a masked model, `MaskedModel(adapter, registry, base=...)`: a mask of 1 keeps a component as the mode
has it, and 0 ablates it, in every mode. The sources depend on the examples and never on the mask, so both arms of a
comparison have the same ones and ablating nothing changes nothing; only `PGD(..., reoptimise=True)` goes on from them
under each mask that ablates something.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.state import version
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.masks.base import Base, Search
from ablationlens.packing import choose
from ablationlens.progress import log
from ablationlens.randomness import raw
from ablationlens.registry import Part, Registry
from ablationlens.sites import RankOne
from ablationlens.spd.adversary import STARTS, Ascent, Found, Scope, Start, ascend
from ablationlens.spd.decomposition import Decomposition, Where, check_data, name_of
from ablationlens.spd.forward import GatedModel, Gates
from ablationlens.spd.given import check_given, check_range, importances_at, sources_at
from ablationlens.spd.objective import Aim, Objective
from ablationlens.spd.sources import Sampling, Sources, check_sampling, gates_of
from ablationlens.spd.warm_start import WarmStart

Remainder: TypeAlias = Literal["source", "kept", "dropped"]
REMAINDERS: tuple[Remainder, ...] = ("source", "kept", "dropped")
RISE = 0.05
"""How much more harm, as a share, further steps may do at a baseline before its user is told."""


class Mode(Base):
    """A base from a decomposition.

    Attributes:
        decomposition: whose importances are used.
        remainder: gate of the remainder of each module: "source", as of a component of importance 0; "kept", 1; or
            "dropped", 0.
    """

    def __init__(self, decomposition: Decomposition, *, remainder: Remainder = "source") -> None:
        if not isinstance(decomposition, Decomposition):
            raise InputError(f"a mode is of a decomposition, al.spd.load(path); got {type(decomposition).__name__}")
        if remainder not in REMAINDERS:
            raise InputError(f"remainder is one of {', '.join(REMAINDERS)}; got {remainder!r}")
        self.decomposition = decomposition
        self.remainder: Remainder = remainder

    def describe(self) -> dict[str, Any]:
        return {"base": type(self).__name__, "decomposition": self.decomposition.fingerprint, **self._settings()}

    @property
    def version(self) -> Hashable:
        return version(self.decomposition.parameters()), json.dumps(self._settings(), sort_keys=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._settings().items())})"

    def _settings(self) -> dict[str, Any]:
        return {"remainder": self.remainder}

    @abstractmethod
    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        """Sources of one sample, [example, *position, C + 1] of each module, on the CPU."""

    def module_gates(self, adapter: Adapter, data: Batch, sample: int = 0) -> dict[Where, Gates]:
        """Gates of the components of each module, for one sample: [example, *position, C], and of the remainder.

        Raises:
            InputError: if the model or the data does not fit, or the sample is no number from 0.
        """
        if not is_integer(sample) or sample < 0:
            raise InputError(f"sample is a whole number from 0; got {sample!r}")
        importances = self.decomposition.importances(adapter, data)
        return self.gates_with(importances, self.sources(adapter, data, importances, sample))

    def gates_with(self, importances: Mapping[Where, Tensor], sources: Mapping[Where, Tensor]) -> dict[Where, Gates]:
        """Gates of the components of each module, and of its remainder, for importances and sources.

        Args:
            importances: of each module, [example, *position, C] or [1, ..., C].
            sources: of each module, [example, *position, C + 1], the remainder's last, or [1, ..., C + 1].

        Raises:
            InputError: for another shape, or numbers outside [0, 1].
        """
        check_range(importances, "importances")
        check_range(sources, "sources")
        return self._gates_with(importances, sources)

    def _gates_with(self, importances: Mapping[Where, Tensor], sources: Mapping[Where, Tensor]) -> dict[Where, Gates]:
        """The same, without a look at the numbers."""
        gates = gates_of(importances, sources)
        return {where: Gates(own.parts.clamp(0, 1), self._remainder(own.remainder)) for where, own in gates.items()}

    def behind(self, adapter: Adapter, registry: Registry) -> Registry | None:
        held = self._parts(registry)
        whole = all(where in held and held[where].whole for where in self.decomposition.places)
        return None if whole else self.decomposition.registry(adapter)

    def gates(
        self, adapter: Adapter, registry: Registry, data: Batch
    ) -> Float[Tensor, "sample example component"] | Float[Tensor, "sample example position component"]:
        parts, importances = self._parts(registry), self.decomposition.importances(adapter, data)
        drawn = (self.sources(adapter, data, importances, sample) for sample in range(self.samples))
        return torch.stack([self._laid_out(registry, parts, self.gates_with(importances, own)) for own in drawn])

    def _remainder(self, gate: Tensor) -> Tensor:
        if self.remainder == "source":
            return gate
        return torch.full_like(gate, 1.0 if self.remainder == "kept" else 0.0)

    def _parts(self, registry: Registry) -> dict[Where, Part]:
        """Where the registry has components of each module: all, some, or none, of which nothing is said.

        Raises:
            InputError: if it has rank-one components of something else.
        """
        found: dict[Where, Part] = {}
        for part in registry.parts:
            basis, where = part.site.basis, (part.site.layer, part.site.module)
            if not isinstance(basis, RankOne):
                continue  # a head or a neuron is kept as it is
            own = self.decomposition[where] if where in self.decomposition.places else None
            if own is None or RankOne(own.V.detach(), own.U.detach()) != basis:
                raise InputError(
                    f"the rank-one components of {name_of(where)} in this registry are not those of the decomposition: "
                    "make the registry with decomposition.registry(adapter), or select(...) from that"
                )
            found[where] = part
        return found

    def _laid_with(
        self,
        registry: Registry,
        parts: Mapping[Where, Part],
        importances: Mapping[Where, Tensor],
        sources: Mapping[Where, Tensor],
    ) -> Tensor:
        """Gates of importances and sources, in the order of the registry's columns."""
        return self._laid_out(registry, parts, self._gates_with(importances, sources))

    def _laid_out(self, registry: Registry, parts: Mapping[Where, Part], gates: Mapping[Where, Gates]) -> Tensor:
        """Gates in the order of the registry's columns."""
        first = next(iter(gates.values())).parts
        laid = first.new_ones(*first.shape[:-1], len(registry))
        for where, part in parts.items():
            own = torch.cat([gates[where].parts, gates[where].remainder], dim=-1)
            laid[..., part.start : part.stop] = own if part.whole else own[..., list(part.indices)]
        return laid


class Deterministic(Mode):
    """Every component at its importance: sources are 0.

    Remainders, which have no importance, are left out unless they are "kept".

    Args:
        decomposition: whose importances are used.
        remainder: "dropped" or "kept".
    """

    def __init__(self, decomposition: Decomposition, *, remainder: Remainder = "dropped") -> None:
        if remainder == "source":
            raise InputError("remainder of Deterministic is 'dropped' or 'kept': its sources are all 0")
        super().__init__(decomposition, remainder=remainder)

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        return {where: torch.zeros(*lower.shape[:-1], lower.shape[-1] + 1) for where, lower in importances.items()}


class Stochastic(Mode):
    """Gates at random between each component's importance and 1; outputs are means over samples.

    The sources of an example depend on (seed, sample, its number in the data, module) alone.

    Args:
        decomposition: whose importances are used.
        n_samples: how many; each costs a forward pass of every example under every mask.
        sampling: "continuous", uniform sources, or "binomial", 0 or 1 with equal chance.
        seed: of the sources.
        remainder: "source", a uniform gate; "kept" or "dropped".
    """

    def __init__(
        self,
        decomposition: Decomposition,
        n_samples: int = 1,
        *,
        sampling: Sampling = "continuous",
        seed: int = 0,
        remainder: Remainder = "source",
    ) -> None:
        super().__init__(decomposition, remainder=remainder)
        check_sampling(sampling)
        if not is_integer(n_samples) or n_samples < 1:
            raise InputError(f"n_samples is a whole number from 1; got {n_samples!r}")
        self.n_samples, self.seed = int(n_samples), _seed(seed)  # as Python's own, which JSON knows
        self.sampling: Sampling = sampling

    @property
    def samples(self) -> int:
        return self.n_samples

    def _settings(self) -> dict[str, Any]:
        settings = {"n_samples": self.n_samples, "sampling": self.sampling, "seed": self.seed}
        return settings | super()._settings()

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        return addressed_sources(importances, self.sampling, self.seed, sample)


class PGD(Mode):
    """Gates that do the most harm between each component's importance and 1, by projected gradient ascent.

    They are found once, with every component kept, and hold for all masks. Each start costs steps + 1 forward passes of
    every example and steps backward passes.

    With `reoptimise` these are only where a further ascent begins, one for each example under each mask. The sources of
    what is kept move; what the mask ablates stays so at every step (the mask multiplies the gates); the output is
    measured with the worst sources that were met, the first included. A gradient in the mask takes them as constants.
    A row then costs 3 steps + 2 forward passes, a forward and a backward pass counted as 3.

    A mask that keeps everything has no further ascent: it gives what it gives without `reoptimise`. So what more steps
    gain at the baseline too counts as an effect of every ablation, even of a component that does nothing. A regression
    has that in its bias. Elsewhere give the baseline more steps, until the trace of `search` levels off; as many as an
    ablation gets are tried at the baseline when the gates are made, and a rise of more than 5% is logged as a warning.

    Args:
        decomposition: whose importances are used.
        steps: of the ascent.
        step_size: how far each source goes in a step.
        starts: where it begins, the worst of all being kept: "random", the sources of `Stochastic` with this seed (a
            second "random" those of its second sample), "ones" or "zeros".
        scope: "example", sources for every position of every example; "shared", the same for all.
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
        self.seed = _seed(seed)

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
            moving: with `begin`, True for the sources that the ascent may change; all by default.
            kept: what the gates are multiplied by, 0 for what is ablated throughout; all are kept by default.
            ascent: in place of the mode's own, of the same scope.

        Returns:
            The worst of all starts: for each example, or over all for a scope of "shared". On the CPU.

        Raises:
            InputError: if model, data, importances or sources do not fit, a number is outside [0, 1], or the ascent
                has another scope.
        """
        ascent = self._ascent(ascent)
        check_data(adapter, data)
        for given, what in ((importances, "importances"), (begin, "sources")):
            if given is not None:
                check_given(given, what, self.decomposition, len(data))
        known = self.decomposition.importances(adapter, data) if importances is None else importances
        model = GatedModel(adapter, self.decomposition, also=self.aim.taps)
        here = data.to(adapter.device)
        size = len(data)
        if self.ascent.scope == "example":
            size = choose(len(data), data.length, adapter.device, adapter.vocabulary).examples
        chunks: list[Found] = []
        with torch.inference_mode(False), torch.enable_grad(), model.session() as runs:
            for index in torch.arange(len(data)).split(size):
                batch = here.take(index)
                target, inputs = runs.target(batch)
                lower = importances_at(self.decomposition, known, index, inputs)
                off = (
                    None
                    if kept is None
                    else {at: Gates(*(_rows_of(one, index, adapter) for one in own)) for at, own in kept.items()}
                )
                free = None if moving is None else {at: _rows_of(one, index, adapter) for at, one in moving.items()}
                shared = self.ascent.scope == "shared"
                first = {} if begin is None else sources_at(begin, index, lower, shared=shared)

                def loss_of(
                    sources: Sources,
                    lower: dict[Where, Tensor] = lower,
                    off: dict[Where, Gates] | None = off,
                    free: Sources | None = free,
                    first: Sources = first,
                    target: Tensor = target,
                    batch: Batch = batch,
                ) -> Tensor:
                    if free is not None:
                        sources = {at: torch.where(free[at], one, first[at]) for at, one in sources.items()}
                    gates = {
                        where: Gates(own.parts, self._remainder(own.remainder))
                        for where, own in gates_of(lower, sources).items()
                    }
                    if off is not None:
                        gates = {
                            at: Gates(own.parts * off[at].parts, own.remainder * off[at].remainder)
                            for at, own in gates.items()
                        }
                    return self.aim(runs.gated(batch, gates), target, batch, runs.seen)

                starts = self._begun(lower, index) if begin is None else [first]
                begun = [{at: one.to(adapter.device) for at, one in start.items()} for start in starts]
                found = [ascend(loss_of, one, ascent, reaches_all=not self.aim.taps) for one in begun]
                chunks.append(_worst(found, self.ascent.scope))
        return _joined(chunks)

    def _ascent(self, given: Ascent | None) -> Ascent:
        """The ascent that was given, or the mode's own."""
        if given is None:
            return self.ascent
        if not isinstance(given, Ascent) or given.scope != self.ascent.scope:
            line = f"al.spd.Ascent(steps=20, step_size=0.1, scope={self.ascent.scope!r})"
            raise InputError(f"an ascent in place of the mode's own is {line}; got {given!r}")
        return given

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
                    one = _uniform(shape, self.seed, where, sample, [0] if shared else index.tolist())
                else:
                    one = torch.full(shape, 1.0 if start == "ones" else 0.0)
                sources[where] = one
            begun.append(sources)
        return begun


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


def _seed(seed: Any) -> int:
    """A seed as Python's own integer, which JSON knows.

    Raises:
        InputError: if it is none.
    """
    if not is_integer(seed) or not 0 <= seed < 2**63:
        raise InputError(f"seed is a whole number from 0 to 2**63 - 1; got {seed!r}")
    return int(seed)


def addressed_sources(
    importances: Mapping[Where, Float[Tensor, "example *position C"]],
    sampling: Sampling,
    seed: int,
    sample: int,
    examples: Sequence[int] | None = None,
) -> Sources:
    """Random sources that depend on (seed, sample, example, module) alone.

    Args:
        importances: whose sources they are.
        sampling: "continuous" or "binomial".
        seed: of the sources.
        sample: its number.
        examples: which the importances are of; all by default.
    """
    found: Sources = {}
    for where, lower in importances.items():
        own = range(lower.shape[0]) if examples is None else examples
        one = _uniform((*lower.shape[:-1], lower.shape[-1] + 1), seed, where, sample, own)
        if sampling == "binomial":
            one[..., :-1] = (one[..., :-1] >= 0.5).float()
        found[where] = one
    return found


def _uniform(shape: tuple[int, ...], seed: int, where: Where, sample: int, examples: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), [example, ...], each example's at an address of its own."""
    count = int(np.prod(shape[1:]))
    rows = [raw(seed, f"spd:{name_of(where)}", (sample << 32) + example, count) for example in examples]
    return torch.from_numpy((np.stack(rows) >> 8).astype(np.float32) / 2**24).reshape(shape)


def _rows_of(values: Tensor, index: Tensor, adapter: Adapter) -> Tensor:
    """Values of some examples, or those of all, on the model's device; new ones, of use to autograd in any mode."""
    return (values.clone() if len(values) == 1 else values[index]).to(adapter.device)


def _worst(found: Sequence[Found], scope: Scope) -> Found:
    """The worst of several ascents: for each example, or of all together."""
    if scope == "shared":
        return max(found, key=lambda one: float(one.loss.sum()))
    best = torch.stack([one.loss for one in found]).argmax(0)
    every = torch.arange(len(best))

    def pick(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([value.cpu() for value in values])[best, every]

    sources = {where: pick([one.sources[where] for one in found]) for where in found[0].sources}
    trace = torch.stack([one.trace for one in found])[best, :, every].T
    return Found(sources, pick([one.loss for one in found]), trace)


def _joined(chunks: Sequence[Found]) -> Found:
    """Ascents of consecutive examples as one."""
    if len(chunks) == 1:
        one = chunks[0]
        return Found({where: source.cpu() for where, source in one.sources.items()}, one.loss, one.trace)
    sources = {where: torch.cat([one.sources[where].cpu() for one in chunks]) for where in chunks[0].sources}
    return Found(sources, torch.cat([one.loss for one in chunks]), torch.cat([one.trace for one in chunks], dim=1))
