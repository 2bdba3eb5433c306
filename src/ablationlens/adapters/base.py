"""Adapter: the only thing between the library and a host. It knows where taps live and how to run the model."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.adapters.watch import Watch
from ablationlens.basis import Basis
from ablationlens.custom import CustomSite
from ablationlens.data import Batch
from ablationlens.edits import Edit
from ablationlens.errors import InputError
from ablationlens.kinds import rank_one_site, sites_of
from ablationlens.layout import Heads, Layout, Module
from ablationlens.registry import Registry
from ablationlens.sites import RankOne, Site, Tap
from ablationlens.types import Features, Side


class View(NamedTuple):
    """How a host shows an activation to its users: TransformerLens splits heads that the tensor holds side by side.

    Attributes:
        convert: from the tensor that the module gives to the one that is shown.
        revert: back again.
    """

    convert: Callable[[Tensor], Tensor]
    revert: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tap is found in a host: which features of which activation, and when in a forward pass.

    Attributes:
        address: module path or hook name, as the host calls it.
        module: what to hook.
        hook: before the module runs (on its input) or after (on its output).
        features: the tap's own features of the activation, in the order of the tap.
        size: all features of the activation.
        order: rank among all inputs and outputs of modules in the forward pass.
        feature_axis: axis of the features: -1, or 1 for a convolution; 2 for the heads of [batch, position, head, d].
        axes: number of axes of the activation as it is shown, the batch included.
        fresh: whether it is what a module gives, which may be edited in place where nobody else has it.
        holders: modules whose own hooks may have kept the tensor.
        shape: of the activation in the dry forward.
        positions: axes that grow with the input, where that was tried; None where it was not.
        view: how the host shows the activation, if not as it is; `axes` and `feature_axis` are those of the view.
        folded: positions of one example in the dry forward, where batch and positions share the first axis of the
            activation, as in the MLP of OPT; edits and reads see it as [batch, position, feature]. Otherwise 0.
    """

    address: str
    module: nn.Module
    hook: Side
    features: Features
    size: int
    order: int
    feature_axis: int
    axes: int
    fresh: bool
    holders: tuple[nn.Module, ...] = ()
    shape: tuple[int, ...] = ()
    positions: tuple[int, ...] | None = None
    view: View | None = None
    folded: int = 0

    @property
    def key(self) -> tuple[int, Side]:
        """Equal for taps that live in one activation."""
        return (id(self.module), self.hook)

    @property
    def position_axis(self) -> int | None:
        """Axis of positions, if there is one: that of queries, in an attention pattern."""
        if self.positions is not None:
            return self.positions[0] if self.positions else None
        return 1 if self.axes == 3 and self.feature_axis in (-1, 2) else None

    @property
    def index(self) -> Tensor:
        """The tap's own features, as an index of the activation's features."""
        return self.features if isinstance(self.features, Tensor) else torch.arange(self.size)[self.features]

    @property
    def pooled(self) -> tuple[int, ...]:
        """Axes over which a mean pools: positions, or patches, or pixels."""
        if self.positions is not None:
            return self.positions
        return tuple(axis for axis in range(1, self.axes) if axis != self.feature_axis % self.axes)

    @property
    def axis_from_last(self) -> int:
        """Axis of the features counted from the last, -1: the same for a value without leading axes."""
        return self.feature_axis if self.feature_axis < 0 else self.feature_axis - self.axes

    def shown(self, activation: Tensor) -> Tensor:
        """The activation as the host shows it."""
        return activation if self.view is None else self.view.convert(activation)

    def take(self, activation: Tensor) -> Tensor:
        """The tap's own features of the whole activation, as the host shows it."""
        shown = self.shown(activation).movedim(self.feature_axis, -1)
        return shown[..., self.features].movedim(-1, self.feature_axis)


class Placed(NamedTuple):
    """An edit, where it writes, and (if it reads elsewhere) where it reads."""

    edit: Edit
    write: Place
    read: Place | None = None


class PatternPoint(NamedTuple):
    """Where a host shows the pattern of an attention.

    Attributes:
        name: of the place, for messages.
        module: in whose output it is.
        take: from that output to the pattern; None if it is not there.
        advice: what to do where it is not.
    """

    name: str
    module: nn.Module
    take: Callable[[Any], Any]
    advice: str


Run: TypeAlias = Callable[..., Tensor]
"""One forward pass of a session, (batch, edits) -> logits."""


