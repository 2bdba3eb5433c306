"""Functions of gates whose answers are known: a model in which component j is gate j, and f is written down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.results import Attribution, attribution


class Game(nn.Module):
    """f_x(m) = constant + x (additive . m) + x^2 (m' pairs m): row j of `gates` gives x where it is kept, else 0."""

    def __init__(self, additive: np.ndarray, pairs: np.ndarray | None = None, constant: float = 0.0) -> None:
        super().__init__()
        count = len(additive)
        self.gates = nn.Linear(1, count, bias=False)
        nn.init.ones_(self.gates.weight)
        self.register_buffer("additive", torch.tensor(additive, dtype=torch.float32))
        self.register_buffer("pairs", torch.tensor(np.zeros((count, count)) if pairs is None else pairs).float())
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        kept = self.gates(x)
        value = self.constant + kept @ self.additive + ((kept @ self.pairs) * kept).sum(-1)
        return torch.stack([value, torch.zeros_like(value)], dim=-1)


def game(
    additive: Sequence[float] | np.ndarray, pairs: np.ndarray | None = None, constant: float = 0.0
) -> al.MaskedModel:
    """The masked model of such a function; its output is f."""
    adapter = al.adapt(Game(np.asarray(additive), pairs, constant).eval(), example=torch.ones(1, 1))
    return al.MaskedModel(adapter, adapter.registry("row"), output=lambda logits: logits[:, 0])


def scales(*values: float) -> al.Batch:
    """Examples of these x."""
    return al.batch(torch.tensor(values).float()[:, None])


def weighted(
    model: al.MaskedModel, data: al.Batch, weights: np.ndarray, bias: np.ndarray | float = 0.0, **provenance: object
) -> Attribution:
    """An attribution with these weights, [component] or [example, component]."""
    values = np.broadcast_to(np.asarray(weights, dtype=np.float64), (len(data), len(model.registry))).copy()
    biases = np.broadcast_to(np.asarray(bias, dtype=np.float64), (len(data),)).copy()
    return attribution("given", values, biases, model.registry, data.names(), provenance=dict(provenance))
