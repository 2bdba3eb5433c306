"""MaskedModel: the function ``mask -> output`` that every method of this library is made from."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import contextmanager
from typing import Any, Literal, SupportsIndex, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.ablations import Ablation, Zero
from ablationlens.adapters.base import Adapter, Placed, check_adapter
from ablationlens.adapters.plan import Plan
from ablationlens.adapters.state import autocast, version
from ablationlens.adapters.watch import Watch
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masks.base import Base, MaskedRows
from ablationlens.masks.designs import Design
from ablationlens.masks.gating import Gated, Gating
from ablationlens.outputs import Margin, Output, as_output
from ablationlens.packing import choose
from ablationlens.progress import bar
from ablationlens.registry import Registry
from ablationlens.sites import Component
from ablationlens.sweep import Bound, GivenMasks, MaskSource, Standing, Sweep

BOUND_BATCHES = 4
"""Batches whose replacements are kept."""

Reduce: TypeAlias = Literal["mean", "sum"] | Callable[[Tensor, Tensor, Tensor], None]
"""How mask gradients are reduced as they come: over draws, or by a function of (masks, outputs, gradients)."""


class MaskedModel:
    """A model whose components can be kept, ablated or anything between, and what is measured of it.

    Args:
        adapter: the model, from `al.adapt`.
        registry: its components; column j of every mask is ``registry[j]``.
        ablation: what an ablated component holds instead.
        output: what is measured: an `Output`, or any function of logits (and batch) that gives one number a row.
        base: gates that kept components get in place of 1: a mode of `al.spd`. A mask is multiplied by them. What an
            ablation puts in place of heads and the like, such as a mean, is still of the unmodified model.

    Raises:
        AdapterError: if a component's site never fires, or fires more than once, in a forward pass.
        InputError: if the registry is empty, or an argument is something else.
    """

    def __init__(
        self,
        adapter: Adapter,
        registry: Registry,
        ablation: Ablation | None = None,
        output: Output | Callable[..., Tensor] | None = None,
        base: Base | None = None,
    ) -> None:
        _check_types(adapter, registry, ablation, base)
        if not len(registry):
            raise InputError("the registry is empty: choose components, for example adapter.registry('head')")
        self.adapter = adapter
        self.registry = registry
        self.ablation = Zero() if ablation is None else ablation
        self.output = as_output(Margin() if output is None else output)
        self.base = base
        with torch.inference_mode(False):  # what is kept must be of use to autograd later
            self.plan = Plan(adapter, registry)
            self._gating = None if base is None else (base.version, Gating(base, self.plan, self.ablation))
        self._bound: OrderedDict[tuple[int, str | None, int, int, Hashable], tuple[Batch, Bound]] = OrderedDict()

    def __repr__(self) -> str:
        parts = [repr(self.adapter), f"{len(self.registry):,} components", repr(self.ablation), repr(self.output)]
        return f"MaskedModel({', '.join(parts if self.base is None else [*parts, repr(self.base)])})"

    def having(
        self,
        *,
        ablation: Ablation | None = None,
        output: Output | Callable[..., Tensor] | None = None,
        base: Base | None = None,
    ) -> MaskedModel:
        """The same model and components with another ablation, output or base; what is not given stays."""
        return MaskedModel(
            self.adapter,
            self.registry,
            self.ablation if ablation is None else ablation,
            self.output if output is None else output,
            self.base if base is None else base,
        )

    @property
    def passes(self) -> int:
        """Forward passes of the model that an output under one mask costs: 1, and with a base more for each sample."""
        return 1 if self.base is None else self.base.samples * self.base.passes

    # -- one forward pass -----------------------------------------------------------------------------------------

    def __call__(self, mask: Tensor, data: Batch) -> Float[Tensor, " batch"]:
        """Output of each example under its own mask, differentiable in the mask; a mean over the samples of a base.

        Args:
            mask: [batch, component], [batch, position, component] or [1, component], from 0 (ablated) to 1 (kept);
                row b belongs to example b.
            data: the examples.

        Raises:
            InputError: if the mask has another shape, or values outside [0, 1].
        """
        self.check_mask(mask, data)
        bound = self.bind(data)
        here, reference = mask.to(self.adapter.device), self.reference(bound)
        found = [self.evaluate(here, bound.data, bound.under(s), reference) for s in range(bound.samples)]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def logits(self, mask: Tensor, data: Batch) -> Tensor:
        """Logits of each example under its own mask: [batch, position, vocab] or [batch, class].

        Raises:
            InputError: if the mask does not fit, or a base has several samples, whose logits have no meaningful mean.
        """
        self.check_mask(mask, data)
        bound = self.bind(data)
        if bound.samples > 1:
            raise InputError(
                f"the base has {bound.samples} samples of gates, each with logits of its own: ask for one, for example "
                "model.having(base=Stochastic(decomposition, n_samples=1))"
            )
        here = mask.to(self.adapter.device)
        stand_ins = self.settled(here, bound.data, bound.under(0), self.reference(bound))
        return self.adapter.run(bound.data, self.edits(here, stand_ins))

    def edits(self, mask: Tensor, stand_ins: Standing) -> list[Placed]:
        """The edits of one forward pass, nothing checked."""
        return stand_ins.edits(mask) if isinstance(stand_ins, Gated) else self.plan.edits(mask, stand_ins)

    def evaluate(self, mask: Tensor, data: Batch, stand_ins: Standing, reference: Tensor | None) -> Tensor:
        """One forward pass, nothing checked: rows of mask, data, stand-ins and reference belong together.

        Gates that a base finds under the mask are constants for its gradient.
        """
        watch, stand_ins = Watch(self.output.taps), self.settled(mask, data, stand_ins, reference)
        with self.session(watch) as run:
            logits = run(mask, data, stand_ins)
        return self.output.score(logits, data, reference, watch.seen)

    def settled(self, mask: Tensor, data: Batch, stand_ins: Standing, reference: Tensor | None) -> Standing:
        """What stands in, with the gates that a base finds under the mask; the same for a base that finds none."""
        if not isinstance(stand_ins, Gated) or stand_ins.data.search is None:
            return stand_ins
        assert reference is not None
        with torch.inference_mode(False), torch.enable_grad(), self.session(Watch()) as run:
            fixed = mask.detach().clone()  # a mask that was made in inference mode would be of no use to autograd
            masked = MaskedRows(
                fixed, stand_ins.examples, data, reference, lambda gates: run(fixed, data, stand_ins.having(gates))
            )
            return stand_ins.having(stand_ins.data.search(masked).detach())

    @contextmanager
    def session(self, watch: Watch) -> Generator[Callable[[Tensor, Batch, Standing], Tensor]]:
        """Many forward passes, nothing checked: (mask, data, stand-ins) -> logits, whose rows belong together.

        Args:
            watch: what is to be seen of each pass beside its logits.
        """
        with self.adapter.session(watch) as run:

            def masked(mask: Tensor, data: Batch, stand_ins: Standing) -> Tensor:
                return run(data, self.edits(mask, stand_ins))

            yield masked

    def bind(self, data: Batch) -> Bound:
        """What the ablation puts in place of ablated parts of `data`: made once, and kept for the last few batches."""
        _check_data(data)
        # replacements that were computed in another precision, or with other threads, differ in their last bits
        decides = None if self.base is None else self.base.version
        key = (id(data), autocast(self.adapter.device), torch.get_num_threads(), self._version(data), decides)
        kept = self._bound.get(key)
        if kept is not None and kept[0] is data:  # an id means nothing after a deepcopy
            return kept[1]
        here = data.to(self.adapter.device)
        self.adapter.check_data(here)
        with torch.inference_mode(False), torch.no_grad():  # what is kept must be of use to autograd later
            replacements = self.ablation.bind(self.plan, here)
            gated = None if self.base is None else self._gates_of(self.base, decides).bind(here)
            bound = Bound(here, replacements, self.plan.stand_ins(replacements), gated)
        self._bound[key] = (data, bound)  # holding the batch keeps its id its own
        if len(self._bound) > BOUND_BATCHES:
            self._bound.popitem(last=False)
        return bound

    def _gates_of(self, base: Base, version: Hashable) -> Gating:
        """How mask and base come together; a base that has changed may gate other components, of other factors."""
        if self._gating is None or self._gating[0] != version:
            self._gating = (version, Gating(base, self.plan, self.ablation))
        return self._gating[1]

    def _version(self, data: Batch) -> int:
        """Changes with weights or data, after which what was bound is out of date."""
        return hash((self.adapter.version, version([*data.inputs.values(), data.labels, data.scored])))

    def reference(self, bound: Bound) -> Tensor | None:
        """Logits of the unmodified model, where the output, or what a base searches for, compares with them."""
        if (self.output.needs_reference or bound.searches) and bound.reference is None:
            with torch.inference_mode(False), torch.no_grad():
                adapter = self.adapter
                rows = choose(len(bound.data), bound.data.length, adapter.device, adapter.vocabulary).examples
                index = torch.arange(len(bound.data), device=self.adapter.device)
                bound.reference = torch.cat([self.adapter.run(bound.data.take(i)) for i in index.split(rows)])
        return bound.reference

    # -- masks ----------------------------------------------------------------------------------------------------

    def mask(
        self,
        off: Component | str | SupportsIndex | Iterable[Component | str | SupportsIndex] = (),
        *,
        positions: SupportsIndex | Iterable[SupportsIndex] | None = None,
        data: Batch | None = None,
    ) -> Float[Tensor, "batch component"] | Float[Tensor, "batch position component"]:
        """A mask that ablates the components named in `off` and keeps the others.

        Args:
            off: components, their names or columns (also an array of columns).
            positions: ablate at these positions only; negative ones count from each example's last token.
            data: the examples, needed for `positions`: the mask is then [batch, position, component].

        Returns:
            [1, component], or a mask by position.

        Raises:
            UnknownNameError: for a component that the registry does not have.
            InputError: for positions without data, or outside it.
        """
        columns = [self.registry.column(component) for component in _listed(off)]
        if positions is None:
            mask = torch.ones(1, len(self.registry))
            mask[:, columns] = 0.0
            return mask
        if data is None or data.length is None:
            raise InputError("positions are those of an example: model.mask(off=..., positions=-1, data=data)")
        where = _listed(positions)
        mask = torch.ones(len(data), data.length, len(self.registry))
        for row in range(len(data)):
            for position in where:
                at = _position(data, row, position)
                mask[row, at, columns] = 0.0
        return mask

    def check_mask(self, mask: Tensor, data: Batch) -> None:
        """Refuse a mask that does not fit the registry or the data.

        Raises:
            InputError: saying what shape it has, and what values.
        """
        _check_data(data)
        width, rows, length = len(self.registry), len(data), data.length
        by_position = bool(length) and self.plan.positional
        shapes = f"[{rows}, {width}], [1, {width}]" + (f" or [{rows}, {length}, {width}]" if by_position else "")
        if not isinstance(mask, Tensor) or not mask.is_floating_point():
            came = f"{mask.dtype} tensor" if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError(f"a mask is a float tensor of shape {shapes}, 1 = kept; got a {came}: mask.float()")
        fits = mask.ndim == 2 and mask.shape[1] == width and mask.shape[0] in (1, rows)
        if by_position and tuple(mask.shape) == (rows, length, width):
            fits = True
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
            for start, stop in bar(spans, total=len(spans), unit="block", label="sweep", show_bar=show_bar)
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
    ) -> Float[Tensor, "example component"] | Float[Tensor, "example position component"] | None:
        """Gradient of every example's output in its mask, reduced over draws as the draws come.

        Memory does not grow with the number of draws.

        Args:
            masks: a design, or a tensor [draw, component] (or [draw, position, component]).
            data: the examples.
            reduce: "mean" or "sum" over draws, or a function that is called with each block's masks
                [draw, component], outputs [draw, example] and gradients [draw, example, component], and keeps
                what it wants.
            rows: rows of one forward pass; chosen if not given.
            show_bar: a progress bar; by default where there is a screen.

        Returns:
            float32 on the CPU, [example, component], or [example, position, component] for masks by position; None if
            `reduce` is a function.

        Raises:
            InputError: if the masks do not fit, or `reduce` is unknown.
        """
        if reduce not in ("mean", "sum") and not callable(reduce):
            raise InputError(f"reduce is 'mean', 'sum' or a function of (masks, outputs, gradients); got {reduce!r}")
        source = self.source(masks, data)
        sweep = Sweep(self, data, source, rows=rows)
        sweep.announce("gradient sweep", factor=3.0)
        total: Tensor | None = None
        spans = list(sweep.blocks(0, source.draws))
        for start, stop in bar(spans, total=len(spans), unit="block", label="gradients", show_bar=show_bar):
            block_masks, outputs, gradients = sweep.gradients(start, stop)
            if callable(reduce):
                reduce(block_masks, outputs, gradients)
            else:
                summed = gradients.sum(0, dtype=torch.float64)
                total = summed if total is None else total + summed
        if total is None:
            return None
        return (total / source.draws if reduce == "mean" else total).float()

    def source(self, masks: Tensor | Design, data: Batch) -> MaskSource:
        """The masks of a sweep, checked against the registry and the data.

        Raises:
            InputError: if they do not fit.
        """
        _check_data(data)
        width = len(self.registry)
        if isinstance(masks, Design):
            if masks.components != width:
                raise InputError(f"a design for {width} components is needed; this one has {masks.components}")
            return masks
        if not isinstance(masks, Tensor):
            raise InputError(f"masks are a design or a tensor [draw, component]; got {type(masks).__name__}")
        masks = masks.float() if masks.dtype == torch.bool else masks
        by_position = masks.ndim == 3 and masks.shape[1] == data.length and self.plan.positional
        fits = (masks.ndim == 2 or by_position) and masks.shape[-1] == width
        if not masks.is_floating_point() or not fits:
            positional = f" or [draw, {data.length}, {width}]" if data.length and self.plan.positional else ""
            raise InputError(
                f"masks are a float or bool tensor [draw, {width}]{positional}; got {masks.dtype} {list(masks.shape)}"
            )
        if not len(masks):
            raise InputError("there are no masks to sweep: the tensor has 0 draws")
        _check_range(masks)
        return GivenMasks(masks.detach())

    def describe(self) -> dict[str, Any]:
        """Model, registry, ablation, output and base, JSON-able: what a store compares before it resumes."""
        return {
            "model": self.adapter.describe(),
            "registry": {"components": len(self.registry), "fingerprint": self.registry.fingerprint},
            "ablation": self.ablation.describe(),
            "output": self.output.describe(),
            **({} if self.base is None else {"base": self.base.describe()}),
        }


def _listed(value: Any) -> list[Any]:
    """Several things as they are; one name, component or integer (also NumPy's or a tensor's) as a list of itself."""
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return [value]
    return list(value)


def _check_types(adapter: Any, registry: Any, ablation: Any, base: Any) -> None:
    """Refuse what is easily mistaken for an adapter, a registry, an ablation or a base."""
    check_adapter(adapter)
    if not isinstance(registry, Registry):
        raise InputError(f"expected a registry, adapter.registry('head'); got {type(registry).__name__}")
    if ablation is not None and not isinstance(ablation, Ablation):
        came = f"the class {ablation.__name__}" if isinstance(ablation, type) else repr(ablation)
        raise InputError(f"an ablation is an instance such as al.Zero() or al.Mean(data); got {came}")
    if base is not None and not isinstance(base, Base):
        raise InputError(f"a base is a mode such as al.spd.Deterministic(decomposition); got {base!r}")


def check_call(model: Any, data: Any) -> None:
    """Refuse what is easily given to a method in place of a masked model and its examples.

    Raises:
        InputError: with the line to type instead.
    """
    if not isinstance(model, MaskedModel):
        raise InputError(
            "methods take a masked model, al.MaskedModel(adapter, adapter.registry('head')); got "
            f"{type(model).__name__}"
        )
    _check_data(data)


def check_no_base(model: MaskedModel, method: str) -> None:
    """Refuse a base, in a method that would not see it.

    Raises:
        InputError: with the line to type instead.
    """
    if model.base is not None:
        raise InputError(
            f"{method} takes a model without a base, whose gates it would leave out: "
            "al.MaskedModel(model.adapter, model.registry, model.ablation, model.output)"
        )


def _check_data(data: Any) -> None:
    """Refuse examples that are no Batch, or none at all."""
    if not isinstance(data, Batch):
        raise InputError(f"the data is a Batch, al.batch(inputs, tokenizer=...); got {type(data).__name__}")
    if not len(data):
        raise InputError("the data has no examples")


def _check_range(mask: Tensor) -> None:
    low, high = float(mask.detach().amin()), float(mask.detach().amax())
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise InputError(f"gates go from 0 (ablated) to 1 (kept); this mask goes from {low:.4g} to {high:.4g}")


def _position(data: Batch, row: int, asked: SupportsIndex) -> int:
    """Index in the inputs of a position of one example; negative ones count from its last real token."""
    try:
        position = operator.index(asked)
    except TypeError as error:
        raise InputError(f"positions are integers, from 0 or from -1 backwards; got {asked!r}") from error
    if data.attended is None:
        raise InputError("this data has no positions to ablate at")
    real = data.attended[row].nonzero()[:, 0].cpu()
    if not -len(real) <= position < len(real):
        raise InputError(f"position {position} of example {row}: it has {len(real)} tokens, 0 to {len(real) - 1}")
    return int(real[position])
