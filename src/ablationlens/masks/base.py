"""Base: what kept components get, where that is not simply 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.registry import Registry


class Base(ABC):
    """Gates that kept components get: a mask of a masked model is multiplied by them.

    A gate of the mask still means 1 = kept, as the base has it, and 0 = ablated. The gates depend on the examples and
    not on the mask, so that two masks differ in nothing but what they ablate.
    """

    @property
    def samples(self) -> int:
        """How many sets of gates there are; outputs are means over them, and cost as many forward passes."""
        return 1

    def behind(self, adapter: Adapter, registry: Registry) -> Registry | None:
        """Components that the base gates behind those of a registry that has none of them; None where it has.

        They are scaled towards 0 whatever the mask, for example the parts of weight matrices in a model whose heads are
        ablated.
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