class Adapter(ABC):
    """One model, held by one host.

    Attributes:
        model: the user's model, never changed beyond a call.
        layout: what can be cut, in logical names.
        silent: addresses that exist but never fired in the dry forward.
    """

    model: nn.Module
    layout: Layout
    silent: tuple[str, ...]

    # -- what can be ablated --------------------------------------------------------------------------------------

    def registry(
        self,
        kinds: str | CustomSite | Sequence[str | CustomSite],
        *,
        layers: Iterable[SupportsIndex] | SupportsIndex | None = None,
        modules: Sequence[str] | str | None = None,
        size: int | None = None,
        factors: Mapping[tuple[int, str], tuple[Tensor, Tensor]] | None = None,
        svd: int | None = None,
        allow_overlap: bool = False,
    ) -> Registry:
        """Components of one or several kinds, in the order layer, module, feature.

        Args:
            kinds: "head", "row", "column", "row_block", "matrix", "neuron", "filter", "rank_one", a site of
                `custom_site`, or several of these. "head" cuts what a head found, after attention; "head_value" and
                "head_query" cut its values and its queries, before: see `ablationlens.kinds`.
            layers: layers to take; all by default. Sites of your own say themselves where they are.
            modules: logical modules to take, such as ``["q", "mlp.in"]``; each kind has its own default.
            size: rows of one block, for "row_block".
            factors: for "rank_one": (layer, module) -> (V [in, C], U [C, out]). Beside linear modules it takes fused
                matrices (``attn.qkv``; not on a bridge, which splits them), the token embedding (``embed``, layer 0,
                V [token, C]) and identities that are put before a module (``attn.q.pre_identity``).
            svd: for "rank_one": number of singular parts of each module's weight, in place of `factors`; of those that
                `modules` names, or of every linear module that is not fused.
            allow_overlap: permit rows together with columns of the same weight.

        Raises:
            UnknownNameError: for a kind, layer or module that the model does not have.
            InputError: if an option does not fit the kind, or a site of your own does not fit its activation.
            OverlapError: if two kinds cut the same weight in ways that cannot be combined.
            AdapterError: if this host has no such hook point, or it never fires.
        """
        asked = [kinds] if isinstance(kinds, str | CustomSite) else list(kinds)
        names = [one for one in asked if isinstance(one, str)]
        _check_asked(asked, names, layers=layers, modules=modules)
        chosen_layers = None if layers is None else layer_numbers(layers)
        if "rank_one" not in names and (factors is not None or svd is not None):
            raise InputError(f"factors= and svd= belong to kind 'rank_one', not to {', '.join(names)}")
        if "row_block" not in names and size is not None:
            raise InputError(f"size= belongs to kind 'row_block', not to {', '.join(names)}")
        sites: list[tuple[Site, Sequence[int] | None]] = []
        for one in asked:
            if isinstance(one, CustomSite):
                sites.append(self._custom_site(one))
            elif one == "rank_one":
                sites += [(site, None) for site in self._rank_one_sites(chosen_layers, modules, factors, svd)]
            else:
                found = sites_of(self.layout, one, layers=chosen_layers, modules=modules, size=size)
                sites += [(site, None) for site in found]
        registry = Registry(sites, allow_overlap=allow_overlap)
        self.check(registry)
        return registry

    def _custom_site(self, asked: CustomSite) -> tuple[Site, Sequence[int] | None]:
        read, write = (self.place(tap) for tap in asked.taps)
        made = asked.site(read.size, read.address)
        if asked.basis is not None:
            check_written(asked.basis, asked.owner, write)
        return made

    def _rank_one_sites(
        self,
        layers: Sequence[int] | None,
        modules: Sequence[str] | str | None,
        factors: Mapping[tuple[int, str], tuple[Tensor, Tensor]] | None,
        svd: int | None,
    ) -> Iterable[Site]:
        if (factors is None) == (svd is None):
            raise InputError(
                "kind 'rank_one' needs either the factors of each module, factors={(0, 'mlp.in'): (V, U)}, "
                "or the number of singular parts of each weight, svd=8"
            )
        if factors is not None:
            names, chosen = self.layout.select_names(modules), self.layout.select_layers(layers)
            wrong = next((key for key in factors if not (isinstance(key, tuple) and len(key) == 2)), None)
            if wrong is not None:
                raise InputError(f"factors are given by (layer, module), such as (0, 'mlp.in'); got {wrong!r}")
            for (layer, name), (V, U) in factors.items():
                full = (self.layout.select_names(name) or (name,))[0]
                if layer in chosen and (names is None or full in names):
                    yield self._rank_one_site(self.layout.module(layer, full), RankOne(V, U))
            return
        assert svd is not None
        for module in self.layout.decomposable(layers, modules):
            yield self._rank_one_site(module, singular_parts(self.weight(module.layer, module.name), svd))

    def _rank_one_site(self, module: Module, factors: RankOne) -> Site:
        site = rank_one_site(module, factors)
        if module.parts:
            self.place(site.write)  # a host that splits fused matrices says so now, and not when it is run
        return site

    # -- the host -------------------------------------------------------------------------------------------------

    @abstractmethod
    def place(self, tap: Tap) -> Place:
        """Where a tap lives in this host.

        Raises:
            AdapterError: if it never fires in a forward pass, or fires more than once.
        """

    @abstractmethod
    def has(self, tap: Tap) -> bool:
        """Whether this host has the tap as an activation of its own that fires."""

    @abstractmethod
    def weight(self, layer: int, module: str) -> Tensor:
        """The out x in matrix of a module, as a view where the host stores it as such; of an identity, a new one."""

    @abstractmethod
    def bias(self, layer: int, module: str) -> Tensor | None:
        """The bias of a module, or None."""

    @abstractmethod
    def session(self, watch: Watch | None = None) -> AbstractContextManager[Run]:
        """Many forward passes whose edits are at the same places: whatever they need is set up once, and undone after.

        The passes of a sweep are run in one; `run` is a session of one pass.

        Args:
            watch: what is to be seen of each pass beside its logits; patterns are formed for the duration, where the
                host can switch its attention.

        Raises:
            AdapterError: if the model does not show what is to be seen; the message says how to load it.
        """

    @abstractmethod
    def run(self, batch: Batch, edits: Sequence[Placed] = ()) -> Tensor:
        """Logits of the model under the edits, in eval mode; nothing of the call outlives it."""

    @abstractmethod
    def read(self, batch: Batch, taps: Sequence[Tap]) -> dict[Tap, Tensor]:
        """Activations at taps: [batch, position, feature], or [batch, channel, ...] for a convolution."""

    @abstractmethod
    def patterns(
        self, batch: Batch, layers: Sequence[int] | None = None, attention: str | None = None
    ) -> dict[int, Float[Tensor, "batch head query key"]]:
        """The attention patterns of the unmodified model, by layer.

        Args:
            batch: inputs; patterns of padded queries mean nothing.
            layers: layers to read; all by default.
            attention: which attention of a layer, in a model that has several: ``encoder.attn``, ``decoder.attn`` or
                ``decoder.cross`` in T5.

        Raises:
            AdapterError: if the attention does not show its pattern; the message says how to load the model.
            InputError: if the model has several attentions, and `attention` does not say which.
            UnknownNameError: for a layer or an attention that the model does not have.
        """

    @abstractmethod
    def pattern_point(self, heads: Heads) -> PatternPoint:
        """Where the pattern of an attention shows.

        Raises:
            AdapterError: if it has none.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Host, class, dtype, device and fingerprint of the model: JSON-able, compared when a run resumes."""

    @abstractmethod
    def check(self, registry: Registry) -> None:
        """Refuse components that mean something else in this model than their name says.

        Raises:
            AdapterError: if there are such.
        """

    @property
    @abstractmethod
    def vocabulary(self) -> int | None:
        """Token ids that the model knows, from 0, which is as wide as its logits are; None if it does not say."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Changes with the model: weights changed or exchanged (`state.version`), hooks of the user's."""

    @abstractmethod
    def check_data(self, batch: Batch) -> None:
        """Refuse inputs that the model cannot take.

        Raises:
            InputError: if they are longer than its context, hold tokens that it does not know, or are integers where
                it reads numbers.
        """

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)


