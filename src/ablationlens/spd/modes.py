"""Modes: the gates that kept components get, from their importances and from sources.

Each is a base of a masked model, `MaskedModel(adapter, registry, base=...)`: a mask of 1 keeps a component as the mode
has it, and 0 ablates it, in every mode. The sources depend on the examples and never on the mask, so both arms of a
comparison have the same ones and ablating nothing changes nothing; only `PGD(..., reoptimise=True)` goes on from them
under each mask that ablates something.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.state import version
from ablationlens.data import Batch
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.masks.base import Base
from ablationlens.registry import Part, Registry
from ablationlens.sites import RankOne
from ablationlens.spd.decomposition import Decomposition, Where, name_of
from ablationlens.spd.forward import Gates
from ablationlens.spd.given import check_range
from ablationlens.spd.sources import Sampling, addressed_sources, check_sampling, checked_seed, gates_of

Remainder: TypeAlias = Literal["source", "kept", "dropped"]
REMAINDERS: tuple[Remainder, ...] = ("source", "kept", "dropped")


class Mode(Base):
    """A base from a decomposition.

    Attributes:
        decomposition: whose importances are used.
        remainder: gate of the remainder of each module: "source", as of a component of importance 0; "kept", 1; or
            "dropped", 0.
    """

    def __init__(self, decomposition: Decomposition, *, remainder: Remainder = "source") -> None:
        if not isinstance(decomposition, Decomposition):
            raise InputError(f"a mode is of a decomposition, al.spd.load(path); got {type(decomposition).__name__}")
        if remainder not in REMAINDERS:
            raise InputError(f"remainder is one of {', '.join(REMAINDERS)}; got {remainder!r}")
        self.decomposition = decomposition
        self.remainder: Remainder = remainder

    def describe(self) -> dict[str, Any]:
        return {"base": type(self).__name__, "decomposition": self.decomposition.fingerprint, **self._settings()}

    @property
    def version(self) -> Hashable:
        return version(self.decomposition.parameters()), json.dumps(self._settings(), sort_keys=True)

    @property
    def binding(self) -> int:
        return 1  # the importances, whose inputs are those of the unmodified model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self._settings().items())})"

    def _settings(self) -> dict[str, Any]:
        return {"remainder": self.remainder}

    @abstractmethod
    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        """Sources of one sample, [example, *position, C + 1] of each module, on the CPU."""

    def module_gates(self, adapter: Adapter, data: Batch, sample: int = 0) -> dict[Where, Gates]:
        """Gates of the components of each module, for one sample: [example, *position, C], and of the remainder.

        Raises:
            InputError: if the model or the data does not fit, or the sample is no number from 0.
        """
        if not is_integer(sample) or sample < 0:
            raise InputError(f"sample is a whole number from 0; got {sample!r}")
        importances = self.decomposition.importances(adapter, data)
        return self.gates_with(importances, self.sources(adapter, data, importances, sample))

    def gates_with(self, importances: Mapping[Where, Tensor], sources: Mapping[Where, Tensor]) -> dict[Where, Gates]:
        """Gates of the components of each module, and of its remainder, for importances and sources.

        Args:
            importances: of each module, [example, *position, C] or [1, ..., C].
            sources: of each module, [example, *position, C + 1], the remainder's last, or [1, ..., C + 1].

        Raises:
            InputError: for another shape, or numbers outside [0, 1].
        """
        check_range(importances, "importances")
        check_range(sources, "sources")
        return self._gates_with(importances, sources)

    def _gates_with(self, importances: Mapping[Where, Tensor], sources: Mapping[Where, Tensor]) -> dict[Where, Gates]:
        """The same, without a look at the numbers."""
        gates = gates_of(importances, sources)
        return {where: Gates(own.parts.clamp(0, 1), self._remainder(own.remainder)) for where, own in gates.items()}

    def behind(self, adapter: Adapter, registry: Registry) -> Registry | None:
        held = self._parts(registry)
        whole = all(where in held and held[where].whole for where in self.decomposition.places)
        return None if whole else self.decomposition.registry(adapter)

    def gates(
        self, adapter: Adapter, registry: Registry, data: Batch
    ) -> Float[Tensor, "sample example component"] | Float[Tensor, "sample example position component"]:
        parts, importances = self._parts(registry), self.decomposition.importances(adapter, data)
        drawn = (self.sources(adapter, data, importances, sample) for sample in range(self.samples))
        return torch.stack([self._laid_out(registry, parts, self.gates_with(importances, own)) for own in drawn])

    def _remainder(self, gate: Tensor) -> Tensor:
        if self.remainder == "source":
            return gate
        return torch.full_like(gate, 1.0 if self.remainder == "kept" else 0.0)

    def _parts(self, registry: Registry) -> dict[Where, Part]:
        """Where the registry has components of each module: all, some, or none, of which nothing is said.

        Raises:
            InputError: if it has rank-one components of something else.
        """
        found: dict[Where, Part] = {}
        for part in registry.parts:
            basis, where = part.site.basis, (part.site.layer, part.site.module)
            if not isinstance(basis, RankOne):
                continue  # a head or a neuron is kept as it is
            own = self.decomposition[where] if where in self.decomposition.places else None
            if own is None or RankOne(own.V.detach(), own.U.detach()) != basis:
                raise InputError(
                    f"the rank-one components of {name_of(where)} in this registry are not those of the decomposition: "
                    "make the registry with decomposition.registry(adapter), or select(...) from that"
                )
            found[where] = part
        return found

    def _laid_out(self, registry: Registry, parts: Mapping[Where, Part], gates: Mapping[Where, Gates]) -> Tensor:
        """Gates in the order of the registry's columns."""
        first = next(iter(gates.values())).parts
        laid = first.new_ones(*first.shape[:-1], len(registry))
        for where, part in parts.items():
            own = torch.cat([gates[where].parts, gates[where].remainder], dim=-1)
            laid[..., part.start : part.stop] = own if part.whole else own[..., list(part.indices)]
        return laid


