"""Whole: the baseline in which no component is scaled down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Decomposition, Where
from ablationlens.spd.modes import Deterministic, Mode, Stochastic
from ablationlens.spd.pgd import PGD


class Whole(Mode):
    """Every component at gate 1: the target model, or, without the remainders, its reconstruction V U.

    Sources are 1: importance and what it lacks, ci + (1 - ci), are exactly 1 in floating point, rounded to nearest.

    Args:
        decomposition: of the model.
        remainder: "kept", which is the target model, to the last bit; or "dropped", its reconstruction.
    """

    def __init__(self, decomposition: Decomposition, *, remainder: Literal["kept", "dropped"] = "kept") -> None:
        super().__init__(decomposition, remainder=remainder)
        if self.remainder == "source":
            raise InputError("remainder of Whole is 'kept', for the target model, or 'dropped', for its reconstruction")

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        return {where: torch.ones(*lower.shape[:-1], lower.shape[-1] + 1) for where, lower in importances.items()}


def baseline_of(mode: Mode) -> str:
    """What the model is before anything is ablated, in words."""
    remainders = {"kept": "with remainders", "dropped": "without remainders", "source": "remainders masked too"}
    match mode:
        case Whole():
            return "target" if mode.remainder == "kept" else "reconstruction"
        case Deterministic():
            return f"importances, {remainders[mode.remainder]}"
        case Stochastic():
            return f"stochastic, {remainders[mode.remainder]}"
        case PGD():
            return f"adversarial, {remainders[mode.remainder]}"
        case _:
            return type(mode).__name__
