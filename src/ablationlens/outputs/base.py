"""What every output is: a call that gives one number for each example, and a description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.outputs.identity import identity
from ablationlens.types import Scores


class Output(ABC):
    """One number for each example, from the logits. Calling it leaves the logits as they were."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the unmodified model's logits on the same rows."""

    @abstractmethod
    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """Score each row.

        Args:
            logits: ``[batch, position, class]`` or ``[batch, class]``.
            batch: The rows' inputs, labels and scored positions.
            reference: The unmodified model's logits on the same rows, for outputs that need them.

        Returns:
            [batch], float32 or better.

        Raises:
            InputError: if logits, labels and scored positions do not fit together.
        """

    def describe(self) -> dict[str, Any]:
        """What this output is, JSON-able: kept with a run's provenance and compared when it is resumed.

        Settings that are None are left out, so that one which an output gains later changes nothing where it is unset.
        """
        own = type(self).__module__.startswith("ablationlens.outputs.")
        description: dict[str, Any] = {"output": type(self).__qualname__}
        if not own:
            description["code"] = identity(type(self).__call__)
        fields = {key: value for key, value in vars(self).items() if not key.startswith("_") and value is not None}
        return description | {name: identity(value) for name, value in fields.items()}


def wide(values: Tensor) -> Tensor:
    """These values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()