class Deterministic(Mode):
    """Every component at its importance: sources are 0.

    Remainders, which have no importance, are left out unless they are "kept".

    Args:
        decomposition: whose importances are used.
        remainder: "dropped" or "kept".
    """

    def __init__(self, decomposition: Decomposition, *, remainder: Remainder = "dropped") -> None:
        if remainder == "source":
            raise InputError("remainder of Deterministic is 'dropped' or 'kept': its sources are all 0")
        super().__init__(decomposition, remainder=remainder)

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        return {where: torch.zeros(*lower.shape[:-1], lower.shape[-1] + 1) for where, lower in importances.items()}


class Stochastic(Mode):
    """Gates at random between each component's importance and 1; outputs are means over samples.

    The sources of an example depend on (seed, sample, its number in the data, module) alone.

    Args:
        decomposition: whose importances are used.
        n_samples: how many; each costs a forward pass of every example under every mask.
        sampling: "continuous", uniform sources, or "binomial", 0 or 1 with equal chance.
        seed: of the sources.
        remainder: "source", a uniform gate; "kept" or "dropped".
    """

    def __init__(
        self,
        decomposition: Decomposition,
        n_samples: int = 1,
        *,
        sampling: Sampling = "continuous",
        seed: int = 0,
        remainder: Remainder = "source",
    ) -> None:
        super().__init__(decomposition, remainder=remainder)
        check_sampling(sampling)
        if not is_integer(n_samples) or n_samples < 1:
            raise InputError(f"n_samples is a whole number from 1; got {n_samples!r}")
        self.n_samples, self.seed = int(n_samples), checked_seed(seed)  # as Python's own, which JSON knows
        self.sampling: Sampling = sampling

    @property
    def samples(self) -> int:
        return self.n_samples

    def _settings(self) -> dict[str, Any]:
        settings = {"n_samples": self.n_samples, "sampling": self.sampling, "seed": self.seed}
        return settings | super()._settings()

    def sources(
        self, adapter: Adapter, data: Batch, importances: Mapping[Where, Tensor], sample: int
    ) -> Mapping[Where, Tensor]:
        return addressed_sources(importances, self.sampling, self.seed, sample)
