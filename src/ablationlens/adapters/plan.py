"""Plan: how a registry's components are cut in one host, worked out once and used by every forward pass.

All coordinate sites of one activation become one lerp; parts that are read in one place and written in another become
one low-rank edit each, and sites with a basis of the user's own one edit of codes each. Steps are in execution order,
and within one activation lerps come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter, Place, Placed, check_written
from ablationlens.adapters.claims import refuse_shared
from ablationlens.adapters.steps import Cut, Factored, Recoded, Step, rank
from ablationlens.basis import check_basis
from ablationlens.data import Batch
from ablationlens.edits import Coded, Lerp, LowRank
from ablationlens.errors import InputError
from ablationlens.kinds import rank_one_site
from ablationlens.layout import reads_encoder
from ablationlens.registry import Part, Registry
from ablationlens.sites import Codes, Coordinates, Grouped, Projected, RankOne, Tap


@dataclass(frozen=True, eq=False)
class Replacements:
    """What ablated parts hold instead.

    Attributes:
        values: for each read tap, the replacement of its activation: ``[example, position, feature]`` (or
            ``[example, channel, ...]``) if `per_example`, otherwise the same without the example axis, or anything
            that broadcasts to it, such as ``[feature]``. A written tap of a low-rank site may be given too. For a
            basis of the user's own, the replacement of its codes, ``[example, position, code]``; for an embedding,
            which reads tokens, what its parts read of the replacement and, beside it, what it writes for it.
        per_example: whether the first axis is the example.
        strength: how far a gate of 0 moves towards the replacement: 1 - gamma for a scaling.
    """

    values: Mapping[Tap, Tensor]
    per_example: bool
    strength: float = 1.0

    @cached_property
    def zeros(self) -> frozenset[Tap]:
        """Taps whose replacement is 0 everywhere, so that nothing need be subtracted; none of what has examples."""
        if self.per_example:
            return frozenset()
        return frozenset(tap for tap, value in self.values.items() if not (value.requires_grad or bool(value.any())))

    def take(self, index: Tensor) -> Replacements:
        """The replacements of the examples at `index`, for packed rows."""
        if not self.per_example:
            return self
        return replace(self, values={tap: value[index.to(value.device)] for tap, value in self.values.items()})


@dataclass(frozen=True, eq=False)
class StandIns:
    """What stands in at each step of a plan: (x', None) for a cut, (codes, None), (x', out') for a factored site.

    There None stands for an x' of 0, and for an out' that nothing needs.
    """

    steps: tuple[tuple[Tensor | None, Tensor | None], ...]
    strength: float
    """See `Replacements`."""


class Plan:
    """The steps that ablate a registry in one host.

    Args:
        adapter: the host; every tap of the registry is resolved here, so a site that never fires is found now.
        registry: what to cut.

    Raises:
        AdapterError: if a site never fires, or this host has no address of it.
        InputError: if the registry was made for a model of other widths.
        OverlapError: if a site of the user's own and another site claim one feature of an activation.
    """

    def __init__(self, adapter: Adapter, registry: Registry) -> None:
        self.adapter = adapter
        self.registry = registry
        self.width = len(registry)
        adapter.check(registry)
        steps = [*self._cuts(), *self._factored(), *self._recoded()]
        refuse_shared([(part, adapter.place(self._direct(part) or part.site.write)) for part in registry.parts])
        steps.sort(key=rank)
        self.steps: tuple[Step, ...] = tuple(steps)
        self._codes = {step.tap: step for step in steps if isinstance(step, Recoded)}
        self._tokens = {step.read_tap: step for step in steps if isinstance(step, Factored) and step.table is not None}

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Taps at which replacements are needed, in execution order."""
        taps: list[Tap] = []
        for step in self.steps:
            match step:
                case Cut():
                    taps += [tap for tap, _, _ in step.taps]
                case Factored():
                    taps.append(step.read_tap)
                case Recoded():
                    taps.append(step.tap)
        return tuple(dict.fromkeys(taps))

    def held(self, tap: Tap) -> Place:
        """What the replacement of a tap is like: its axes are those of the activation, or of its codes."""
        coded = self._codes.get(tap) or self._tokens.get(tap)
        return self.adapter.place(tap) if coded is None else coded.codes

    def read(self, batch: Batch) -> dict[Tap, Tensor]:
        """Activations of the unmodified model at the plan's taps, or their codes."""
        found = self.adapter.read(batch, self.taps)
        with torch.no_grad():
            return {tap: self._read(tap, value) for tap, value in found.items()}

    def _read(self, tap: Tap, value: Tensor) -> Tensor:
        if tap in self._codes:
            return self._codes[tap].encode_shown(value)
        return self._tokens[tap].looked_up(value) if tap in self._tokens else value

    def origin(self, tap: Tap, *, include_bias: bool = False) -> Tensor:
        """What a part is where its weights are 0: its bias, or 0 where it has none, or with `include_bias`.

        Returns:
            Features of the tap, in the shape that broadcasts to its activation.
        """
        held = self.held(tap)
        size, bias = held.size, None
        if tap.location is None and tap not in self._tokens:
            module = self.adapter.layout.module(tap.layer, tap.module)
            size = module.rows if tap.side == "out" else module.columns
            if tap.side == "out" and not include_bias:
                bias = self.adapter.bias(tap.layer, tap.module)
        if bias is None:
            bias = torch.zeros(size, device=self.adapter.device, dtype=self.adapter.dtype)
        return bias.reshape(-1, *[1] * (-1 - held.axis_from_last))

    @property
    def positional(self) -> bool:
        """Whether masks may differ between positions, which are those of the logits: an encoder has others."""
        places = [step.place if isinstance(step, Cut) else step.write for step in self.steps]
        places += [step.codes for step in self.steps if isinstance(step, Recoded)]
        in_encoder = any(reads_encoder(part.site.write.module) for part in self.registry.parts)
        return not in_encoder and all(place.position_axis is not None for place in places)

    # -- making the steps -----------------------------------------------------------------------------------------

    def _cuts(self) -> list[Cut]:
        groups: dict[tuple[int, str, int, bool], list[tuple[Part, Place]]] = {}
        for part in self.registry.parts:
            match part.site.basis:
                case Coordinates() | Grouped():
                    place = self.adapter.place(part.site.write)
                case Projected() if (own := self._direct(part)) is not None:
                    place = self.adapter.place(own)
                case _:
                    continue
            _same_size(part, place)
            groups.setdefault((*place.key, place.axis_from_last, place.view is None), []).append((part, place))
        return [self._cut(sorted(group, key=lambda item: int(item[1].index[0]))) for group in groups.values()]

    def _direct(self, part: Part) -> Tap | None:
        """Where this host lets a projection of a fused matrix be cut at an input of its own, if it does."""
        site = part.site
        if not isinstance(site.basis, Projected):
            return None
        own = Tap(site.layer, site.module, "in")
        return own if self.adapter.has(own) else None

    def _cut(self, group: list[tuple[Part, Place]]) -> Cut:
        first = group[0][1]
        place = replace(first, features=slice(0, first.size))
        taps = tuple({part.site.read: (part.site.read, at, None) for part, at in group}.values())
        if len(taps) > 1:  # a tap of the user's own covers features of other taps too
            taps = tuple((tap, at, _claimed(group, tap)) for tap, at, _ in taps)
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

    def _recoded(self) -> list[Recoded]:
        return [
            self._recode(part, part.site.basis) for part in self.registry.parts if isinstance(part.site.basis, Codes)
        ]

    def _recode(self, part: Part, cut: Codes) -> Recoded:
        site, basis = part.site, cut.basis
        owner = f"L{site.layer}.{site.module}"
        read, write = self.adapter.place(site.read), self.adapter.place(site.write)
        _same_size(part, read)
        check_basis(basis, owner)  # here too: one that was left out of a registry's JSON is missed now
        check_written(basis, owner, write)
        if write.key != read.key:
            _check_order(owner, read, write)
        groups = [cut.members(index) for index in part.indices]
        latents = [code for group in groups for code in group]
        device = self.adapter.device
        columns: slice | Tensor = slice(part.start, part.stop)
        if len(latents) > len(groups):
            sizes = torch.tensor([len(group) for group in groups])
            columns = torch.arange(part.start, part.stop).repeat_interleave(sizes).to(device)
        basis = basis.on(device)
        if latents != list(range(basis.components)):
            basis = basis.pick(torch.tensor(latents, device=device))
        feature = read.feature_axis % read.axes
        positions = None if read.positions is None else tuple(axis - (axis > feature) for axis in read.positions)
        size = len(latents)
        codes = replace(
            read, features=slice(0, size), size=size, feature_axis=-1, positions=positions, shape=(), view=None
        )
        return Recoded(read, write, site.read, codes, basis, columns)

    def _rank_one(self, part: Part) -> Factored:
        basis = part.site.basis
        assert isinstance(basis, RankOne)
        module = self.adapter.layout.module(part.site.layer, part.site.module)
        rank_one_site(module, basis)  # checks the shapes
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
        step = self._step(part, basis.V.detach()[:, used].to(device), basis.U.detach()[used], columns[used], remainder)
        if module.operation != "embedding":
            return step
        return replace(step, table=self.adapter.weight(module.layer, module.name).T)

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
            else (replacements.values[step.tap], None)
            if isinstance(step, Recoded)
            else self._read_and_written(step, replacements)
            for step in self.steps
        )
        return StandIns(tuple(steps), replacements.strength)

    def _assemble(self, step: Cut, replacements: Replacements) -> Tensor:
        values = [replacements.values[tap] for tap, _, _ in step.taps]
        if len(values) == 1 and step.taps[0][1].features == slice(0, step.place.size):
            return values[0]
        axis = step.place.axis_from_last
        lead = torch.broadcast_shapes(*(value.movedim(axis, -1).shape[:-1] for value in values))
        whole = values[0].new_zeros(*lead, step.place.size)
        for value, (_, at, claimed) in zip(values, step.taps, strict=True):
            own, value = at.index.to(whole.device), value.movedim(axis, -1)
            if claimed is not None:
                own, value = own[claimed.to(own.device)], value[..., claimed.to(value.device)]
            whole = whole.index_copy(-1, own, value.expand(*lead, len(own)).to(whole))
        return whole.movedim(-1, axis)

    def _read_and_written(self, step: Factored, replacements: Replacements) -> tuple[Tensor | None, Tensor | None]:
        read, beside = replacements.values[step.read_tap], None
        if step.table is not None:
            read, beside = read.split([step.U.shape[0], read.shape[-1] - step.U.shape[0]], dim=-1)
        written = None if step.remainder is None else self._written(step, replacements, read, beside)
        return None if step.read_tap in replacements.zeros else read, written

    def _written(self, step: Factored, replacements: Replacements, read: Tensor, beside: Tensor | None) -> Tensor:
        """What a module writes for the replacement of what it reads, `beside` which an embedding holds it."""
        if beside is not None:
            return beside
        if step.write_tap == step.read_tap:  # an identity
            return read
        if step.write_tap in replacements.values:
            return replacements.values[step.write_tap]
        if step.read_tap in replacements.zeros:
            return self.origin(step.write_tap)
        weight = self.adapter.weight(step.write_tap.layer, step.write_tap.module)
        bias = self.adapter.bias(step.write_tap.layer, step.write_tap.module)
        written = read.to(weight) @ weight.T
        return written if bias is None else written + bias

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
            if isinstance(step, Factored):
                if padded is None:
                    padded = _padded(off)
                placed.append(_low_rank(step, off, padded, read, written))
                continue
            assert read is not None
            if isinstance(step, Cut) and isinstance(step.columns, slice):
                start, stop = step.columns.start, step.columns.stop
                if step.plain and by_token is not None:
                    placed.append(Placed(Lerp(by_token.narrow(-1, start, stop - start), read), step.place))
                    continue  # the common case, and the one whose every microsecond counts
                own = off.narrow(-1, start, stop - start)
                if step.block > 1:
                    own = own.repeat_interleave(step.block, dim=-1)[..., : step.place.size]
                placed.append(Placed(Lerp(_spread(own, step.place), read), step.place))
            elif isinstance(step, Cut):
                assert isinstance(step.columns, Tensor)
                if padded is None:
                    padded = _padded(off)
                own = padded.index_select(-1, step.columns)
                placed.append(Placed(Lerp(_spread(own, step.place), read), step.place))
            else:
                own = off[..., step.columns]
                edit = Coded(step.encode, step.decode, _spread(own, step.codes), read)
                placed.append(Placed(edit, step.write, None if step.read.key == step.write.key else step.read))
        return placed


