"""MaskedModel: the function ``mask -> output`` that every method of this library is made from."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens import packing as packings
from ablationlens import progress
from ablationlens.ablations import Ablation, Zero
from ablationlens.adapters.base import Adapter
from ablationlens.adapters.plan import Plan, Replacements, StandIns
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masks.designs import Design
from ablationlens.outputs import Margin, Output, as_output
from ablationlens.packing import Packing
from ablationlens.registry import Registry
from ablationlens.sites import Component

log = logging.getLogger("ablationlens")

ESTIMATE_FROM = 20
"""Passes from which a sweep times one pass first and says how long it will take."""
BOUND_BATCHES = 4
"""Batches whose replacements are kept."""


class MaskSource(Protocol):
    """Anything that gives the masks of consecutive draws: a Design, or given masks."""

    @property
    def components(self) -> int: ...

    @property
    def draws(self) -> int: ...

    def masks(self, start: int, stop: int) -> np.ndarray | Tensor: ...


@dataclass(frozen=True)
class GivenMasks:
    """Masks that the user made: [draw, component], or [draw, position, component]."""

    values: Tensor

    @property
    def components(self) -> int:
        return self.values.shape[-1]

    @property
    def draws(self) -> int:
        return self.values.shape[0]

    def masks(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop]


Reduce: TypeAlias = Literal["mean", "sum"] | Callable[[Tensor, Tensor, Tensor], None]
"""How mask gradients are reduced as they come: over draws, or by a function of (masks, outputs, gradients)."""


@dataclass
class Bound:
    """Data on the model's device, with what stands in for its ablated parts."""

    data: Batch
    replacements: Replacements
    stand_ins: StandIns
    reference: Tensor | None = None
    packed: dict[tuple[int, range], tuple[Batch, StandIns, Tensor | None]] = field(default_factory=dict)


