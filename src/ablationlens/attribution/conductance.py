"""Conductance and internal influence: what flows through a component as the input grows out of a baseline.

These are the two baselines of the COAR paper (arXiv 2404.11534, "NC" and "II") that look at activations and not at
parameters. Both are captum's `LayerConductance` and `InternalInfluence`, one activation at a time.

Captum attributes to the output of a module. Here that module is one of ours, called where the components are cut: what
it hands on is a tensor of its own, so that a tuple, an argument by keyword, or an input that other modules read too,
is nothing that captum has to know about.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ablationlens.adapters.base import Adapter, Place
from ablationlens.adapters.entrance import Entrance
from ablationlens.adapters.hooking import by_example, hook
from ablationlens.attribution.coar import kept_outputs
from ablationlens.attribution.mask_gradient import check_steps
from ablationlens.attribution.with_captum import captum_attr, run_provenance
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call, check_no_base
from ablationlens.packing import Packing, choose, of_rows
from ablationlens.progress import announce, bar
from ablationlens.registry import Part
from ablationlens.results import Attribution, attribution
from ablationlens.sites import Coordinates, Grouped, Projected, Tap

STEPS_PER_PASS = 4
"""Steps of the integral that a pass holds at least, for each of its examples: captum runs the last one twice."""


def conductance(
    model: MaskedModel,
    data: Batch,
    *,
    steps: int = 32,
    baseline: float | Tensor | Batch = 0.0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute by conductance: how much of the output flows through each component (arXiv 1805.12233).

    The input grows along a line from the baseline to what it is. The conductance of a feature is the integral of the
    gradient of the output in the feature times the change of the feature; that of a component is the sum over its
    features, and over positions. Features are those of the activation at which the registry cuts: a head's output
    before ``o``, a row's output, a column's input, a neuron's hidden activation. What is ablated with, the model's
    `ablation`, plays no part.

    Costs steps + 1 forward and backward passes of every example, about 3 * (steps + 1) forward passes, for each
    activation that the registry cuts: all heads of one layer are one activation, and so are all rows of one matrix.
    Complete only in the sense of its own game: the features of an activation that everything flows through sum to
    f(input) - f(baseline). The parts of a transformer's layer are no such activation, because the residual stream
    passes them by, and conductances of several layers count the same flow again.

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples. Tokens cannot be scaled, so for a token model the line is that of its token embeddings,
            with position embeddings as they are.
        steps: steps of the integral.
        baseline: where the line begins: a number (0: black images, zero embeddings), a tensor that broadcasts to the
            inputs or embeddings, or a batch of other inputs, ``data.like(others)``.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights in units of the output: the sign is that of keeping the component, as everywhere. The bias is f(all
        kept) - sum(weights). What is not finite is NaN, and counted in the provenance.

    Raises:
        MissingExtraError: if captum is not installed.
        AdapterError: if the model runs on a server or with edits of nnsight, or its embedding is not found.
        InputError: for components that are no features of an activation (rank-one parts, codes of a basis, columns of
            a projection inside a fused matrix); if steps or baseline do not fit; if the output has no gradient.
    """
    return _attribute("conductance", "LayerConductance", model, data, steps, baseline, rows, show_bar)