def _padded(off: Tensor) -> Tensor:
    """Gates with one more column, of what is always kept."""
    return torch.cat([off, off.new_zeros(*off.shape[:-1], 1)], dim=-1)


def _low_rank(step: Factored, off: Tensor, padded: Tensor, read: Tensor | None, written: Tensor | None) -> Placed:
    own, rest = _spread(padded.index_select(-1, step.columns), step.write), None
    if step.remainder is not None:
        rest = _spread(off[..., step.remainder : step.remainder + 1], step.write)
    edit = LowRank(step.V, step.U, own, rest, read, written, step.write.features)
    return Placed(edit, step.write, None if step.read.key == step.write.key else step.read)


def _block(part: Part) -> int | None:
    """Features of one component, if those of all are consecutive and as many."""
    match part.site.basis:
        case Coordinates(_, block):
            return block
        case Grouped():
            return None
        case _:
            return 1


def _members(part: Part, index: int) -> Sequence[int]:
    """Features of one component, in its own tap."""
    basis = part.site.basis
    assert isinstance(basis, Coordinates | Grouped | Projected)
    return basis.members(index)


def _claimed(group: Sequence[tuple[Part, Place]], tap: Tap) -> Tensor:
    """Features of a tap that the parts of a group cut."""
    features = {
        feature
        for part, _ in group
        if part.site.read == tap
        for index in part.indices
        for feature in _members(part, index)
    }
    return torch.tensor(sorted(features))


