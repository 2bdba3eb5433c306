"""Hook points of the user's own: what `custom_site` asks for, and the site that it becomes once its width is known."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias, cast

from ablationlens.basis import Basis, check_basis
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.sites import Codes, Coordinates, Cut, Grouped, Location, Site, Tap

HOSTS = ("transformer_lens", "torch", "nnsight")
"""Hosts that an address can be for; a path for torch is one for nnsight too."""

Groups: TypeAlias = int | tuple[tuple[int, ...], ...] | None
Choice: TypeAlias = slice | tuple[int, ...] | None


@dataclass(frozen=True)
class CustomSite:
    """A site of the user's own, before a host says how wide it is. Made by `custom_site`, which checks everything.

    Give it to ``adapter.registry``, alone or with names of kinds: ``adapter.registry(["head", site])``.
    """

    name: str
    layer: int
    read: Location
    write: Location | None = None
    groups: Groups = None
    select: Choice = None
    basis: Basis | None = None

    @property
    def owner(self) -> str:
        """What its components' names begin with."""
        return f"L{self.layer}.{self.name}"

    @property
    def taps(self) -> tuple[Tap, Tap]:
        """Where it reads and where it writes."""
        write = Tap(self.layer, self.name, "out", self.write or self.read)
        return (write if self.write is None else Tap(self.layer, self.name, "in", self.read)), write

    def site(self, width: int, address: str) -> tuple[Site, tuple[int, ...] | None]:
        """The site, and the indices of the components that were selected (None: all).

        Args:
            width: features of the activation that is read.
            address: what the host calls it, for messages.

        Raises:
            InputError: if groups, selection or basis do not fit the width.
        """
        read, write = self.taps
        if self.basis is None:
            cut, indices = self._cut(width, f"features of {address}")
            return Site("custom", self.layer, self.name, read, write, cut, Cut((), "whole")), indices
        if self.basis.width != width:
            raise InputError(
                f"the basis of {self.owner} has width {self.basis.width}, and {address} has {width} features"
                + ("; its matrices look transposed: use their .T" if self.basis.components == width else "")
            )
        cut, indices = self._cut(self.basis.components, f"codes of the basis of {self.owner}")
        return Site("custom", self.layer, self.name, read, write, Codes(self.basis, cut), Cut((), "whole")), indices

    def _cut(self, size: int, what: str) -> tuple[Coordinates | Grouped, tuple[int, ...] | None]:
        chosen = _chosen(self.select, size, f"{size} {what}")
        if self.groups is None:
            return Coordinates(size), None if len(chosen) == size else chosen
        if not isinstance(self.groups, int):
            _check_range(self.groups, size, f"{size} {what}")
            return Grouped(size, self.groups), None
        block, left = divmod(len(chosen), self.groups)
        if left or not block:
            part = f"{len(chosen)} of the {size} {what}" if len(chosen) < size else f"{size} {what}"
            raise InputError(
                f"{self.owner}: {part} do not make {self.groups} equal groups; give a divisor of {len(chosen)}, or "
                "say what is in each group, groups=[[0, 1], [2, 3, 4]]"
            )
        if len(chosen) == size:
            return Coordinates(size, block), None
        return Grouped(size, tuple(chosen[start : start + block] for start in range(0, len(chosen), block))), None


def custom_site(
    name: str,
    addresses: Mapping[str, str],
    *,
    axis: int = -1,
    groups: SupportsIndex | Sequence[Iterable[SupportsIndex]] | None = None,
    select: slice | Iterable[SupportsIndex] | None = None,
    basis: Basis | None = None,
    layer: int | None = None,
    write: Mapping[str, str] | None = None,
) -> CustomSite:
    """A site at a hook point of your own: any activation that a host can name, cut as you say.

    ::

        resid = al.custom_site(
            "resid_post",
            {"transformer_lens": "blocks.3.hook_resid_post", "torch": "model.layers.3"},
            groups=8,
        )
        registry = adapter.registry(["head", resid])  # ..., L3.resid_post 0 to L3.resid_post 7

    Addresses are names of TransformerLens hook points, legacy ones included, and paths of modules in PyTorch and
    nnsight, which mean the module's output unless they end in ``.input``. Where the activation is a tuple, its first
    tensor is meant. The axes of a hook point are those that TransformerLens shows: `hook_z` is [batch, position,
    head, d_head], so its heads are on axis 2.

    Zero ablation sets features, or codes, to 0; there is no weight, so there is no bias that could stay. A feature
    belongs to one site: another site of the same registry that claims it at the same input or output is refused.

    Args:
        name: what components are called: ``L3.resid_post 17``.
        addresses: host -> address; one host is enough where one is used. "torch" and "nnsight" stand for each other.
        axis: axis of the features, the batch being axis 0 and -1 the last.
        groups: how features make components: so many equal groups of consecutive features, or the features of each
            group; by default every feature is a component. With a basis, codes in place of features.
        select: the features (or codes) that take part, as a slice or as indices; the others are always kept.
        basis: ablate codes, for example the latents of a sparse autoencoder, in place of features.
        layer: layer of the names; by default the first integer in an address, or 0.
        write: where a basis writes what it takes out, if not where it reads: the output of an MLP, for a transcoder
            that reads its input.

    Raises:
        InputError: for a name, an address, groups or a selection that cannot be meant.
    """
    read = _location(name, addresses, axis, "addresses")
    if basis is not None:
        check_basis(basis, name)
        if write is None and basis.written != basis.width:
            raise InputError(
                f"the basis of '{name}' reads {basis.width} features and writes {basis.written}, so it writes "
                'elsewhere: say where, write={"torch": "..."}'
            )
    elif write is not None:
        raise InputError(
            f"write= of '{name}' needs a basis: features are replaced where they are read. With one, "
            "al.custom_site(..., basis=al.Dictionary(W_enc, W_dec), write={...})"
        )
    _check_name(name)
    if layer is not None and (not is_integer(layer) or layer < 0):
        raise InputError(f"the layer of '{name}' is an integer from 0; got {layer!r}")
    checked = _groups(groups, name)
    if isinstance(checked, tuple) and select is not None:
        raise InputError(f"the groups of '{name}' say which features take part: leave out select=")
    return CustomSite(
        name,
        _layer_in(addresses) if layer is None else int(layer),
        read,
        None if write is None else _location(name, write, axis, "write"),
        checked,
        select if select is None or isinstance(select, slice) else _integers(select, f"select= of '{name}'"),
        basis,
    )