class MaskedModel:
    """A model whose components can be kept, ablated or anything between, and what is measured of it.

    Args:
        adapter: the model, from `al.adapt`.
        registry: its components; column j of every mask is ``registry[j]``.
        ablation: what an ablated component holds instead.
        output: what is measured: an `Output`, or any function of logits (and batch) that gives one number a row.

    Raises:
        AdapterError: if a component's site never fires, or fires more than once, in a forward pass.
        InputError: if the registry is empty.
    """

    def __init__(
        self,
        adapter: Adapter,
        registry: Registry,
        ablation: Ablation | None = None,
        output: Output | Callable[..., Tensor] | None = None,
    ) -> None:
        if not len(registry):
            raise InputError("the registry is empty: choose components, for example adapter.registry('head')")
        self.adapter = adapter
        self.registry = registry
        self.ablation = Zero() if ablation is None else ablation
        self.output = as_output(Margin() if output is None else output)
        self.plan = Plan(adapter, registry)
        self._bound: OrderedDict[int, tuple[Batch, Bound]] = OrderedDict()

    def __repr__(self) -> str:
        return f"MaskedModel({self.adapter!r}, {len(self.registry):,} components, {self.ablation!r}, {self.output!r})"

    # -- one forward pass -----------------------------------------------------------------------------------------

    def __call__(self, mask: Tensor, data: Batch) -> Float[Tensor, " batch"]:
        """Output of each example under its own mask, differentiable in the mask.

        Args:
            mask: [batch, component], [batch, position, component] or [1, component], from 0 (ablated) to 1 (kept);
                row b belongs to example b.
            data: the examples.

        Raises:
            InputError: if the mask has another shape, or values outside [0, 1].
        """
        self._check(mask, data)
        bound = self.bind(data)
        return self.evaluate(mask.to(self.adapter.device), bound.data, bound.stand_ins, self.reference(bound))

    def logits(self, mask: Tensor, data: Batch) -> Tensor:
        """Logits of each example under its own mask: [batch, position, vocab] or [batch, class]."""
        self._check(mask, data)
        bound = self.bind(data)
        return self.adapter.run(bound.data, self.plan.edits(mask.to(self.adapter.device), bound.stand_ins))

    def evaluate(self, mask: Tensor, data: Batch, stand_ins: StandIns, reference: Tensor | None) -> Tensor:
        """One forward pass, nothing checked: rows of mask, data, stand-ins and reference belong together."""
        logits = self.adapter.run(data, self.plan.edits(mask, stand_ins))
        return self.output(logits, data, reference)

    def bind(self, data: Batch) -> Bound:
        """What the ablation puts in place of ablated parts of `data`: made once, and kept for the last few batches."""
        if id(data) not in self._bound:
            here = data.to(self.adapter.device)
            with torch.no_grad():
                replacements = self.ablation.bind(self.plan, here)
                bound = Bound(here, replacements, self.plan.stand_ins(replacements))
            self._bound[id(data)] = (data, bound)  # holding the batch keeps its id its own
            if len(self._bound) > BOUND_BATCHES:
                self._bound.popitem(last=False)
        return self._bound[id(data)][1]

    def reference(self, bound: Bound) -> Tensor | None:
        """Logits of the unmodified model, where the output compares with them."""
        if self.output.needs_reference and bound.reference is None:
            with torch.no_grad():
                rows = packings.choose(len(bound.data), bound.data.length, self.adapter.device).examples
                index = torch.arange(len(bound.data), device=self.adapter.device)
                bound.reference = torch.cat([self.adapter.run(bound.data.take(i)) for i in index.split(rows)])
        return bound.reference

    # -- masks ----------------------------------------------------------------------------------------------------

    def mask(
        self,
        off: Component | str | int | Iterable[Component | str | int] = (),
        *,
        positions: int | Sequence[int] | None = None,
        data: Batch | None = None,
    ) -> Float[Tensor, "batch component"] | Float[Tensor, "batch position component"]:
        """A mask that ablates the components named in `off` and keeps the others.

        Args:
            off: components, their names or columns.
            positions: ablate at these positions only; negative ones count from each example's last token.
            data: the examples, needed for `positions`: the mask is then [batch, position, component].

        Returns:
            [1, component], or a mask by position.

        Raises:
            UnknownNameError: for a component that the registry does not have.
            InputError: for positions without data, or outside it.
        """
        chosen = [off] if isinstance(off, Component | str | int) else list(off)
        columns = [self.registry.column(component) for component in chosen]
        if positions is None:
            mask = torch.ones(1, len(self.registry))
            mask[:, columns] = 0.0
            return mask
        if data is None or data.length is None:
            raise InputError("positions are those of an example: model.mask(off=..., positions=-1, data=data)")
        where = [positions] if isinstance(positions, int) else list(positions)
        mask = torch.ones(len(data), data.length, len(self.registry))
        for row in range(len(data)):
            for position in where:
                at = _position(data, row, position)
                mask[row, at, columns] = 0.0
        return mask

    def _check(self, mask: Tensor, data: Batch) -> None:
        width, rows, length = len(self.registry), len(data), data.length
        shapes = f"[{rows}, {width}], [1, {width}]" + (f" or [{rows}, {length}, {width}]" if length else "")
        if not isinstance(mask, Tensor) or not mask.is_floating_point():
            came = f"{mask.dtype} tensor" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"a mask is a float tensor of shape {shapes}, 1 = kept; got a {came}: mask.float()")
        fits = mask.ndim == 2 and mask.shape[1] == width and mask.shape[0] in (1, rows)
        if mask.ndim == 3 and tuple(mask.shape) == (rows, length, width):
            fits = self.plan.positional
        if not fits:
            raise InputError(
                f"a mask for {rows} examples and {width} components has shape {shapes}; got {list(mask.shape)}"
            )
        _check_range(mask)

    # -- many forward passes --------------------------------------------------------------------------------------

    def sweep(
        self,
        masks: Tensor | Design,
        data: Batch,
        *,
        rows: int | None = None,
        show_bar: bool | None = None,
    ) -> Float[Tensor, "draw example"]:
        """Output of every example under every mask.

        Masks of a design are made on the fly from its seed. Draws and examples are packed into forward passes, whose
        size is chosen (and halved if it does not fit); how many there are, and how long they will take, is logged
        before the sweep starts.

        Args:
            masks: a design, or a tensor [draw, component] (or [draw, position, component]).
            data: the examples.
            rows: rows of one forward pass; chosen if not given.
            show_bar: a progress bar; by default where there is a screen.

        Returns:
            float32 on the CPU, [draw, example].

        Raises:
            InputError: if the masks do not fit the registry or the data.
        """
        source = self.source(masks, data)
        sweep = Sweep(self, data, source, rows=rows)
        sweep.announce("sweep")
        spans = list(sweep.blocks(0, source.draws))
        blocks = [
            sweep.outputs(start, stop)
            for start, stop in progress.bar(spans, total=len(spans), unit="block", label="sweep", show_bar=show_bar)
        ]
        return torch.cat(blocks)

    def sweep_gradient(
        self,
        masks: Tensor | Design,
        data: Batch,
        *,
        reduce: Reduce = "mean",
        rows: int | None = None,
        show_bar: bool | None = None,
    ) -> Float[Tensor, "example component"] | None:
        """Gradient of every example's output in its mask, reduced over draws as the draws come.

        Memory does not grow with the number of draws.

        Args:
            masks: a design, or a tensor [draw, component].
            data: the examples.
            reduce: "mean" or "sum" over draws, or a function that is called with each block's masks
                [draw, component], outputs [draw, example] and gradients [draw, example, component], and keeps
                what it wants.
            rows: rows of one forward pass; chosen if not given.
            show_bar: a progress bar; by default where there is a screen.

        Returns:
            float32 on the CPU, [example, component]; None if `reduce` is a function.

        Raises:
            InputError: if the masks do not fit, or `reduce` is unknown.
        """
        if reduce not in ("mean", "sum") and not callable(reduce):
            raise InputError(f"reduce is 'mean', 'sum' or a function of (masks, outputs, gradients); got {reduce!r}")
        source = self.source(masks, data)
        sweep = Sweep(self, data, source, rows=rows)
        sweep.announce("gradient sweep", factor=3)
        total = torch.zeros(len(data), len(self.registry), dtype=torch.float64)
        spans = list(sweep.blocks(0, source.draws))
        for start, stop in progress.bar(spans, total=len(spans), unit="block", label="gradients", show_bar=show_bar):
            block_masks, outputs, gradients = sweep.gradients(start, stop)
            if callable(reduce):
                reduce(block_masks, outputs, gradients)
            else:
                total += gradients.sum(0, dtype=torch.float64)
        if callable(reduce):
            return None
        return (total / source.draws if reduce == "mean" else total).float()

    def source(self, masks: Tensor | Design, data: Batch) -> MaskSource:
        """The masks of a sweep, checked against the registry and the data.

        Raises:
            InputError: if they do not fit.
        """
        width = len(self.registry)
        if isinstance(masks, Design):
            if masks.components != width:
                raise InputError(f"a design for {width} components is needed; this one has {masks.components}")
            return masks
        if not isinstance(masks, Tensor):
            raise InputError(f"masks are a design or a tensor [draw, component]; got {type(masks).__name__}")
        masks = masks.float() if masks.dtype == torch.bool else masks
        by_position = masks.ndim == 3 and masks.shape[1] == data.length and self.plan.positional
        if not masks.is_floating_point() or masks.shape[-1] != width or not (masks.ndim == 2 or by_position):
            raise InputError(
                f"masks are a float or bool tensor [draw, {width}] or [draw, {data.length}, {width}]; "
                f"got {masks.dtype} {list(masks.shape)}"
            )
        if not len(masks):
            raise InputError("there are no masks to sweep: the tensor has 0 draws")
        _check_range(masks)
        return GivenMasks(masks.detach())

    def describe(self) -> dict[str, Any]:
        """Model, registry, ablation and output, JSON-able: what a store compares before it resumes."""
        return {
            "model": self.adapter.describe(),
            "registry": {"components": len(self.registry), "fingerprint": self.registry.fingerprint},
            "ablation": self.ablation.describe(),
            "output": self.output.describe(),
        }


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
        model: MaskedModel,
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
            packing = packings.of_rows(rows, self.examples)
        self.packing = packing or packings.choose(self.examples, data.length, device)

    def announce(self, what: str, *, factor: float = 1.0, share: float = 1.0) -> None:
        """Log what the sweep will cost, and how long that takes, from one timed pass.

        Args:
            what: name of the sweep.
            factor: cost of a pass, in forward passes (a gradient costs about 3).
            share: share of the draws that is still to be done.
        """
        draws = round(self.source.draws * share)
        passes = self.packing.passes(draws, self.examples)
        rows = draws * self.examples
        length = "" if self.bound.data.length is None else f" of {self.bound.data.length} positions"
        message = (
            f"{what}: {draws:,} masks x {self.examples:,} examples = {rows:,} forward rows{length}, "
            f"in {passes:,} passes of {min(self.packing.rows, rows)}"
        )
        if passes >= ESTIMATE_FROM and log.isEnabledFor(logging.INFO):
            message += f", about {progress.duration(self._time_one_pass() * passes * factor)}"
        progress.announce(message)

    def _time_one_pass(self) -> float:
        stop = min(self.packing.draws, self.source.draws)
        self.outputs(0, stop, limit=1)  # the first pass also pays for what is set up once
        start = time.perf_counter()
        self.outputs(0, stop, limit=1)
        return time.perf_counter() - start

    def blocks(self, start: int, stop: int) -> Iterable[tuple[int, int]]:
        """Consecutive draws that share one call of `outputs` or `gradients`."""
        for first in range(start, stop, self.packing.draws):
            yield first, min(first + self.packing.draws, stop)

    def outputs(self, start: int, stop: int, *, limit: int | None = None) -> Float[Tensor, "draw example"]:
        """Outputs of the draws from `start` to `stop`; a pass that does not fit into memory is halved."""
        while True:
            try:
                return self._outputs(start, stop, limit)
            except RuntimeError as error:
                self._halve(error)

    def _outputs(self, start: int, stop: int, limit: int | None) -> Tensor:
        out = torch.empty(stop - start, self.examples)
        with torch.no_grad():
            for number, (draws, rows) in enumerate(self.packing.spans(start, stop, self.examples)):
                if limit is not None and number >= limit:
                    break
                mask = self._masks(draws)
                packed = self._packed(len(draws), rows)
                values = self.model.evaluate(mask.repeat_interleave(len(rows), dim=0), *packed)
                out[draws.start - start : draws.stop - start, rows.start : rows.stop] = values.view(
                    len(draws), len(rows)
                ).to("cpu", torch.float32)
        return out

    def gradients(
        self, start: int, stop: int
    ) -> tuple[Float[Tensor, "draw component"], Float[Tensor, "draw example"], Float[Tensor, "draw example component"]]:
        """Masks, outputs and mask gradients of the draws from `start` to `stop`."""
        while True:
            try:
                return self._gradients(start, stop)
            except RuntimeError as error:
                self._halve(error)

    def _gradients(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        outputs = torch.empty(stop - start, self.examples)
        masks = self._masks(range(start, stop))
        gradients = torch.empty(stop - start, self.examples, *masks.shape[1:])
        for draws, rows in self.packing.spans(start, stop, self.examples):
            own = slice(draws.start - start, draws.stop - start)
            mask = masks[own].repeat_interleave(len(rows), dim=0).requires_grad_()
            with torch.enable_grad():
                values = self.model.evaluate(mask, *self._packed(len(draws), rows))
                (gradient,) = torch.autograd.grad(values.sum(), mask)
            shape = (len(draws), len(rows))
            outputs[own, rows.start : rows.stop] = values.detach().view(shape).to("cpu", torch.float32)
            gradients[own, rows.start : rows.stop] = gradient.view(*shape, *masks.shape[1:]).cpu()
        return masks.cpu(), outputs, gradients

    def _masks(self, draws: range) -> Tensor:
        masks = self.source.masks(draws.start, draws.stop)
        tensor = masks if isinstance(masks, Tensor) else torch.from_numpy(np.ascontiguousarray(masks))
        return tensor.to(self.model.adapter.device, torch.float32)

    def _packed(self, draws: int, rows: range) -> tuple[Batch, StandIns, Tensor | None]:
        """Inputs and replacements of a pass; the same for all passes of one shape, so kept."""
        key = (draws, rows)
        if key not in self.bound.packed:
            index = torch.arange(rows.start, rows.stop, device=self.model.adapter.device).repeat(draws)
            reference = self.model.reference(self.bound)
            if len(self.bound.packed) > 64:  # many chunks of examples: do not keep a copy of every one
                self.bound.packed.clear()
            self.bound.packed[key] = (
                self.bound.data.take(index),
                self.model.plan.stand_ins(self.bound.replacements.take(index)),
                None if reference is None else reference[index],
            )
        return self.bound.packed[key]

    def _halve(self, error: RuntimeError) -> None:
        """Halve the packing after an out-of-memory error; raise any other again."""
        if not isinstance(error, torch.OutOfMemoryError) and "not enough memory" not in str(error):
            raise error
        self.bound.packed.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.packing = self.packing.halved()
        log.warning("a forward pass did not fit into memory: going on with %d rows a pass", self.packing.rows)


def _check_range(mask: Tensor) -> None:
    low, high = float(mask.detach().amin()), float(mask.detach().amax())
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise InputError(f"gates go from 0 (ablated) to 1 (kept); this mask goes from {low:.4g} to {high:.4g}")


def _position(data: Batch, row: int, position: int) -> int:
    """Index in the inputs of a position of one example; negative ones count from its last real token."""
    real = torch.arange(data.length) if data.attended is None else data.attended[row].nonzero()[:, 0].cpu()
    if not -len(real) <= position < len(real):
        raise InputError(f"position {position} of example {row}: it has {len(real)} tokens, 0 to {len(real) - 1}")
    return int(real[position])
