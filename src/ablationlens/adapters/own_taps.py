"""Taps of the user's own: from the address that a tap carries to its place in a model of PyTorch modules."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property

import torch
from torch import nn

from ablationlens.adapters.addresses import Address
from ablationlens.adapters.base import Adapter, Place, View
from ablationlens.adapters.dry import Firing
from ablationlens.adapters.growth import another_example, grown_axes
from ablationlens.data import Batch
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.sites import Location, Tap
from ablationlens.types import Side

log = logging.getLogger("ablationlens")


class OwnTaps(Adapter):
    """What an adapter of PyTorch modules knows of taps of the user's own.

    Attributes:
        host: name of the host.
        hosts: hosts whose addresses this adapter understands, its own first.
    """

    host: str
    hosts: tuple[str, ...] = ("torch", "nnsight")
    _dry_example: Batch
    _firings: dict[tuple[nn.Module, Side], Firing]

    @abstractmethod
    def _dry_forward(self, example: Batch | None = None) -> dict[tuple[nn.Module, Side], Firing]:
        """What fires when the example, or another, runs."""

    def _custom(self, tap: Tap, location: Location) -> Address:
        """Resolve a tap by the address that it carries for this host."""
        known = dict(location.addresses)
        name = next((known[host] for host in self.hosts if host in known), None)
        if name is None:
            raise AdapterError(
                f"'{tap.module}' has an address for {', '.join(known)} and none for {self.host}: add one, "
                f'addresses={{"{self.host}": "..."}}'
            )
        kept = self._custom_places.get(location)
        if kept is not None:
            return Address(name, kept.module, kept.hook, kept.features, kept.size, kept.feature_axis, kept.module)
        module, hook = self._named(name)
        if (module, hook) not in self._firings:
            self._firings, self._other_firings = self._dry_forward(), None  # a flag may have been set since
            self._custom_places.clear()
        firing = self._firings.get((module, hook))
        if firing is None or firing.shape is None:
            return Address(name, module, hook, slice(0, 0), 0, location.axis, module)  # `place` refuses it
        shape = _shown_shape(firing.shape, self._view(module, firing.shape))
        axes, axis = len(shape), location.axis
        if not -axes <= axis < axes or axis % axes == 0:
            raise InputError(
                f"axis {axis} of {name}: its activation is {list(shape)}, whose features can be on the axes 1 to "
                f"{axes - 1}; axis 0 is the batch"
            )
        axis, size = axis % axes, shape[axis]
        return Address(name, module, hook, slice(0, size), size, -1 if axis == axes - 1 else axis, module)

    def _place_custom(self, location: Location, address: Address, shape: tuple[int, ...], folded: int) -> Place:
        """The place of a tap of the user's own; `folded` as in `Place`.

        Raises:
            InputError: if its features are counted by the input, or it has no row for each example.
        """
        if location not in self._custom_places:
            view = None if folded else self._view(address.module, shape)
            shown, axis = _shown_shape(shape, view), address.feature_axis
            positions = self._growing(address, view, shown, folded)
            if positions is not None and axis % len(shown) in positions:
                raise InputError(
                    f"axis {axis} of {address.name}: its activation is {list(shown)}, and that axis has as many "
                    "entries as the input has positions; take another, and ablate single positions by a mask, "
                    "model.mask(off=..., positions=..., data=data)"
                )
            self._custom_places[location] = Place(
                address=address.name,
                module=address.module,
                hook=address.hook,
                features=address.features,
                size=address.size,
                order=min(self._firings[address.module, address.hook].ranks),
                feature_axis=axis,
                axes=len(shown),
                fresh=False,
                holders=(address.module,),
                shape=shape,
                positions=positions,
                view=view,
                folded=folded,
            )
        return self._custom_places[location]

    def _growing(
        self, address: Address, view: View | None, shown: tuple[int, ...], folded: int
    ) -> tuple[int, ...] | None:
        """Axes that grow with the input; None where that cannot be found out."""
        other = self._fired_otherwise((address.module, address.hook))
        if other is None or other.shape is None:
            return None
        examples, rows = len(self._dry_example), other.shape[0]
        if folded and not rows % (2 * examples):
            return grown_axes(shown, (2 * examples, rows // (2 * examples), *other.shape[1:]))
        if (shown[0], rows) != (examples, 2 * examples):
            raise InputError(
                f"{address.name} has {rows} rows for {2 * examples} examples: a site needs one row for each example, "
                "so that each can have a mask of its own"
            )
        if self._dry_example.length is None:
            return None
        return grown_axes(shown, _shown_shape(other.shape, view))

    def _fired_otherwise(self, key: tuple[nn.Module, Side]) -> Firing | None:
        """What fired there in a dry forward of another size; None where that cannot be found out."""
        if self._other_firings is None:
            try:
                self._other_firings = self._dry_forward(another_example(self._dry_example))
            except Exception as error:  # a model may take one size of input only, and say so in any way
                log.debug("the dry forward of another size failed, so axes are told by shapes alone: %s", error)
                self._other_firings = {}
        return self._other_firings.get(key)

    _other_firings: dict[tuple[nn.Module, Side], Firing] | None = None
    """What the dry forward of another size saw, once it was needed."""

    @cached_property
    def _custom_places(self) -> dict[Location, Place]:
        return {}

    def _view(self, module: nn.Module, shape: tuple[int, ...]) -> View | None:
        """How this host shows what the module gives, if not as it is."""
        return None

    def _points(self) -> Mapping[str, nn.Module]:
        """What addresses of this host can name, first of all."""
        return dict(self.model.named_modules())

    def _fire_near(self, name: str) -> str:
        """Names of hook points that fire, the most alike first."""
        points = [point for point, module in self._points().items() if (module, "out") in self._firings]
        near = get_close_matches(name, points, n=5, cutoff=0)
        return f"{len(points)} others do, such as {', '.join(near)}"

    def _named(self, name: str) -> tuple[nn.Module, Side]:
        """The module of a path, and which side of it: its output, or what the path's end ".input" or ".output" says."""
        modules = dict(self.model.named_modules())
        if name in modules:
            return modules[name], "out"
        path, _, end = name.removesuffix("[0]").rpartition(".")  # the first of a tuple is meant anyway
        if path in modules and end in ("input", "output"):
            return modules[path], "in" if end == "input" else "out"
        near = get_close_matches(name, modules, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "model.named_modules() lists them"
        raise UnknownNameError(f"no module '{name}' in {type(self.model).__name__}: {hint}")


def _shown_shape(shape: tuple[int, ...], view: View | None) -> tuple[int, ...]:
    return shape if view is None else tuple(view.convert(torch.empty(shape, device="meta")).shape)
