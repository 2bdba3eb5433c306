"""Direct effect: what a head or neuron does to the output by itself, without what later parts make of it.

The component is ablated, and every module that writes into the residual stream after it is held at what it wrote in
the clean run. So the change travels along the residual stream alone, through the final norm, to the logits: path
patching from the component to the logits (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al., arXiv 2304.05969).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ablationlens.ablations import Ablation
from ablationlens.ablations.base import read_examples
from ablationlens.adapters.plan import Plan, Replacements
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.kinds import sites_of
from ablationlens.layout import split_stack
from ablationlens.masked_model import MaskedModel, check_call, check_no_base
from ablationlens.masks.designs import Design
from ablationlens.progress import bar
from ablationlens.registry import Registry
from ablationlens.results import Attribution, attribution
from ablationlens.sites import Cut, Tap
from ablationlens.sweep import Sweep

WRITERS = ("attn.o", "cross.o", "mlp.out")
"""Modules that write into the residual stream."""


def direct_effect(
    model: MaskedModel, data: Batch, *, rows: int | None = None, show_bar: bool | None = None
) -> Attribution:
    """Effect of ablating each component alone, with all that later parts write held as in the clean run.

    Beside it, `al.leave_one_out` is the total effect of the same ablation; the difference is what later parts do about
    it. The final norm is that of the changed residual stream. It costs one forward pass for each component, and one to
    read activations. It is no decomposition, and the bias is f(all kept) - sum(weights).

    Args:
        model: the masked model; its components are heads, neurons, or columns of ``attn.o`` or ``mlp.out``.
        data: the examples.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output, positive where keeping the component raises it.

    Raises:
        InputError: if a component does not write into the residual stream by itself, or the ablation is a scaling.
    """
    check_call(model, data)
    check_no_base(model, "al.direct_effect")
    for part in model.registry.parts:
        if split_stack(part.site.write.module)[1] not in WRITERS or part.site.write.side != "in":
            raise InputError(
                f"{part.site.name(part.indices[0])} does not write into the residual stream by itself: a direct effect "
                "is that of heads or neurons, adapter.registry('head'), adapter.registry('neuron')"
            )
    frozen, design = _frozen(model)
    sweep = Sweep(frozen, data, design, rows=rows)
    sweep.announce("direct effect")
    outputs = np.empty((design.draws, len(data)))
    spans = list(sweep.blocks(0, design.draws))
    for start, stop in bar(spans, total=len(spans), unit="block", label="direct effect", show_bar=show_bar):
        outputs[start:stop] = sweep.outputs(start, stop).double().numpy()
    with np.errstate(invalid="ignore"):
        weights = (outputs[:1] - outputs[1:]).T.copy()
    weights[~np.isfinite(weights)] = np.nan
    return attribution(
        "direct effect",
        weights,
        outputs[0] - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance={
            "method": "direct effect",
            "draws": design.draws,
            "quarantined_outputs": int((~np.isfinite(outputs)).sum()),
            "full_output": outputs[0].tolist(),
            **model.describe(),
            "data": data.fingerprint(),
        },
    )


def _frozen(model: MaskedModel) -> tuple[MaskedModel, Design]:
    """The model with its writers as further components, and the masks of direct effects."""
    adapter, registry = model.adapter, model.registry
    names = [name for name in adapter.layout.names if split_stack(name)[1] in WRITERS]
    # these only ever hold what they wrote, so they cut no weight, and folding means nothing to them
    whole = sites_of(adapter.layout, "matrix", modules=names)
    writers = [replace(site, kind="custom", cut=Cut((), "whole")) for site in whole]
    together = Registry([*((part.site, part.indices) for part in registry.parts), *((site, None) for site in writers)])
    after = np.ones((len(registry), len(writers)), dtype=bool)
    for part in registry.parts:
        own = adapter.place(Tap(part.site.layer, part.site.write.module, "out")).order
        later = [adapter.place(site.write).order > own for site in writers]
        after[part.start : part.stop] = ~np.array(later)
    held = Held(model.ablation, tuple(site.write for site in writers))
    return MaskedModel(adapter, together, held, model.output), OneHeld(len(registry), after)


@dataclass(frozen=True, eq=False)
class OneHeld(Design):
    """Draw 0 keeps everything; draw j + 1 ablates component j and holds the writers after it.

    Attributes:
        own: components that are ablated in turn.
        after: [component, writer], False where the writer is held.
    """

    own: int
    after: np.ndarray

    @property
    def components(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.own + self.after.shape[1]

    @property
    def draws(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.own + 1

    def mask(self, draw: int) -> np.ndarray:
        mask = np.ones(self.components, dtype=bool)
        if draw:
            mask[draw - 1] = False
            mask[self.own :] = self.after[draw - 1]
        return mask

    def describe(self) -> dict[str, Any]:
        return {"design": "one_held", "components": self.components, "draws": self.draws}


class Held(Ablation):
    """An ablation of some taps, where the others hold what they wrote in the clean run."""

    def __init__(self, ablation: Ablation, writers: tuple[Tap, ...]) -> None:
        self._ablation = ablation
        self._writers = writers

    def bind(self, plan: Plan, data: Batch) -> Replacements:
        """See `Ablation.bind`.

        Raises:
            InputError: if the ablation is a scaling, which would hold the writers part of the way.
        """
        found = self._ablation.bind(plan, data)
        if found.strength != 1:
            raise InputError("a direct effect needs a whole ablation: give model.having(ablation=al.Zero())")
        clean = read_examples(plan, data)
        values: dict[Tap, Tensor] = {}
        for tap, value in found.values.items():
            if tap in self._writers:
                values[tap] = clean[tap]
            elif found.per_example:
                values[tap] = value
            else:
                values[tap] = _for_each(value, len(data), plan.held(tap).axes)
        return Replacements(values, per_example=True)

    def describe(self) -> dict[str, Any]:
        """See `Ablation.describe`."""
        return {"ablation": "held", "of": self._ablation.describe(), "writers": [str(tap) for tap in self._writers]}


def _for_each(value: Tensor, examples: int, axes: int) -> Tensor:
    """A replacement of all examples as one for each."""
    return value.reshape(*[1] * (axes - value.ndim), *value.shape).expand(examples, *[-1] * (axes - 1))
