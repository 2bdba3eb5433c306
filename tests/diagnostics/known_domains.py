"""Domains whose weights are known: a linear model whose row j, kept, gives w_j . x, and weights given with noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.diagnostics.domains import Domains
from ablationlens.results import Attribution
from tests.evaluate.games import game, scales, weighted

COMPONENTS = 40
COMMON, CODE, PROSE = np.random.default_rng(5).standard_normal((3, COMPONENTS))


class Linear(nn.Module):
    """f(x) = sum over rows of W x: without interactions, so that the weight of row j is (W x)_j exactly."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.rows = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        self.rows.weight.data = torch.tensor(weights).float()

    def forward(self, x: Tensor) -> Tensor:
        value = self.rows(x).sum(-1)
        return torch.stack([value, torch.zeros_like(value)], dim=-1)


def linear(weights: np.ndarray) -> al.MaskedModel:
    """The masked model of such a function, [component, feature]."""
    adapter = al.adapt(Linear(weights).eval(), example=torch.ones(1, weights.shape[1]))
    return al.MaskedModel(adapter, adapter.registry("row"), output=lambda logits: logits[:, 0])


def mixtures(examples: int, own: int, features: int = 3, seed: int = 0) -> al.Batch:
    """Inputs that are mostly one feature: 1 there, and noise everywhere."""
    x = 0.2 * np.random.default_rng([seed, own]).standard_normal((examples, features))
    x[:, own] += 1
    return al.batch(torch.tensor(x).float())


def around(mean: np.ndarray, examples: int, noise: float, seed: int) -> np.ndarray:
    """[example, component]: a mean with noise that every example has of its own."""
    return mean + noise * np.random.default_rng(seed).standard_normal((examples, len(mean)))


def study(weights: Mapping[str, np.ndarray]) -> Domains:
    """A study with these weights."""
    model = game(np.ones(next(iter(weights.values())).shape[1]))
    found: dict[str, Attribution] = {
        name: weighted(model, scales(*range(1, len(one) + 1)), one) for name, one in weights.items()
    }
    return Domains(found)


def three(examples: int = 12, noise: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Python and C++ have much in common, prose less."""
    means = {"python": COMMON + 0.3 * CODE, "prose": COMMON + PROSE, "cpp": COMMON - 0.3 * CODE}
    return {name: around(mean, examples, noise, 10 * seed + i) for i, (name, mean) in enumerate(means.items())}
