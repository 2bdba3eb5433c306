"""What every output is: a call that gives one number for each example, and a description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs.identity import identity
from ablationlens.sites import Pattern, Tap
from ablationlens.types import Scores


class Output(ABC):
    """One number for each example, from the logits. Calling it leaves the logits as they were."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the unmodified model's logits on the same rows."""

    @property
    def taps(self) -> tuple[Tap | Pattern, ...]:
        """What it reads beside the logits: see `TapOutput`."""
        return ()

    def score(
        self, logits: Tensor, batch: Batch, reference: Tensor | None, seen: Mapping[Tap | Pattern, Tensor]
    ) -> Scores:
        """Score each row of a pass that also showed what `taps` names."""
        return self(logits, batch, reference)

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


class TapOutput(Output):
    """One number for each example, from activations or attention patterns of the pass under ablation.

    A subclass says what it wants to see and what it makes of it; any method then explains that number::

        class Strength(al.TapOutput):
            taps = (al.Tap(3, "mlp.out", "out"),)

            def read(self, seen, logits, batch):
                return seen[self.taps[0]].norm(dim=-1).mean(1)
    """

    @property
    @abstractmethod
    def taps(self) -> tuple[Tap | Pattern, ...]:
        """The activations and patterns that it reads."""

    @abstractmethod
    def read(self, seen: Mapping[Tap | Pattern, Tensor], logits: Tensor, batch: Batch) -> Scores:
        """Score each row.

        Args:
            seen: what the taps show, after the edits of the pass: [batch, position, feature] of an activation, [batch,
                head, query, key] of a pattern.
            logits: of the pass.
            batch: the rows' inputs, labels and scored positions.

        Returns:
            [batch].
        """

    def __call__(
        self, logits: Float[Tensor, "batch ..."], batch: Batch, reference: Float[Tensor, "batch ..."] | None = None
    ) -> Scores:
        """Logits do not show the taps.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{type(self).__name__} reads {', '.join(map(str, self.taps))}, which logits do not show: give it to "
            "al.MaskedModel(adapter, registry, output=...) and call that; methods that call an output on logits "
            "alone, such as al.conductance, cannot take it"
        )

    def score(
        self, logits: Tensor, batch: Batch, reference: Tensor | None, seen: Mapping[Tap | Pattern, Tensor]
    ) -> Scores:
        """See `Output.score`.

        Raises:
            InputError: if `read` returns anything but [batch] floats.
        """
        scores: Any = self.read(seen, logits, batch)
        if not isinstance(scores, Tensor) or scores.shape != (len(batch),) or not scores.is_floating_point():
            came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"{type(self).__name__}.read returns one float for each row, [{len(batch)}], not {came}")
        return wide(scores)


def wide(values: Tensor) -> Tensor:
    """These values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()
