"""Adversarial sources: those that do the most harm, found by projected gradient ascent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data.checks import is_integer, is_number
from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Where
from ablationlens.spd.sources import Sources

Start: TypeAlias = Literal["random", "ones", "zeros"]
Scope: TypeAlias = Literal["example", "shared"]
STARTS: tuple[Start, ...] = ("random", "ones", "zeros")
SCOPES: tuple[Scope, ...] = ("example", "shared")


@dataclass(frozen=True)
class Ascent:
    """How adversarial sources are found: steps of the gradient's sign, each cut off at 0 and 1.

    Args:
        steps: how many.
        step_size: how far each source goes in a step.
        scope: "example", sources for each row of each example; "shared", the same for all rows of all examples.

    Raises:
        InputError: for no steps, a step that leads nowhere, or an unknown scope.
    """

    steps: int = 20
    step_size: float = 0.1
    scope: Scope = "example"

    def __post_init__(self) -> None:
        if not is_integer(self.steps) or self.steps < 1:
            raise InputError(f"steps is a whole number from 1; got {self.steps!r}: without steps use Stochastic()")
        if not is_number(self.step_size) or not 0 < self.step_size <= 1:
            raise InputError(f"step_size is from 0 to 1, and more than 0; got {self.step_size!r}")
        if self.scope not in SCOPES:
            raise InputError(f"scope is 'example' or 'shared'; got {self.scope!r}")
        object.__setattr__(self, "steps", int(self.steps))  # as Python's own numbers, which JSON knows
        object.__setattr__(self, "step_size", float(self.step_size))


@dataclass(frozen=True)
class Found:
    """The worst sources that were met, the start included.

    Attributes:
        sources: of each module.
        loss: [example], with these sources.
        trace: [step, example]: the losses on the way, the first with the sources that were begun with.
    """

    sources: Sources
    loss: Float[Tensor, " example"]
    trace: Float[Tensor, "step example"]


def ascend(
    loss_of: Callable[[Sources], Float[Tensor, " example"]],
    start: Mapping[Where, Tensor],
    ascent: Ascent,
    *,
    reaches_all: bool = True,
) -> Found:
    """Sources that make the loss as large as the steps allow; the best that was met is kept, not the last.

    With a scope of "example" the best is kept for each example, whose loss depends on its own sources alone.

    Args:
        loss_of: the loss of each example under sources; differentiable.
        start: sources to begin with: [example, *position, C + 1], or [1, ..., C + 1] for a scope of "shared".
        ascent: how.
        reaches_all: whether the loss depends on every module, as one of the logits does; an error tells if it does not.

    Returns:
        The sources, without a graph. Gradients of parameters are not touched.

    Raises:
        InputError: if a loss is NaN from the start.
    """
    sources = {where: one.detach().clone() for where, one in start.items()}
    best: Sources = {}
    highest: Tensor | None = None
    trace: list[Tensor] = []
    for step in range(ascent.steps + 1):
        last = step == ascent.steps
        with torch.inference_mode(False), torch.set_grad_enabled(not last):
            moved = {where: one.clone().requires_grad_(not last) for where, one in sources.items()}
            loss = loss_of(moved)
            every = list(moved.values())
            slopes = () if last else torch.autograd.grad(loss.sum(), every, materialize_grads=not reaches_all)
        now = loss.detach()
        trace.append(now.cpu())
        best, highest = _better(sources, now, best, highest, ascent.scope)
        if last:
            break
        for (where, one), slope in zip(sources.items(), slopes, strict=True):
            change = ascent.step_size * slope.sign().nan_to_num()  # no slope is known beyond an infinite loss
            sources[where] = (one + change).clamp_(0, 1)
    assert highest is not None
    if bool(highest.isnan().any()):
        raise InputError(
            f"the loss of examples {highest.isnan().nonzero()[:, 0].tolist()[:5]} is not a number: look for NaN in the "
            "inputs and weights, and for outputs beyond the range of the model's dtype (model.float())"
        )
    return Found(best, highest.cpu(), torch.stack(trace))


def _better(
    sources: Sources, loss: Tensor, best: Sources, highest: Tensor | None, scope: Scope
) -> tuple[Sources, Tensor]:
    """The worse of what was met before and these sources: of each example, or of all together."""
    if highest is None:
        return dict(sources), loss
    if scope == "shared":
        return (dict(sources), loss) if bool(loss.sum() > highest.sum()) else (best, highest)
    higher = loss > highest
    mixed: Sources = {}
    for where, one in sources.items():
        mixed[where] = torch.where(higher.view(-1, *[1] * (one.ndim - 1)), one, best[where])
    return mixed, torch.where(higher, loss, highest)


def worst(found: Sequence[Found], scope: Scope) -> Found:
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


def joined(chunks: Sequence[Found]) -> Found:
    """Ascents of consecutive examples as one."""
    if len(chunks) == 1:
        one = chunks[0]
        return Found({where: source.cpu() for where, source in one.sources.items()}, one.loss, one.trace)
    sources = {where: torch.cat([one.sources[where].cpu() for one in chunks]) for where in chunks[0].sources}
    return Found(sources, torch.cat([one.loss for one in chunks]), torch.cat([one.trace for one in chunks], dim=1))


def starting(
    importances: Mapping[Where, Float[Tensor, "*rows C"]], start: Start, scope: Scope, generator: torch.Generator
) -> Sources:
    """Sources to begin with, in the shape of the scope."""
    found: Sources = {}
    for where, lower in importances.items():
        rows = lower.shape[:-1] if scope == "example" else (1,) * (lower.ndim - 1)
        shape = (*rows, lower.shape[-1] + 1)
        if start == "random":
            found[where] = torch.rand(shape, generator=generator, device=generator.device).to(lower)
        else:
            found[where] = lower.new_full(shape, 1.0 if start == "ones" else 0.0)
    return found
