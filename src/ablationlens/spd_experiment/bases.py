"""One sample of a mode as a base, its gates found once for all models and arms that use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.data import Batch
from ablationlens.masks.base import Base
from ablationlens.registry import Registry
from ablationlens.sites import RankOne
from ablationlens.spd.decomposition import Where
from ablationlens.spd.forward import Gates
from ablationlens.spd_experiment.slices import Split


class Given(Base):
    """Gates that are there already.

    Args:
        gates: of the components of each module.
        split: the columns of the components.
        described: how the gates were made, JSON-able.
    """

    def __init__(self, gates: Mapping[Where, Gates], split: Split, described: Mapping[str, Any]) -> None:
        self.given, self.split, self.described = gates, split, described

    def behind(self, adapter: Adapter, registry: Registry) -> Registry | None:
        if any(isinstance(part.site.basis, RankOne) for part in registry.parts):
            return None
        return self.split.registry

    def gates(
        self, adapter: Adapter, registry: Registry, data: Batch
    ) -> Float[Tensor, "sample example component"] | Float[Tensor, "sample example position component"]:
        return self.split.laid_out(self.given)[None]

    def describe(self) -> dict[str, Any]:
        return dict(self.described)


def taken(gates: Mapping[Where, Gates], index: Tensor) -> dict[Where, Gates]:
    """The gates of some examples."""
    return {where: Gates(own.parts[index], own.remainder[index]) for where, own in gates.items()}
