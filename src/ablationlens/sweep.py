"""Sweep: many masks over one data set, in packed forward passes."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.plan import Plan, Replacements, StandIns
from ablationlens.adapters.watch import Watch, Watched
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masks.gating import Gated, GatedData
from ablationlens.outputs import Output
from ablationlens.packing import Packing, choose, of_rows
from ablationlens.progress import announce, duration

log = logging.getLogger("ablationlens")

ESTIMATE_FROM = 20
"""Passes from which a sweep times one pass first and says how long it will take."""
TIMED_PASSES = 3
"""Passes that are timed for it."""
PACKED_SHAPES, PACKED_BYTES = 64, 2**29
"""Shapes of passes whose inputs are kept, and how large all of them together may be: gates of a base are large."""

Standing: TypeAlias = StandIns | Gated
"""What stands in for ablated parts in some rows, and the gates of what a base keeps there."""


@runtime_checkable  # so that beartype can check it in the tests
class MaskSource(Protocol):
    """Anything that gives the masks of consecutive draws: a Design, or given masks.

    One whose `by_example` is True gives every example masks of its own, [draw, example, component] or [draw, example,
    position, component].
    """

    by_example: ClassVar[bool]

    @property
    def components(self) -> int: ...

    @property
    def draws(self) -> int: ...

    def masks(self, start: int, stop: int) -> np.ndarray | Tensor: ...


@dataclass(frozen=True)
class GivenMasks:
    """Masks that the user made: [draw, component], or [draw, position, component]."""

    by_example: ClassVar[bool] = False

    values: Tensor

    @property
    def components(self) -> int:
        return self.values.shape[-1]

    @property
    def draws(self) -> int:
        return self.values.shape[0]

    def masks(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop]


@dataclass
class Bound:
    """Data on the model's device, with what stands in for its ablated parts."""

    data: Batch
    replacements: Replacements
    stand_ins: StandIns
    base: GatedData | None = None
    """Gates of what is kept, where there is a base."""
    reference: Tensor | None = None
    packed: dict[tuple[int, range, int], tuple[Batch, Standing, Tensor | None]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many sets of gates a base has."""
        return 1 if self.base is None else len(self.base.gates)

    @property
    def searches(self) -> bool:
        """Whether a base finds gates under each mask."""
        return self.base is not None and self.base.search is not None

    @property
    def passes(self) -> int:
        """What one row costs in forward passes, for each sample: see `Base.passes`."""
        return 1 if self.base is None else self.base.gating.base.passes

    def keep(self, key: tuple[int, range, int], data: Batch, standing: Standing, reference: Tensor | None) -> None:
        """Keep what goes into passes of one shape; where that is too much, what was kept before is given up."""
        held = sum(_size(*one) for one in self.packed.values()) + _size(data, standing, reference)
        if len(self.packed) >= PACKED_SHAPES or held > PACKED_BYTES:
            self.packed.clear()
        self.packed[key] = data, standing, reference

    def under(self, sample: int) -> Standing:
        """What stands in for all examples, with the gates of one sample."""
        if self.base is None:
            return self.stand_ins
        return self.base.rows(self.replacements, sample, torch.arange(len(self.data), device=self.base.gates.device))

    def rows(self, plan: Plan, sample: int, examples: Tensor) -> Standing:
        """What stands in for some rows of a plan, each of them an example, with the gates of one sample."""
        replacements = self.replacements.take(examples)
        if self.base is None:
            return plan.stand_ins(replacements)
        return self.base.rows(replacements, sample, examples)


def _size(data: Batch, standing: Standing, reference: Tensor | None) -> int:
    """Bytes of what goes into passes of one shape."""
    own = [standing.gates] if isinstance(standing, Gated) else []
    rest = standing.rest if isinstance(standing, Gated) else standing
    held = [one for pair in (() if rest is None else rest.steps) for one in pair]
    return sum(one.nbytes for one in (*data.inputs.values(), *own, *held, reference) if one is not None)


@runtime_checkable
class Runs(Protocol):
    """What a sweep needs of a MaskedModel."""

    adapter: Adapter
    plan: Plan
    output: Output

    def bind(self, data: Batch) -> Bound: ...

    def reference(self, bound: Bound) -> Tensor | None: ...

    def settled(self, mask: Tensor, data: Batch, stand_ins: Standing, reference: Tensor | None) -> Standing: ...

    def session(self, watch: Watch) -> AbstractContextManager[Callable[[Tensor, Batch, Standing], Tensor]]: ...

    def evaluate(self, mask: Tensor, data: Batch, stand_ins: Standing, reference: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Pass:
    """What one forward pass of a sweep gave: row r is draw ``draws[r // len(examples)]``.

    Attributes:
        draws: of the source.
        examples: of the data.
        batch: the rows' inputs.
        logits: of the rows.
        reference: logits of the unmodified model for the rows, if the output or a base needs them.
        seen: what was watched.
    """

    draws: range
    examples: range
    batch: Batch
    logits: Tensor
    reference: Tensor | None
    seen: Mapping[Watched, Tensor]

    def by_draw(self, rows: Tensor) -> Tensor:
        """Values of the rows, [row, ...], as [draw, example, ...]."""
        return rows.unflatten(0, (len(self.draws), len(self.examples)))


class _Inputs(NamedTuple):
    """What goes into one forward pass: rows that belong together."""

    mask: Tensor
    batch: Batch
    stand_ins: Standing
    reference: Tensor | None


class Sweep:
    """Masks of one source over one data set, in packed forward passes.

    Args:
        model: what to run.
        data: the examples.
        source: the masks.
        rows: rows of one pass; chosen if not given.
        packing: as recorded by an earlier run; goes before `rows`.
    """

    def __init__(
        self,
        model: Runs,
        data: Batch,
        source: MaskSource,
        *,
        rows: int | None = None,
        packing: Packing | None = None,
    ) -> None:
        self.model = model
        self.source = source
        self.examples = len(data)
        self.bound = model.bind(data)
        device = model.adapter.device
        if packing is None and rows is not None:
            packing = of_rows(rows, self.examples)
        self.packing = packing or choose(self.examples, data.length, device, model.adapter.vocabulary)

    def announce(self, what: str, *, factor: float = 1.0, share: float = 1.0) -> None:
        """Log what the sweep will cost, what a base adds to that, and how long it takes, from one timed pass.

        Args:
            what: name of the sweep.
            factor: cost of a pass, in forward passes (a gradient costs about 3).
            share: share of the draws that is still to be done.
        """
        draws = round(self.source.draws * share)
        seconds = None
        if self.packing.passes(draws, self.examples) >= ESTIMATE_FROM and log.isEnabledFor(logging.INFO):
            seconds = self._time_one_pass()  # may find that a pass does not fit, so the passes are counted after it
        samples = self.bound.samples
        passes = self.packing.passes(draws, self.examples) * samples
        rows = draws * self.examples * samples
        length = "" if self.bound.data.length is None else f" of {self.bound.data.length} positions"
        message = (
            f"{what}: {draws:,} masks x {self.examples:,} examples{f' x {samples} samples' if samples > 1 else ''} "
            f"= {rows:,} forward rows{length}, "
            f"in {passes:,} passes of {min(self.packing.rows, rows)}"
        )
        each = self.bound.passes  # of a row, of which the factor is for the last: what is found is found once
        if each > 1:
            total = round(rows * (each - 1 + factor))
            message += f"; each row costs {each - 1:,} more to find its gates, {total:,} forward rows in all"
        if self.bound.base is not None and (once := self.bound.base.gating.base.binding) > 1:
            message += f"; the gates of the base, found once before, cost {once * self.examples:,} forward rows"
        if seconds is not None:
            message += f", about {duration(seconds * passes * (each - 1 + factor) / each)}"
        announce(message)

    def _time_one_pass(self) -> float:
        """Seconds of one pass, sampling included: a median, because a machine has other things to do."""
        stop = self.source.draws  # the last draws: under the first one many designs keep everything
        first = max(0, stop - self.packing.draws)
        seconds: list[float] = []
        for _ in range(1 + TIMED_PASSES):
            start = time.perf_counter()
            self.outputs(first, stop, limit=1)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])  # the first pass also pays for what is set up once

    def blocks(self, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """Consecutive draws that share one call of `outputs` or `gradients`."""
        for first in range(start, stop, self.packing.draws):
            yield first, min(first + self.packing.draws, stop)

    def outputs(self, start: int, stop: int, *, limit: int | None = None) -> Float[Tensor, "draw example"]:
        """Outputs of the draws from `start` to `stop`, means over the samples of a base.

        A pass that does not fit into memory is halved.
        """
        while True:
            try:
                return self._outputs(start, stop, limit)
            except RuntimeError as error:
                self._halve(error)

    def _outputs(self, start: int, stop: int, limit: int | None) -> Tensor:
        out = torch.empty(self.bound.samples, stop - start, self.examples)
        output = self.model.output
        for sample in range(self.bound.samples):

            def keep(one: Pass, into: Tensor = out[sample]) -> None:
                values = output.score(one.logits, one.batch, one.reference, one.seen)
                own = slice(one.draws.start - start, one.draws.stop - start)
                into[own, one.examples.start : one.examples.stop] = one.by_draw(values).to("cpu", torch.float32)

            self._visit(start, stop, keep, output.taps, limit, sample)
        return out[0] if len(out) == 1 else out.mean(0)

    @property
    def samples(self) -> int:
        """How many sets of gates a base has, each of which takes passes of its own; 1 without one."""
        return self.bound.samples

    def visit(
        self, start: int, stop: int, call: Callable[[Pass], None], taps: Iterable[Watched] = (), *, sample: int = 0
    ) -> None:
        """Call `call` with each forward pass of the draws from `start` to `stop`.

        Where a pass does not fit into memory all of these draws are run again in smaller ones, so what `call` keeps has
        to be overwritten by that, and not added to.

        Args:
            start: first draw.
            stop: one after the last.
            call: takes what it wants of a pass, which nothing else keeps.
            taps: what is to be seen beside the logits.
            sample: which of the base's sets of gates the passes have.
        """
        while True:
            try:
                return self._visit(start, stop, call, taps, None, sample)
            except RuntimeError as error:
                self._halve(error)

    def _visit(
        self,
        start: int,
        stop: int,
        call: Callable[[Pass], None],
        taps: Iterable[Watched],
        limit: int | None,
        sample: int,
    ) -> None:
        watch, spans = Watch(taps), list(self.packing.spans(start, stop, self.examples))[:limit]

        def show(run: Callable[[Tensor, Batch, Standing], Tensor], draws: range, rows: range, inputs: _Inputs) -> None:
            logits = run(inputs.mask, inputs.batch, inputs.stand_ins)
            call(Pass(draws, rows, inputs.batch, logits, inputs.reference, watch.seen))
            watch.seen.clear()

        with torch.no_grad():
            if self.bound.searches:  # in passes of its own, which are not to be watched
                for draws, rows in spans:
                    inputs = self._inputs(draws, rows, sample)
                    with self.model.session(watch) as run:
                        show(run, draws, rows, inputs)
                return
            with self.model.session(watch) as run:
                for draws, rows in spans:
                    show(run, draws, rows, self._inputs(draws, rows, sample))

    def _inputs(self, draws: range, rows: range, sample: int) -> _Inputs:
        """What goes into one pass."""
        mask = self._of_rows(self._masks(draws.start, draws.stop), rows)
        batch, stand_ins, reference = self._packed(len(draws), rows, sample)
        return _Inputs(mask, batch, self.model.settled(mask, batch, stand_ins, reference), reference)

    def gradients(
        self, start: int, stop: int
    ) -> tuple[Float[Tensor, " draw *gates"], Float[Tensor, "draw example"], Float[Tensor, "draw example *gates"]]:
        """Masks, outputs and mask gradients of the draws from `start` to `stop`."""
        while True:
            try:
                return self._gradients(start, stop)
            except RuntimeError as error:
                self._halve(error)

    def _gradients(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        outputs = torch.empty(stop - start, self.examples)
        masks = self._masks(start, stop)
        gradients = torch.empty(stop - start, self.examples, *masks.shape[2 if self.source.by_example else 1 :])
        for draws, rows in self.packing.spans(start, stop, self.examples):
            own = slice(draws.start - start, draws.stop - start)
            with torch.inference_mode(False), torch.enable_grad():  # whatever the user's mode is
                mask = self._of_rows(masks[own], rows).detach()
                values, gradient = self._with_gradient(mask, len(draws), rows)
            shape = (len(draws), len(rows))
            outputs[own, rows.start : rows.stop] = values.view(shape).to("cpu", torch.float32)
            gradients[own, rows.start : rows.stop] = gradient.unflatten(0, shape).cpu()
        return masks.to("cpu", torch.float32), outputs, gradients

    def _with_gradient(self, mask: Tensor, draws: int, rows: range) -> tuple[Tensor, Tensor]:
        """Outputs and mask gradients of one pass, means over the samples of a base."""
        found: list[tuple[Tensor, Tensor]] = []
        for sample in range(self.bound.samples):
            own = mask.clone().requires_grad_()
            values = self.model.evaluate(own, *self._packed(draws, rows, sample))
            if not values.requires_grad:
                raise InputError(
                    "the output has no gradient in the mask: leave out .detach(), .item() and argmax, or use sweep"
                )
            found.append((values.detach(), torch.autograd.grad(values.sum(), own)[0]))
        if len(found) == 1:
            return found[0]
        return torch.stack([values for values, _ in found]).mean(0), torch.stack([one for _, one in found]).mean(0)

    def _masks(self, start: int, stop: int) -> Tensor:
        """The masks of some draws, as the source has them."""
        masks = self.source.masks(start, stop)
        return masks if isinstance(masks, Tensor) else torch.from_numpy(np.ascontiguousarray(masks))

    def _of_rows(self, masks: Tensor, rows: range) -> Tensor:
        """The mask of each row of a pass, on the model's device; masks of other examples stay where they are."""
        own = masks[:, rows.start : rows.stop].flatten(0, 1) if self.source.by_example else masks
        here = own.to(self.model.adapter.device, torch.float32)
        return here if self.source.by_example else here.repeat_interleave(len(rows), dim=0)

    def _packed(self, draws: int, rows: range, sample: int) -> tuple[Batch, Standing, Tensor | None]:
        """Inputs and replacements of a pass; the same for all passes of one shape, so kept."""
        key = (draws, rows, sample)
        if key not in self.bound.packed:
            reference = self.model.reference(self.bound)
            with torch.inference_mode(False), torch.no_grad():  # what is kept must be of use to autograd later
                index = torch.arange(rows.start, rows.stop, device=self.model.adapter.device).repeat(draws)
                self.bound.keep(
                    key,
                    self.bound.data.take(index),
                    self.bound.rows(self.model.plan, sample, index),
                    None if reference is None else reference[index],
                )
        return self.bound.packed[key]

    def _halve(self, error: RuntimeError) -> None:
        """Halve the packing after an out-of-memory error; raise any other again."""
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise error
        self.bound.packed.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.packing = self.packing.halved()
        log.warning("a forward pass did not fit into memory: going on with %d rows a pass", self.packing.rows)