def _features(part: Part) -> int:
    basis = part.site.basis
    assert not isinstance(basis, RankOne)
    return basis.basis.width if isinstance(basis, Codes) else basis.features


def _check_order(owner: str, read: Place, write: Place) -> None:
    """Refuse a basis that reads later than it writes, or writes to another number of rows.

    Raises:
        InputError: naming both places.
    """
    if (read.order, read.hook == "out") > (write.order, write.hook == "out"):
        raise InputError(
            f"{owner} reads {read.address} and writes {write.address}, which comes before it in a forward pass"
        )
    rows = [place.shown(torch.empty(place.shape)).movedim(place.feature_axis, -1).shape[:-1] for place in (read, write)]
    if rows[0] != rows[1]:
        raise InputError(
            f"{owner} reads {read.address} and writes {write.address}, whose activations do not line up: for one "
            f"input there are {list(rows[0])} and {list(rows[1])} rows of features"
        )


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
    axes = [off.shape[0], *([1] * (place.axes - 1))]
    feature = place.feature_axis % place.axes
    axes[feature] = off.shape[-1]
    if off.ndim == 3:
        position = place.position_axis
        if position is None:
            raise InputError(f"{place.address} has no positions: its mask is [batch, component], not one by position")
        axes[position] = off.shape[1]
        if position > feature:
            off = off.transpose(1, 2)
    return off.reshape(axes)
