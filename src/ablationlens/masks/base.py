"""Base: what kept components get, where that is not simply 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.registry import Registry


@dataclass(frozen=True, eq=False)
class MaskedRows:
    """The rows of one forward pass, for a base that finds their gates under their masks.

    Attributes:
        mask: [row, component] or [row, position, component] of the model's registry, or one row for all.
        examples: which example of the data each row is.
        batch: the rows' inputs.
        reference: logits of the unmodified model for the rows.
        run: gates of the rows -> their logits under the mask, which multiplies the gates; differentiable in them.
    """

    mask: Tensor
    examples: Tensor
    batch: Batch
    reference: Tensor
    run: Callable[[Tensor], Tensor]


Search: TypeAlias = Callable[[MaskedRows], Tensor]
"""Finds the gates of the rows of a pass; those of a row depend on its own mask and example alone."""


class Base(ABC):
    """Gates that kept components get: a mask of a masked model is multiplied by them.

    A gate of the mask still means 1 = kept, as the base has it, and 0 = ablated. The gates depend on the examples and
    not on the mask, so that two masks differ in nothing but what they ablate; a base with a `Search` finds other ones
    under each mask.
    """

    @property
    def samples(self) -> int:
        """How many sets of gates there are; outputs are means over them, and cost as many forward passes."""
        return 1

    @property
    def passes(self) -> int:
        """What a row costs in forward passes, for each sample; a forward and a backward pass are counted as 3."""
        return 1

    @property
    def binding(self) -> int:
        """What `bind` costs for each example in forward passes, counted in the same way; once for each data set."""
        return 0

    def behind(self, adapter: Adapter, registry: Registry) -> Registry | None:
        """All components that the base gates, where a registry has only some of them or none; None where it has all.

        Those that the registry lacks are scaled towards 0 whatever the mask, for example the parts of weight matrices
        in a model whose heads are ablated.

        Raises:
            InputError: if the registry has components that the base knows nothing of.
        """
        return None

    @abstractmethod
    def gates(
        self, adapter: Adapter, registry: Registry, data: Batch
    ) -> Float[Tensor, "sample example component"] | Float[Tensor, "sample example position component"]:
        """Gates from 0 to 1 for every component of the registry, made once for each data set.

        Args:
            adapter: the model.
            registry: its components.
            data: the examples, on the model's device.

        Raises:
            InputError: if the registry has components that the base knows nothing of.
        """

    def bind(self, adapter: Adapter, registry: Registry, data: Batch) -> tuple[Tensor, Search | None]:
        """The gates of some examples as `gates` has them, and what finds other ones under each mask, if anything."""
        return self.gates(adapter, registry, data), None

    @property
    def version(self) -> Hashable:
        """Changes with whatever decides the gates, which are then made again."""
        return 0

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that decides the gates, JSON-able; recorded, and compared when a run resumes."""

    def __repr__(self) -> str:
        options = {key: value for key, value in self.describe().items() if key != "base"}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