def _location(name: str, addresses: Any, axis: Any, argument: str) -> Location:
    if not isinstance(addresses, Mapping) or not addresses:
        came = repr(addresses) if isinstance(addresses, str | Mapping) else type(addresses).__name__
        said = addresses if isinstance(addresses, str) else "..."
        raise InputError(
            f"{argument} of '{name}' say for which host they are, {argument}="
            f'{{"transformer_lens": "{said}"}} or {{"torch": "{said}"}}; got {came}'
        )
    given: dict[Any, Any] = dict(cast("Mapping[Any, Any]", addresses))
    for host, address in given.items():
        if host not in HOSTS:
            raise InputError(f"{argument} of '{name}' name the host {host!r}: the hosts are {', '.join(HOSTS)}")
        if not isinstance(address, str) or not address:
            raise InputError(f"the {host} address of '{name}' is a text; got {address!r}")
    if not is_integer(axis) or axis == 0:
        raise InputError(f"axis= of '{name}' is an integer, -1 for the last axis; axis 0 is the batch; got {axis!r}")
    return Location(tuple(sorted(given.items())), int(axis))


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.\-]*", name):
        raise InputError(f"the name of a site is letters, digits, '_', '-' and '.', such as 'resid_post'; got {name!r}")
    if name.rpartition(".")[2] in ("head", "neuron"):
        raise InputError(f"'{name}' is what the library calls its own heads and neurons; use another name, 'my_{name}'")


def _layer_in(addresses: Mapping[str, str]) -> int:
    parts = [part for address in addresses.values() for part in address.split(".")]
    return next((int(part) for part in parts if part.isdecimal()), 0)


def _groups(groups: Any, name: str) -> Groups:
    if groups is None:
        return None
    if is_integer(groups):
        if groups < 1:
            raise InputError(f"groups= of '{name}' is a number of groups, from 1; got {groups}")
        return int(groups)
    listed = isinstance(groups, Iterable) and not isinstance(groups, str)
    members: list[Any] = list(cast("Iterable[Any]", groups)) if listed else []
    if not members or not all(isinstance(group, Iterable) and not isinstance(group, str) for group in members):
        raise InputError(
            f"groups= of '{name}' is a number, or the features of each group, [[0, 1], [2]]; got {groups!r}"
        )
    checked = tuple(tuple(sorted(_integers(group, f"groups= of '{name}'"))) for group in members)
    if not all(checked):
        raise InputError(f"group {checked.index(())} of '{name}' has no features")
    often = [feature for feature, count in Counter(f for group in checked for f in group).items() if count > 1]
    if often:
        owners = [number for number, group in enumerate(checked) if often[0] in group]
        where = f"groups {owners[0]} and {owners[1]}" if len(owners) > 1 else f"group {owners[0]} twice"
        raise InputError(f"feature {often[0]} of '{name}' is in {where}: a feature belongs to one component")
    return checked


def _integers(values: Any, what: str) -> tuple[int, ...]:
    try:
        values = list(values)
        if values and all(str(getattr(value, "dtype", type(value).__name__)).endswith("bool") for value in values):
            raise InputError(f"{what} holds indices; got a mask of {len(values)} truths: mask.nonzero().flatten()")
        return tuple(operator.index(value) for value in values)
    except TypeError as error:
        raise InputError(f"{what} holds integers; got {values!r}") from error


def _chosen(select: Choice, size: int, what: str) -> tuple[int, ...]:
    if select is None:
        return tuple(range(size))
    if isinstance(select, slice):
        chosen = tuple(sorted(range(size)[select]))
    else:
        _check_range((select,), size, what)
        chosen = tuple(sorted(select))
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"select= chooses some of the {what}, each once; got {select}")
    return chosen


def _check_range(groups: Iterable[Iterable[int]], size: int, what: str) -> None:
    outside = [index for group in groups for index in group if not 0 <= index < size]
    if outside:
        raise InputError(f"there is no {outside[0]} among the {what}: they are 0 to {size - 1}")
