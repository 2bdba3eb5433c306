"""Functions and objects of every signature that an output is made from."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ablationlens.data import Batch


def by_logits(logits: Tensor) -> Tensor:
    return logits[:, -1, 0]


def by_both(logits: Tensor, data: Batch) -> Tensor:
    return logits[:, -1, 0] + len(data)


def with_option(logits: Tensor, scale: float = 2.0) -> Tensor:
    return logits[:, -1, 0] * scale


def optional_batch(logits: Tensor, batch: Batch | None = None) -> Tensor:
    return logits[:, -1, 0] + (0 if batch is None else len(batch))


class Callable2:
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, *arguments: Any) -> Tensor:
        assert len(arguments) == 2
        return arguments[0][:, -1, self.token]
