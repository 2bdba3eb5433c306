"""Plan: how a registry's components are cut in one host, worked out once and used by every forward pass.

All coordinate sites of one activation become one lerp; parts that are read in one place and written in another become
one low-rank edit each. Steps are in execution order, and within one activation low-rank edits come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter, Place, Placed
from ablationlens.edits import Lerp, LowRank
from ablationlens.errors import InputError
from ablationlens.kinds import rank_one_site
from ablationlens.registry import Part, Registry
from ablationlens.sites import Coordinates, Projected, RankOne, Tap


@dataclass(frozen=True, eq=False)
class Replacements:
    """What ablated parts hold instead.

    Attributes:
        values: for each read tap, the replacement of its activation: ``[example, position, feature]`` (or
            ``[example, channel, ...]``) if `per_example`, otherwise the same without the example axis, or anything
            that broadcasts to it, such as ``[feature]``. A written tap of a low-rank site may be given too.
        per_example: whether the first axis is the example.
        strength: how far a gate of 0 moves towards the replacement: 1 - gamma for a scaling.
    """

    values: Mapping[Tap, Tensor]
    per_example: bool
    strength: float = 1.0

    def take(self, index: Tensor) -> Replacements:
        """The replacements of the examples at `index`, for packed rows."""
        if not self.per_example:
            return self
        return replace(self, values={tap: value[index.to(value.device)] for tap, value in self.values.items()})


@dataclass(frozen=True, eq=False)
class Cut:
    """All coordinate sites of one activation.

    Attributes:
        place: the whole activation.
        taps: the taps in it, each with its place.
        columns: mask columns of the groups, if they are consecutive and complete; otherwise the column of each
            feature, where the width of the mask stands for "kept".
        block: features of one group, where `columns` is a slice.
    """

    place: Place
    taps: tuple[tuple[Tap, Place], ...]
    columns: slice | Tensor
    block: int


@dataclass(frozen=True, eq=False)
class Factored:
    """One site that is read in one place and written in another.

    Attributes:
        columns: mask column of each code; the width of the mask stands for "kept".
        remainder: mask column of the remainder, or None.
    """

    read: Place
    write: Place
    read_tap: Tap
    write_tap: Tap
    V: Tensor | None
    U: Tensor
    columns: Tensor
    remainder: int | None


Step: TypeAlias = Cut | Factored


@dataclass(frozen=True, eq=False)
class StandIns:
    """What stands in at each step of a plan: (x', None) for a cut, (x', out') for a factored site."""

    steps: tuple[tuple[Tensor, Tensor | None], ...]
    strength: float
    """See `Replacements`."""


class Plan:
    """The steps that ablate a registry in one host.

    Args:
        adapter: the host; every tap of the registry is resolved here, so a site that never fires is found now.
        registry: what to cut.
    """

    def __init__(self, adapter: Adapter, registry: Registry) -> None:
        self.adapter = adapter
        self.registry = registry
        self.width = len(registry)
        adapter.check(registry)
        steps = [*self._cuts(), *self._factored()]
        steps.sort(key=_rank)
        self.steps: tuple[Step, ...] = tuple(steps)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps at which replacements are needed, in execution order."""
        taps: list[Tap] = []
        for step in self.steps:
            taps += [tap for tap, _ in step.taps] if isinstance(step, Cut) else [step.read_tap]
        return tuple(dict.fromkeys(taps))

    @property
    def positional(self) -> bool:
        """Whether masks may differ between positions."""
        return all(place.position_axis is not None for place in self._written())

    def _written(self) -> list[Place]:
        return [step.place if isinstance(step, Cut) else step.write for step in self.steps]

    # -- making the steps -----------------------------------------------------------------------------------------

    def _cuts(self) -> list[Cut]:
        groups: dict[tuple[int, str], list[tuple[Part, Place]]] = {}
        for part in self.registry.parts:
            match part.site.basis:
                case Coordinates():
                    place = self.adapter.place(part.site.write)
                case Projected() if (own := self._direct(part)) is not None:
                    place = self.adapter.place(own)
                case _:
                    continue
            _same_size(part, place)
            groups.setdefault(place.key, []).append((part, place))
        return [self._cut(sorted(group, key=lambda item: int(item[1].index[0]))) for group in groups.values()]

    def _direct(self, part: Part) -> Tap | None:
        """Where this host lets a projection of a fused matrix be cut at an input of its own, if it does."""
        site = part.site
        own = Tap(site.layer, site.module, "in")
        return own if self.adapter.has(own) else None

    def _cut(self, group: list[tuple[Part, Place]]) -> Cut:
        first = group[0][1]
        place = replace(first, features=slice(0, first.size))
        taps = tuple({part.site.read: at for part, at in group}.items())
        parts = [part for part, _ in group]
        blocks = {_block(part) for part in parts}
        consecutive = all(a.stop == b.start for a, b in pairwise(parts))
        covered = sum(_features(part) for part in parts) == place.size
        in_order = all(isinstance(at.features, slice) for _, at in group)
        if consecutive and covered and in_order and len(blocks) == 1 and all(part.whole for part in parts):
            block = blocks.pop()
            if block is not None and (len(parts) == 1 or all(_features(part) % block == 0 for part in parts)):
                return Cut(place, taps, slice(parts[0].start, parts[-1].stop), block)
        columns = torch.full((place.size,), self.width, dtype=torch.long)
        for part, at in group:
            own = at.index.cpu()
            for position, index in enumerate(part.indices):
                columns[own[list(_members(part, index))]] = part.start + position
        return Cut(place, taps, columns.to(self.adapter.device), 1)

    def _factored(self) -> list[Factored]:
        return [
            self._rank_one(part) if isinstance(part.site.basis, RankOne) else self._projected(part)
            for part in self.registry.parts
            if isinstance(part.site.basis, RankOne)
            or (isinstance(part.site.basis, Projected) and self._direct(part) is None)
        ]

    def _rank_one(self, part: Part) -> Factored:
        basis = part.site.basis
        assert isinstance(basis, RankOne)
        rank_one_site(self.adapter.layout.module(part.site.layer, part.site.module), basis)  # checks the shapes
        count, remainder = basis.V.shape[1], None
        columns = torch.full((count,), self.width, dtype=torch.long)
        for position, index in enumerate(part.indices):
            if index < count:
                columns[index] = part.start + position
            else:
                remainder = part.start + position
        # where the remainder always stays, so do the parts outside the registry, and their factors are not needed
        used = torch.ones(count, dtype=torch.bool) if remainder is not None else columns < self.width
        device = self.adapter.device
        return self._step(part, basis.V.detach()[:, used].to(device), basis.U.detach()[used], columns[used], remainder)

    def _projected(self, part: Part) -> Factored:
        weight = self.adapter.weight(part.site.layer, part.site.module)
        columns = torch.full((weight.shape[1],), self.width, dtype=torch.long)
        columns[list(part.indices)] = torch.arange(part.start, part.stop)
        return self._step(part, None, weight.T, columns, None)

    def _step(
        self, part: Part, read_by: Tensor | None, written_by: Tensor, columns: Tensor, remainder: int | None
    ) -> Factored:
        device = self.adapter.device
        return Factored(
            read=self.adapter.place(self._own(part.site.read, part.site.write)),
            write=self.adapter.place(part.site.write),
            read_tap=part.site.read,
            write_tap=part.site.write,
            V=read_by,
            U=written_by.detach().to(device),
            columns=columns.to(device),
            remainder=remainder,
        )

    def _own(self, read: Tap, write: Tap) -> Tap:
        """Where to read a module's input: its own, where the host has one, else the fused module's."""
        own = Tap(write.layer, write.module, "in")
        return own if self.adapter.has(own) else read

    # -- using them -----------------------------------------------------------------------------------------------

    def stand_ins(self, replacements: Replacements) -> StandIns:
        """What stands in at each step, in the shapes of the host's activations."""
        steps = (
            (self._assemble(step, replacements), None)
            if isinstance(step, Cut)
            else self._read_and_written(step, replacements)
            for step in self.steps
        )
        return StandIns(tuple(steps), replacements.strength)

    def _assemble(self, step: Cut, replacements: Replacements) -> Tensor:
        values = [replacements.values[tap] for tap, _ in step.taps]
        if len(values) == 1 and step.taps[0][1].features == slice(0, step.place.size):
            return values[0]
        axis = step.place.feature_axis
        if axis > 0 and not replacements.per_example:
            axis -= 1
        lead = torch.broadcast_shapes(*(value.movedim(axis, -1).shape[:-1] for value in values))
        whole = values[0].new_zeros(*lead, step.place.size)
        for value, (_, at) in zip(values, step.taps, strict=True):
            own = at.index.to(whole.device)
            whole = whole.index_copy(-1, own, value.movedim(axis, -1).expand(*lead, len(own)))
        return whole.movedim(-1, axis)

    def _read_and_written(self, step: Factored, replacements: Replacements) -> tuple[Tensor, Tensor | None]:
        read = replacements.values[step.read_tap]
        if step.remainder is None:
            return read, None
        if step.write_tap in replacements.values:
            return read, replacements.values[step.write_tap]
        weight = self.adapter.weight(step.write_tap.layer, step.write_tap.module)
        bias = self.adapter.bias(step.write_tap.layer, step.write_tap.module)
        written = read.to(weight) @ weight.T
        return read, written if bias is None else written + bias

    def edits(self, mask: Tensor, stand_ins: StandIns) -> list[Placed]:
        """The edits of one forward pass.

        Args:
            mask: [batch, component] or [batch, position, component], on the model's device.
            stand_ins: of the same rows as the mask, or without a batch axis.
        """
        off = 1 - mask
        if stand_ins.strength != 1.0:
            off = off * stand_ins.strength
        by_token = off[:, None] if off.ndim == 2 else None
        padded: Tensor | None = None
        placed: list[Placed] = []
        for step, (read, written) in zip(self.steps, stand_ins.steps, strict=True):
            if isinstance(step, Cut) and isinstance(step.columns, slice):
                start, stop = step.columns.start, step.columns.stop
                if step.block == 1 and by_token is not None and step.place.position_axis == 1:
                    placed.append(Placed(Lerp(by_token.narrow(-1, start, stop - start), read), step.place))
                    continue  # the common case, and the one whose every microsecond counts
                own = off.narrow(-1, start, stop - start)
                if step.block > 1:
                    own = own.repeat_interleave(step.block, dim=-1)[..., : step.place.size]
                placed.append(Placed(Lerp(_spread(own, step.place), read), step.place))
                continue
            if padded is None:
                padded = torch.cat([off, off.new_zeros(*off.shape[:-1], 1)], dim=-1)
            if isinstance(step, Cut):
                assert isinstance(step.columns, Tensor)
                own = padded.index_select(-1, step.columns)
                placed.append(Placed(Lerp(_spread(own, step.place), read), step.place))
            else:
                own = _spread(padded.index_select(-1, step.columns), step.write)
                rest = None
                if step.remainder is not None:
                    rest = _spread(off[..., step.remainder : step.remainder + 1], step.write)
                edit = LowRank(step.V, step.U, own, rest, read, written, step.write.features)
                placed.append(Placed(edit, step.write, step.read))
        return placed


def _rank(step: Step) -> tuple[int, int, int]:
    place = step.place if isinstance(step, Cut) else step.write
    return (place.order, int(place.hook == "out"), int(isinstance(step, Cut)))


def _block(part: Part) -> int | None:
    """Features of one component, if those of all are consecutive and as many."""
    return part.site.basis.block if isinstance(part.site.basis, Coordinates) else 1


def _members(part: Part, index: int) -> Sequence[int]:
    basis = part.site.basis
    assert not isinstance(basis, RankOne)
    return basis.members(index)


def _features(part: Part) -> int:
    basis = part.site.basis
    assert not isinstance(basis, RankOne)
    return basis.features


def _same_size(part: Part, place: Place) -> None:
    """Refuse a registry that was made for a model of other widths."""
    features = len(place.index)
    if _features(part) != features:
        raise InputError(
            f"the registry's L{part.site.layer}.{part.site.module} has {_features(part)} features and {place.address} "
            f"has {features}: it was made for another model; make it again with adapter.registry(...)"
        )


def _spread(off: Tensor, place: Place) -> Tensor:
    """Give gates [batch, feature] or [batch, position, feature] the axes of an activation."""
    if off.ndim == 3:
        if place.position_axis is None:
            raise InputError(f"{place.address} has no positions: its mask is [batch, component], not one by position")
        return off
    axes = [off.shape[0], *([1] * (place.axes - 1))]
    axes[place.feature_axis] = off.shape[-1]
    return off.reshape(axes)