def check_written(basis: Basis, owner: str, write: Place) -> None:
    """Refuse a basis that writes more or fewer features than there are.

    Raises:
        InputError: naming both widths.
    """
    if basis.written != write.size:
        raise InputError(
            f"the basis of {owner} writes {basis.written} features, and {write.address} has {write.size} features"
        )


def _check_asked(asked: Sequence[Any], names: Sequence[str], *, layers: Any, modules: Any) -> None:
    wrong = next((one for one in asked if not isinstance(one, str | CustomSite)), None)
    if wrong is not None or not asked:
        raise InputError(
            f"a registry is made of kinds, such as 'head', and sites of al.custom_site(...); got {wrong!r}"
        )
    if not names and (layers is not None or modules is not None):
        raise InputError("layers= and modules= choose among kinds; a site of your own says itself where it is")


def layer_numbers(layers: Iterable[SupportsIndex] | SupportsIndex) -> list[int]:
    """Layers as a list, also where there is one.

    Raises:
        InputError: for anything but whole numbers.
    """
    one = getattr(layers, "ndim", 1) == 0 or isinstance(layers, str) or not isinstance(layers, Iterable)
    given: list[Any] = [layers] if one else list(cast("Iterable[Any]", layers))
    try:
        if any(isinstance(layer, bool) for layer in given):
            raise TypeError("a truth value is no layer")
        return [operator.index(layer) for layer in given]
    except TypeError as error:
        raise InputError(f"layers are whole numbers, layers=[0, 1] or layers=0; got {layers!r}") from error


def check_adapter(adapter: Any) -> None:
    """Refuse what is easily mistaken for an adapter.

    Raises:
        InputError: with the line to type instead.
    """
    if not isinstance(adapter, Adapter):
        raise InputError(f"expected an adapter, al.adapt(model); got {type(adapter).__name__}")


def singular_parts(weight: Tensor, count: int) -> RankOne:
    """The `count` largest singular parts of an out x in matrix, as factors V [in, C] and U [C, out].

    Raises:
        InputError: if the matrix has fewer.
    """
    if not 1 <= count <= min(weight.shape):
        raise InputError(
            f"svd={count}: a {weight.shape[0]} x {weight.shape[1]} matrix has 1 to {min(weight.shape)} parts"
        )
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    V = right[:count].T * values[:count].sqrt()
    U = (left[:, :count] * values[:count].sqrt()).T
    return RankOne(V.to(weight.dtype).contiguous(), U.to(weight.dtype).contiguous())
