"""The oracle: every output that reads logits, with one scored row worked out the slow way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ablationlens.data import Batch
from ablationlens.outputs import KL, CrossEntropy, Logit, LogitDifference, Margin, Output


def scored_rows(logits: Tensor, data: Batch, example: int) -> list[tuple[Tensor, int]]:
    """(logits of one scored position, its label) of one example, the slow way."""
    assert data.scored is not None and data.labels is not None
    rows: list[tuple[Tensor, int]] = []
    for position in range(logits.shape[1]):
        if data.scored[example, position]:
            label = data.labels[example] if data.labels.ndim == 1 else data.labels[example, position]
            rows.append((logits[example, position].double(), int(label)))
    return rows


def naive_margin(row: Tensor, label: int, _: Tensor) -> float:
    return float(row[label]) - max(float(row[j]) for j in range(len(row)) if j != label)


def naive_loss(row: Tensor, label: int, _: Tensor) -> float:
    return float(functional.cross_entropy(row[None], torch.tensor([label])))


def naive_kl(row: Tensor, _: int, clean: Tensor) -> float:
    return float(functional.kl_div(row.log_softmax(0), clean.softmax(0), reduction="sum"))


def naive_reverse_kl(row: Tensor, _: int, clean: Tensor) -> float:
    return float(functional.kl_div(clean.log_softmax(0), row.softmax(0), reduction="sum"))


NAIVE: list[tuple[Output, Callable[[Tensor, int, Tensor], float]]] = [
    (Margin(), naive_margin),
    (CrossEntropy(), naive_loss),
    (Logit(3), lambda row, label, _: float(row[3])),
    (Logit("c"), lambda row, label, _: float(row[2])),
    (Logit("label"), lambda row, label, _: float(row[label])),
    (LogitDifference("b", 4), lambda row, label, _: float(row[1] - row[4])),
    (LogitDifference("label", 0), lambda row, label, _: float(row[label] - row[0])),
    (KL(), naive_kl),
    (KL("ablated||clean"), naive_reverse_kl),
]
EVERY = [pytest.param(output, naive, id=str(output)) for output, naive in NAIVE]
