"""A model whose output is a sum over gates, with its true coefficients from plain PyTorch.

Only the last MLP's output matrix of a Llama is decomposed, and the output reads what it writes: so nothing follows the
gates. Every example repeats one token, and without absolute positions every position of it then reads the same: so the
output depends on the mean gate over positions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.spd import Decomposition, Part
from ablationlens.spd.functions import ImportanceFunction
from tests import models
from tests.conftest import Host

PLACE = (1, "mlp.out")
LEVELS = (0.0, 0.3, 0.9, 0.5, 1.0, 0.995)
"""Importance of each component; that of the fourth depends on the input."""
COUNT = len(LEVELS)


class Level(ImportanceFunction):
    """Importances that hardly depend on the input."""

    kind = "level"

    def __init__(self, levels: tuple[float, ...] = LEVELS) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels))
        self.hidden = ()

    def forward(self, read: Tensor) -> Tensor:
        slope = torch.zeros(len(self.levels))
        slope[min(3, len(self.levels) - 1)] = 0.3
        return self.levels + slope * read[..., :1].tanh()


def decomposition(host: Host, levels: tuple[float, ...] = LEVELS) -> Decomposition:
    V, U = models.given_factors(host.reference, *PLACE)
    generator = torch.Generator().manual_seed(1)
    V, U = (torch.randn(size, generator=generator) for size in ((V.shape[0], len(levels)), (len(levels), U.shape[1])))
    return Decomposition({PLACE: Part(V, U, Level(levels))}).requires_grad_(False)


DIRECTION = torch.linspace(-1, 1, models.WIDTH).cos()


class Written(al.TapOutput):
    """What the decomposed module writes along a direction, a mean over real positions."""

    taps = (al.Tap(*PLACE, "out"),)

    def read(self, seen: Mapping[Any, Tensor], logits: Tensor, batch: al.Batch) -> Tensor:
        assert batch.attended is not None
        along = seen[self.taps[0]] @ DIRECTION
        return (along * batch.attended).sum(1) / batch.attended.sum(1)


def data() -> al.Batch:
    """Three examples of one token each, repeated 7, 4 and 1 times."""
    return padded([[5] * 7, [8] * 4, [3]])


def padded(rows: list[list[int]]) -> al.Batch:
    """Examples of different lengths, padded on the right."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return al.batch(tokens, attention_mask=mask)


@torch.no_grad()
def coefficients(host: Host, own: Decomposition) -> Tensor:
    """What each component, and the remainder, writes along the direction: [example, component]."""
    module, _ = models.module_of(host.reference, *PLACE)
    read: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: read.append(args[0][0, 0]))
    for token in (5, 8, 3):
        host.reference(torch.tensor([[token]]))
    handle.remove()
    x, part = torch.stack(read).double(), own[PLACE]
    weight = models.part(host.reference, *PLACE)[0].double()
    V, U, along = part.V.double(), part.U.double(), DIRECTION.double()
    parts = (x @ V) * (U @ along)
    return torch.cat([parts, (x @ (weight - (V @ U).T).T @ along)[:, None]], dim=1)
