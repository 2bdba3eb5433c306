"""Small decompositions for the tests, and what their masks do to the weights: the oracle of every mode.

`decomposed` has random components; nothing below it uses the library.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ablationlens.spd import Decomposition, Part, importance_function
from tests import models
from tests.conftest import Host

PLACES = ((0, "attn.q"), (0, "attn.v"), (1, "attn.o"), (1, "mlp.out"))
COUNT = 6


@cache
def decomposed(host: Host, kind: str = "vector_mlp", sigmoid: str = "leaky_hard", seed: int = 0) -> Decomposition:
    """A decomposition with random components and importance functions, which are not all 0 or 1."""
    places = PLACES if host.transformer else tuple((m.layer, m.name) for m in host.adapter.layout.modules)
    return decomposed_at(host, places, kind, sigmoid, seed)


@cache
def decomposed_at(
    host: Host,
    places: tuple[tuple[int, str], ...],
    kind: str = "vector_mlp",
    sigmoid: str = "leaky_hard",
    seed: int = 0,
) -> Decomposition:
    """The same, of given modules and identities."""
    parts: dict[Any, Part] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for where in places:
            rows, columns = matrix_of(host.reference, *where)[0].shape
            V, U = 0.4 * torch.randn(columns, COUNT), 0.4 * torch.randn(COUNT, rows)
            function = importance_function(kind, COUNT, columns, (5,))
            last = list(function.layers)[-1]
            last.b.data.add_(0.5)  # importances around a half, and not around the end of the sigmoid
            parts[where] = Part(V, U, function)
    return Decomposition(parts, sigmoid=sigmoid).requires_grad_(False)


def module_before(name: str) -> str | None:
    """The module that an identity stands before, by its name; None for anything else."""
    stem = name.removesuffix(".pre_identity")
    return None if stem == name else stem


def matrix_of(model: Any, layer: int, name: str) -> tuple[Tensor, Tensor | None]:
    """The out x in matrix and the bias of a module, or the identity that stands before one."""
    stem = module_before(name)
    if stem is None:
        return models.part(model, layer, name)
    weight, _ = models.part(model, layer, stem)
    return torch.eye(weight.shape[1]), None


@torch.no_grad()
def logits_under(
    model: Any, decomposition: Decomposition, gates: Mapping[Any, tuple[Tensor, Tensor]], inputs: Tensor
) -> Tensor:
    """Logits of a model in which each decomposed module is computed from gated components, added up one by one.

    ``out = sum_c m_c (x . V_c) U_c + m_d x (W - (V U)^T)^T + bias`` in float64, by hooks of PyTorch's own.
    """
    own = copy.deepcopy(model)
    for where, (kept, remainder) in gates.items():
        stem = module_before(where[1])
        module, rows = models.module_of(own, where[0], stem or where[1])
        weight, bias = (None if one is None else one.double() for one in matrix_of(own, *where))
        part = decomposition[where]
        gated = _Gated(weight, bias, part.V.double(), part.U.double(), kept.double(), remainder.double(), rows)
        if stem is None:
            module.register_forward_hook(gated.instead)
        else:
            module.register_forward_pre_hook(gated.before)
    return models.logits_of(own, inputs)


@dataclass(frozen=True)
class _Gated:
    """One module as gated components, each on its own."""

    weight: Any
    bias: Any
    V: Tensor
    U: Tensor
    kept: Tensor
    remainder: Tensor
    rows: slice

    def instead(self, _: Any, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        out[..., self.rows] = self.written(args[0]).to(out)
        return out

    def before(self, _: Any, args: Any) -> Tensor:
        return self.written(args[0]).to(args[0])

    def written(self, x: Tensor) -> Tensor:
        x = x.double()
        found = torch.einsum("...i,ic,...c,co->...o", x, self.V, self.kept.expand(*x.shape[:-1], -1), self.U)
        found = found + self.remainder * (x @ (self.weight - (self.V @ self.U).T).T)
        return found if self.bias is None else found + self.bias
