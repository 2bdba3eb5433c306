"""What an adversary makes as large as it can: a divergence from the unmodified model, or any output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs import Output, as_output
from ablationlens.sites import Pattern, Tap
from ablationlens.spd.divergence import DIVERGENCES, Divergence, check_divergence, diverged

Objective: TypeAlias = Divergence | Output | Callable[..., Tensor]
"""A divergence by its name, or what `MaskedModel(output=...)` takes."""


class Aim:
    """One number for each example, which an ascent makes as large as it can.

    Args:
        objective: "kl" or "mse", the divergence from the unmodified model over all real positions; or any output, at
            the scored positions of the data.

    Attributes:
        taps: activations and attention patterns that it reads beside the logits.

    Raises:
        InputError: if it is none of these.
    """

    def __init__(self, objective: Objective) -> None:
        self._divergence: Divergence | None = None
        self._output: Output | None = None
        if isinstance(objective, Output) or (callable(objective) and not isinstance(objective, type)):
            self._output = as_output(objective)
        elif isinstance(objective, str):
            check_divergence(objective)
            self._divergence = objective
        else:
            raise InputError(
                f"output is one of {', '.join(DIVERGENCES)}, or what is to become large: an output such as "
                f"al.KL(), or a function of logits and batch; got {objective!r}"
            )

    @property
    def taps(self) -> tuple[Tap | Pattern, ...]:
        return () if self._output is None else self._output.taps

    def describe(self) -> Any:
        """What it is, JSON-able."""
        return self._divergence if self._output is None else self._output.describe()

    def __call__(
        self,
        logits: Float[Tensor, "batch *position out"],
        target: Float[Tensor, "batch *position out"],
        batch: Batch,
        seen: Mapping[Tap | Pattern, Tensor],
    ) -> Float[Tensor, " batch"]:
        """The number of each example.

        Args:
            logits: of a pass.
            target: of the unmodified model, for the same rows.
            batch: the rows' inputs, labels and scored positions.
            seen: what the taps show in the pass.
        """
        if self._divergence is not None:
            return diverged(logits, target, batch, self._divergence)
        assert self._output is not None
        return self._output.score(logits, batch, target, seen)