def internal_influence(
    model: MaskedModel,
    data: Batch,
    *,
    steps: int = 32,
    baseline: float | Tensor | Batch = 0.0,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> Attribution:
    """Attribute by internal influence: the mean gradient of the output in a component's features (arXiv 1802.03788).

    The mean is over inputs on the line from the baseline to the example; features are summed over the component and
    over positions, as in `conductance`. A gradient says what a unit more of the activation would do, whatever the
    activation is: the weights are in units of the output per unit of the activation, good for ranking and for
    correlation, and no prediction of an ablation.

    Costs steps forward and backward passes of every example, about 3 * steps forward passes, for each activation that
    the registry cuts. Not complete in any sense.

    Args:
        model: the masked model; its output must be differentiable.
        data: the examples; for a token model the line is that of its token embeddings.
        steps: points of the mean, at the nodes of a Gauss-Legendre rule.
        baseline: where the line begins, as in `conductance`.
        rows: rows of one pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        Weights as said above, positive where more of the activation raises the output. The bias is f(all kept) -
        sum(weights), for the sake of form.

    Raises:
        MissingExtraError: if captum is not installed.
        AdapterError: as in `conductance`.
        InputError: as in `conductance`.
    """
    return _attribute("internal influence", "InternalInfluence", model, data, steps, baseline, rows, show_bar)


def _attribute(
    method: str,
    captums: str,
    model: MaskedModel,
    data: Batch,
    steps: int,
    baseline: float | Tensor | Batch,
    rows: int | None,
    show_bar: bool | None,
) -> Attribution:
    check_call(model, data)
    check_no_base(model, f"al.{method.replace(' ', '_')}")
    check_steps(steps)
    activations = activations_of(model)
    algorithm = getattr(captum_attr(), captums)
    here, reference = model.bind(data).data, model.reference(model.bind(data))
    entrance = Entrance(model.adapter, here)
    start = _baseline(entrance, baseline)
    packing = _packing(model.adapter, here, rows)
    cost = len(activations) * (steps + 1) * len(data)
    announce(f"{method}: {len(activations)} activations x {steps + 1} steps x {len(data)} examples = {cost:,} rows")
    begun = time.perf_counter()
    weights = np.empty((len(data), len(model.registry)))
    firsts = range(0, len(data), packing.examples)
    work = [(activation, slice(first, first + packing.examples)) for activation in activations for first in firsts]
    for activation, examples in bar(work, total=len(work), unit="activation", label=method, show_bar=show_bar):
        with torch.inference_mode(False), Probed(model, entrance, activation.place, examples, reference) as probed:
            found = algorithm(probed.outputs, probed.probe).attribute(
                entrance.values[examples],
                baselines=start[examples],
                n_steps=int(steps),
                internal_batch_size=packing.rows,
            )
        activation.sum_into(weights[examples], found.detach())
    return _labelled(
        method,
        model,
        data,
        weights,
        {
            "steps": int(steps),
            "input": entrance.name,
            "baseline": _described(baseline, start),
            "activations": len(activations),
            **run_provenance(model, data, packing, time.perf_counter() - begun),
        },
    )


def _labelled(
    method: str, model: MaskedModel, data: Batch, weights: Float64[np.ndarray, "example component"], run: dict[str, Any]
) -> Attribution:
    full = kept_outputs(model, data)
    finite = np.isfinite(weights) & np.isfinite(full)[:, None]  # a gradient may be finite where the output is not
    weights = np.where(finite, weights, np.nan)
    return attribution(
        method,
        weights,
        full - np.nansum(weights, axis=1),
        model.registry,
        data.names(),
        provenance={
            "method": method,
            "quarantined_outputs": int((~finite.all(1)).sum()),
            "full_output": full.tolist(),
            **run,
        },
    )


@dataclass(frozen=True)
class Activation:
    """One activation, and the components that are cut from it.

    Attributes:
        place: the whole activation.
        parts: the components, each part with the place of its own features.
    """

    place: Place
    parts: tuple[tuple[Part, Place], ...]

    def sum_into(self, weights: Float64[np.ndarray, "row component"], found: Float[Tensor, "row ..."]) -> None:
        """Sum the attributions of features over positions and components, into the columns of these components."""
        for part, place in self.parts:
            own = place.take(found).movedim(place.feature_axis, -1).double()
            features = own.reshape(len(own), -1, own.shape[-1]).sum(1)
            for position, index in enumerate(part.indices):
                basis = part.site.basis
                assert isinstance(basis, Coordinates | Grouped | Projected)
                weights[:, part.start + position] = features[:, list(basis.members(index))].sum(1).cpu().numpy()


def activations_of(model: MaskedModel) -> list[Activation]:
    """The activations that a registry cuts, in the order of its components.

    Raises:
        InputError: for components that are no features of an activation.
    """
    found: dict[tuple[int, str], list[tuple[Part, Place]]] = {}
    for part in model.registry.parts:
        place = _place(model.adapter, part)
        found.setdefault(place.key, []).append((part, place))
    return [Activation(group[0][1], tuple(group)) for group in found.values()]


def _place(adapter: Adapter, part: Part) -> Place:
    site = part.site
    match site.basis:
        case Coordinates() | Grouped():
            return adapter.place(site.read)
        case Projected() if adapter.has(own := Tap(site.layer, site.module, "in")):
            return adapter.place(own)
        case Projected():
            raise InputError(
                f"{site.name(part.indices[0])} is a column of one projection inside a fused matrix, and its input is "
                "that of the other projections too: conductance is of whole columns, "
                "adapter.registry('column', modules=['qkv']), or of rows, adapter.registry('row', modules=['q'])"
            )
        case _:
            raise InputError(
                f"{site.name(part.indices[0])} is no set of features of an activation, and conductance is of these: "
                "take heads, rows, columns or neurons, or al.integrated_gradients, which is for components of any kind"
            )


class Probe(nn.Module):
    """Hands an activation on as a tensor of its own: gradients there are of what reads it through this module."""

    def forward(self, activation: Tensor) -> Tensor:
        return activation.view_as(activation)


class Probed:
    """A model with a probe at one activation, as the forward function that captum asks for.

    Args:
        model: the masked model; nothing of it is ablated.
        entrance: where the inputs enter.
        place: where the probe is.
        examples: which examples captum's inputs are.
        reference: logits of the unmodified model for all examples, if the output compares with them.
    """

    def __init__(
        self, model: MaskedModel, entrance: Entrance, place: Place, examples: slice, reference: Tensor | None
    ) -> None:
        self.probe = Probe()
        self._model = model
        self._entrance = entrance
        self._place = place
        self._index = torch.arange(len(entrance.values), device=entrance.values.device)[examples]
        self._reference = reference
        self._stack = ExitStack()

    def __enter__(self) -> Probed:
        self._stack.enter_context(self._entrance.open())
        observe = by_example(self._place, lambda: self._entrance.running, self._observe)
        self._stack.callback(hook(self._place, observe).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def outputs(self, values: Tensor) -> Float[Tensor, " row"]:
        """Outputs of the examples, repeated: captum stacks the steps of an integral along the batch."""
        index = self._index.repeat(len(values) // len(self._index))
        logits, batch = self._entrance.run(values, index)
        scores = self._model.output(logits, batch, None if self._reference is None else self._reference[index])
        if not scores.requires_grad:
            raise InputError("the output has no gradient: leave out .detach(), .item() and argmax")
        return scores

    def _observe(self, activation: Tensor) -> Tensor | None:
        return None if self._entrance.running is None else self.probe(activation)


def _baseline(entrance: Entrance, baseline: float | Tensor | Batch) -> Tensor:
    """Where the line begins, for each example.

    Raises:
        InputError: if it does not broadcast to the values.
    """
    values = entrance.values
    given = Entrance(entrance.adapter, baseline.to(values.device)).values if isinstance(baseline, Batch) else baseline
    try:
        return torch.as_tensor(given, dtype=values.dtype, device=values.device).detach().expand_as(values)
    except (RuntimeError, TypeError, ValueError) as error:
        came = list(np.shape(given)) if isinstance(given, Tensor | np.ndarray | list | tuple) else repr(given)
        raise InputError(
            f"a baseline is a number, or numbers that broadcast to the {entrance.name}, {list(values.shape)}, or a "
            f"batch of other inputs; got {came}"
        ) from error


def _described(baseline: Any, start: Tensor) -> Any:
    if isinstance(baseline, Batch):
        return {"batch": baseline.fingerprint()}
    if np.ndim(baseline):
        return {"tensor": list(np.shape(baseline)), "sum": float(start.double().sum())}
    return float(baseline)


def _packing(adapter: Adapter, data: Batch, rows: int | None) -> Packing:
    """Rows of a pass: some examples at several steps each, because captum looks at neighbouring steps together."""
    if rows is None:
        packing = choose(len(data), data.length, adapter.device, adapter.vocabulary)
    else:
        packing = of_rows(rows, len(data))
    if packing.draws >= STEPS_PER_PASS:
        return packing
    examples = max(1, packing.rows // STEPS_PER_PASS)
    return Packing(max(2, packing.rows // examples), examples)
