"""A model on gated components, with heads and slices taken out, by hooks of PyTorch's own: the oracle of every effect.

Nothing here uses the library; modules are computed as `tests.spd.small` does, component by component.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional

from ablationlens.spd import Decomposition
from tests import models
from tests.spd.small import _Gated, matrix_of, module_before

SIZE = models.WIDTH // models.HEADS
ByHand = Mapping[Any, tuple[Tensor, Tensor]]
"""Gates of each module's components, [example, position, C], and of its remainder, [example, position, 1]."""


@dataclass(frozen=True)
class Out:
    """What is taken out: heads as (layer, head), at some positions; slices as (module, component, features)."""

    heads: Sequence[tuple[int, int]] = ()
    slices: Sequence[tuple[Any, int, slice]] = ()
    positions: Any = ...


@torch.no_grad()
def run(
    model: Any, decomposition: Decomposition, gates: ByHand, inputs: Any, out: Out | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, [example, position, class], and attention patterns, [example, layer, head, query, key]."""
    own, out = copy.deepcopy(model), out or Out()
    own.set_attn_implementation("eager")
    for where, (kept, remainder) in gates.items():
        part = decomposition[where]
        if where == (0, "embed"):
            own.get_input_embeddings().register_forward_hook(_looked_up(part, kept, remainder))
            continue
        stem = module_before(where[1])
        module, rows = models.module_of(own, where[0], stem or where[1])
        weight, bias = (None if one is None else one.double() for one in matrix_of(own, *where))
        gated = _Gated(weight, bias, part.V.double(), part.U.double(), kept.double(), remainder.double(), rows)
        if stem is None:
            module.register_forward_hook(gated.instead)
        else:
            module.register_forward_pre_hook(gated.before)
    for layer, head in out.heads:  # columns of attn.o: after an identity that stands before it
        module, _ = models.module_of(own, layer, "attn.o")
        module.register_forward_pre_hook(_silence(head, out.positions))
    for where, index, features in out.slices:
        module, rows = models.module_of(own, *where)
        part, kept = decomposition[where], gates[where][0]
        module.register_forward_hook(_without(part.V[:, index], part.U[index], kept[..., index], features, rows, where))
    inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
    found = own(**inputs, output_attentions=True)
    return found.logits, torch.stack(found.attentions, 1)


def _looked_up(part: Any, kept: Tensor, remainder: Tensor) -> Any:
    """An embedding as gated components, its rows looked up."""

    def after(module: Any, args: Any, _: Any) -> Tensor:
        V, U, table = part.V.double(), part.U.double(), module.weight.double()
        parts = (functional.embedding(args[0], V) * kept.double()) @ U
        return (parts + remainder.double() * functional.embedding(args[0], table - V @ U)).to(module.weight)

    return after


def _silence(head: int, positions: Any) -> Any:
    def before(_: Any, args: Any) -> Any:
        z = args[0].clone()
        at = range(z.shape[1]) if positions is ... else positions
        z[:, list(at), head * SIZE : (head + 1) * SIZE] = 0
        return (z, *args[1:])

    return before


def _without(v: Tensor, u: Tensor, gate: Tensor, features: slice, rows: slice, where: Any) -> Any:
    """Takes (x . v) u away at the features of a head: of the output, or for attn.o of the input."""

    def after(_: Any, args: Any, out: Tensor) -> Tensor:
        x, out = args[0], out.clone()
        if where[1].endswith(".o"):
            code, written = x[..., features] @ v[features], u
        else:
            written = torch.zeros_like(u)
            written[features] = u[features]
            code = x @ v
        out[..., rows] -= (gate * code)[..., None] * written
        return out

    return after


def kl(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) of logits, [example, position]."""
    return kl_divergence(*(Categorical(logits=one.double()) for one in (before, after)))


def off(gates: ByHand, where: Any, index: int, positions: Any = slice(None)) -> ByHand:
    """Gates with one component at 0; the remainder is -1."""
    own = {at: (parts.clone(), remainder.clone()) for at, (parts, remainder) in gates.items()}
    if index < 0:
        own[where][1][:, positions] = 0
    else:
        own[where][0][:, positions, index] = 0
    return own
