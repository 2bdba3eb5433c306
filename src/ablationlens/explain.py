"""Explain: what a component is, where a host keeps it, and what its ablation does, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablationlens.absent import name_of
from ablationlens.adapters import orientation
from ablationlens.adapters.base import Adapter, Place
from ablationlens.custom import CustomSite
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.kinds import sites_of
from ablationlens.layout import Layout, after_identity
from ablationlens.masked_model import MaskedModel
from ablationlens.registry import Registry
from ablationlens.sites import Codes, Component, Coordinates, Grouped, Projected, RankOne, Site, Tap


@dataclass(frozen=True)
class Explanation:
    """What `explain` found, as text: print it.

    Attributes:
        title: what is explained.
        facts: (label, text), in the order in which they are printed.
    """

    title: str
    facts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max((len(label) for label, _ in self.facts), default=0)
        return "\n".join([self.title, *(f"  {label:<{width}}  {text}" for label, text in self.facts)])

    __repr__ = __str__

    def __getitem__(self, label: str) -> str:
        """The text of one fact."""
        for name, text in self.facts:
            if name == label:
                return text
        raise UnknownNameError(f"no fact '{label}' here: there are {', '.join(name for name, _ in self.facts)}")


def explain(what: Any, adapter: Adapter | MaskedModel | None = None) -> Explanation:
    """What a component, a site or a registry is, where it is in a model, and what its ablation does.

    ::

        print(al.explain("L5.head 2", adapter))

    Args:
        what: a component, a site, a `custom_site`, a registry, or the name of a component.
        adapter: the model, from `al.adapt`, or a MaskedModel; without it there is what names alone say.

    Raises:
        InputError: for anything else, or a name that cannot be resolved.
        UnknownNameError: for a name that the model does not have.
    """
    registry = adapter.registry if isinstance(adapter, MaskedModel) else None
    host = adapter.adapter if isinstance(adapter, MaskedModel) else adapter
    if host is not None and not isinstance(host, Adapter):
        raise InputError(f"adapter= is what al.adapt(model) gives, or a MaskedModel; got {type(host).__name__}")
    match what:
        case Registry():
            return _registry(what, host)
        case Component():
            return _site(what.site, (what.index,), what.name, host)
        case Site():
            return _site(what, tuple(range(what.basis.components)), _span_of_names(what), host)
        case CustomSite() if host is not None:
            part = host.registry(what).parts[0]
            return _site(part.site, part.indices, _span_of_names(part.site, part.indices), host)
        case CustomSite():
            return _asked(what)
        case str() if registry is not None:
            return explain(registry[registry.column(what)], host)
        case str():
            return _named(what, host)
        case _:
            raise InputError(
                "what is explained is a component, a site, a registry or a name such as 'L5.head 2'; "
                f"got {type(what).__name__}"
            )


# -- names ----------------------------------------------------------------------------------------------------------

_NAME = re.compile(
    r"L(?P<layer>\d+)\.(?:"
    r"(?:(?P<part>\S+) )?(?P<cut>head|neuron) \d+"
    r"|(?P<module>\S+) (?P<kind>row|column|filter) \d+"
    r"|(?P<block>\S+) rows (?P<first>\d+)-(?P<last>\d+)"
    r"|(?P<factored>\S+) (?:remainder|rank_one \d+)"
    r"|(?P<custom>\S+) \d+"
    r"|(?P<matrix>\S+))"
)


def _named(name: str, host: Adapter | None) -> Explanation:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name!r} is no name of a component: names look like 'L3.attn.q row 17' and 'L5.head 2'")
    if found["factored"] or found["custom"]:
        what = "its factors" if found["factored"] else "its hook point"
        raise InputError(f"'{name}' does not say {what}: give the component, registry['...'], or a MaskedModel with it")
    if host is None:
        facts = [("what", _KIND_WORDS[_kind(found)]), ("layer", found["layer"])]
        return Explanation(name, (*facts, _more(repr(name))))
    layer = int(found["layer"])
    size = int(found["last"]) - int(found["first"]) + 1 if found["block"] else None
    modules = found["module"] or found["block"] or found["matrix"]
    sites = sites_of(host.layout, _kind(found), layers=[layer], modules=modules, size=size)
    registry = Registry([(site, None) for site in sites])
    return explain(registry[registry.column(name)], host)


def _kind(found: re.Match[str]) -> str:
    if found["cut"] == "head":  # of a projection, "L3.attn.q head 0", or of an attention, "L3.encoder.attn head 0"
        return PROJECTED.get((found["part"] or "").rpartition(".")[2], "head")
    return found["cut"] or found["kind"] or ("row_block" if found["block"] else "matrix")


PROJECTED = {"q": "head_query", "v": "head_value"}
"""Kinds of the heads of a projection, whose names end in its own."""


def _span_of_names(site: Site, indices: Sequence[int] | None = None) -> str:
    indices = range(site.basis.components) if indices is None else indices
    if len(indices) == 1:
        return site.name(indices[0])
    return f"{site.name(indices[0])} to {site.name(indices[-1])}, {len(indices):,} components"


def _more(what: str) -> tuple[str, str]:
    return ("more", f"where it is in a model: al.explain({what}, adapter)")


_KIND_WORDS = {
    "head": "a query head, cut where the output projection of the attention reads it",
    "head_query": "the queries of a head, cut where attn.q writes them",
    "head_value": "the values of a key/value head, cut where attn.v writes them, for all query heads that share it",
    "row": "an output feature of a module: a row of its out x in matrix",
    "row_block": "consecutive output features of a module: rows of its out x in matrix",
    "matrix": "all output features of a module: its whole out x in matrix",
    "column": "an input feature of a module: a column of its out x in matrix",
    "neuron": "a hidden feature of the MLP, cut where mlp.out reads it",
    "filter": "an output channel of a convolution",
    "rank_one": "a rank-one part of a module's out x in matrix, outer(U[c], V[:, c]), or the remainder",
    "custom": "features of an activation of your own, or codes of a basis there",
}


# -- registries, and what no host has resolved ------------------------------------------------------------------------


def _registry(registry: Registry, host: Adapter | None) -> Explanation:
    facts: list[tuple[str, str]] = []
    kinds = dict.fromkeys(part.site.kind for part in registry.parts)
    for kind in kinds:
        facts.append((kind, _KIND_WORDS[kind]))
        parts = [part for part in registry.parts if part.site.kind == kind]
        for module in dict.fromkeys(part.site.module for part in parts):
            sites = [(part.site, len(part.indices)) for part in parts if part.site.module == module]
            layers = sorted({site.layer for site, _ in sites})
            where = "" if host is None else f", first at {host.place(_cut_tap(sites[0][0], host)).address}"
            count = sum(number for _, number in sites)
            facts.append((f"  {module}", f"{count:,} in {_plural('layer', layers)}{where}"))
    facts.append(("more", f"about one of them: al.explain(registry[0]{'' if host is None else ', adapter'})"))
    return Explanation(f"Registry of {len(registry):,} components", tuple(facts))


def _asked(asked: CustomSite) -> Explanation:
    what = "features" if asked.basis is None else f"codes, by a {name_of(asked.basis)},"
    facts = [("what", f"{what} of an activation of your own, on axis {asked.read.axis}")]
    facts += [(f"in {host}", address) for host, address in asked.read.addresses]
    facts += [(f"writes in {host}", address) for host, address in (asked.write.addresses if asked.write else ())]
    return Explanation(f"{asked.owner}, as asked for", (*facts, _more("site")))


# -- sites ------------------------------------------------------------------------------------------------------------


def _site(site: Site, indices: Sequence[int], title: str, host: Adapter | None) -> Explanation:
    facts: list[tuple[str, str]] = [("what", _what(site, indices))]
    if host is None:
        if site.read.location is not None:
            facts += [(f"in {name}", address) for name, address in site.read.location.addresses]
        return Explanation(title, (*facts, _more("component" if len(indices) == 1 else "site")))
    facts.append(("host", f"{getattr(host, 'host', type(host).__name__)}, {type(host.model).__name__}"))
    facts += list(_where(site, indices, host))
    facts += list(_zero(site, indices, host))
    facts += list(_attention(site, indices, host.layout))
    return Explanation(title, tuple(facts))


def _what(site: Site, indices: Sequence[int]) -> str:
    """What is cut, in words."""
    members = _members(site, indices)
    features = _plural("feature", members)
    weight = site.cut.weights[0] if site.cut.weights else ""
    match site.basis:
        case RankOne() if tuple(indices) == (site.basis.components - 1,):
            matrix = "W" if after_identity(site.module) is None else "I"
            return f"what the rank-one parts of {site.module} leave over, {matrix} - (V @ U).T"
        case RankOne():
            return f"rank-one {_plural('part', members)} of {site.module}: outer(U[c], V[:, c])"
        case Codes(basis):
            codes = f"{_plural('code', members)} of a {name_of(basis)}, and what {_pronoun(members)} to an activation"
            return f"{codes} of your own; what the basis does not reach, its error term, stays"
        case Projected():
            return f"what input {features} contributes to {site.module} alone: a column of its out x in matrix"
        case Grouped():
            return f"{features} of an activation of your own"
        case Coordinates():
            pass
    match site.kind:
        case "custom":
            return f"{features} of an activation of your own"
        case "head":
            return f"query {_plural('head', indices)}: input {features} of the output projection {weight}"
        case "head_query":
            return f"the queries of {_plural('head', indices)}: output {features} of {site.module}"
        case "head_value":
            return f"the values of key/value {_plural('head', indices)}: output {features} of {site.module}"
        case "neuron":
            return f"hidden {features} of the MLP, after its activation function: input {features} of {weight}"
        case "column":
            return f"input {features} of {site.module}: {_plural('column', members)} of its out x in matrix"
        case "filter":
            return f"output {_plural('channel', members)} of {site.module}"
        case _:
            return f"output {features} of {site.module}: {_plural('row', members)} of its out x in matrix"


def _where(site: Site, indices: Sequence[int], host: Adapter) -> Iterator[tuple[str, str]]:
    tap = _cut_tap(site, host)
    place = host.place(tap)
    yield "place", _named_place(place, host)
    yield "activation", f"{_shape(place)}: {_in_activation(site, indices, place)}"
    if tap != site.read and place.address != host.place(site.read).address:
        read = host.place(site.read)
        yield "reads", f"{_named_place(read, host)}, {_shape(read)}"
    elif isinstance(site.basis, RankOne | Projected) and place.hook == "out":
        yield "reads", "the input of that module"
    if site.cut.weights:
        yield "weight", _weight(site, indices, host, place)
    if isinstance(site.basis, Codes):
        basis = site.basis.basis
        plain = type(basis).__repr__ is object.__repr__
        yield "basis", f"{name_of(basis)}, {basis.components} codes" if plain else repr(basis)


def _cut_tap(site: Site, host: Adapter) -> Tap:
    """Where the host replaces features: a projection of a fused matrix may have an input of its own there."""
    own = Tap(site.layer, site.module, "in")
    return own if isinstance(site.basis, Projected) and host.has(own) else site.write


def _named_place(place: Place, host: Adapter) -> str:
    kind = type(place.module).__name__
    if kind == "HookPoint":
        return f"hook point {place.address}"
    path = next((name for name, module in host.model.named_modules() if module is place.module), place.address)
    return f"{'output' if place.hook == 'out' else 'input'} of {path}, a {kind}"


def _shape(place: Place) -> str:
    """``[batch, position, 32 features]``, with the sizes of the dry forward where an axis has no name."""
    sizes = place.shown(torch.empty(place.shape, device="meta")).shape if place.shape else ()
    names = ["batch"]
    for axis in range(1, place.axes):
        if axis == place.feature_axis % place.axes:
            names.append(f"{place.size} features")
        elif place.positions is not None and axis in place.positions:
            names.append("position" if len(place.positions) == 1 else ("query", "key")[place.positions.index(axis) % 2])
        elif place.positions is None and place.position_axis == axis:
            names.append("position")
        else:
            names.append(str(sizes[axis]) if sizes else "...")
    return f"[{', '.join(names)}]"


def _members(site: Site, indices: Sequence[int]) -> list[int]:
    basis = site.basis
    if isinstance(basis, RankOne):
        return list(indices)
    return [member for index in indices for member in basis.members(index)]


def _in_activation(site: Site, indices: Sequence[int], place: Place) -> str:
    if isinstance(site.basis, Codes):
        return "all of them, as far as the codes reach"
    if isinstance(site.basis, RankOne) or (isinstance(site.basis, Projected) and place.hook == "out"):
        return _plural("feature", place.index.tolist())
    return _plural("feature", place.index[_members(site, indices)].tolist())


def _weight(site: Site, indices: Sequence[int], host: Adapter, place: Place) -> str:
    """Which rows or columns of the out x in matrix are meant, and where they are stored."""
    name = site.cut.weights[0] if len(site.cut.weights) == 1 else site.module
    module = host.layout.module(site.layer, name)
    text = f"{name}, {module.rows} x {module.columns} (out x in)"
    if module.operation == "identity":
        return f"{text}, of an identity put before {after_identity(name)}: no module of the model holds it"
    if module.part_of is not None:
        text += f", part of the fused {module.part_of}"
    owner = place.holders[-1] if place.holders else place.module
    weight = getattr(owner, "weight", None)
    how = orientation.orientation(owner)
    if not isinstance(weight, Tensor) or how is None:
        return text
    transposed = how.operation == "linear" and not isinstance(owner, nn.Linear)  # Conv1D
    order = "[in, out]" if transposed else "[out, in]" if how.operation == "linear" else "[out, in, ...]"
    text += f", stored by a {type(owner).__name__} as {order} = {list(weight.shape)}"
    if isinstance(site.basis, RankOne | Projected):
        return text
    own = place.index[_members(site, indices)].tolist()
    is_row = (site.write.side == "out") != transposed
    return f"{text}: there {_plural('row' if is_row else 'column', own)}"


def _zero(site: Site, indices: Sequence[int], host: Adapter) -> Iterator[tuple[str, str]]:
    """What Zero puts in place, with the bias kept and with it ablated too."""
    label, too = "Zero()", "Zero(include_bias=True)"
    bias = None if site.kind == "custom" else _bias(host, site)
    match site.basis:
        case Codes():
            yield label, "codes of 0, so they contribute nothing; there is no bias that could stay"
        case _ if site.kind == "custom":
            yield label, "0; there is no weight here, so no bias that could stay"
        case RankOne():
            yield label, "the matrix without the part" + ("" if bias is None else "; the bias stays")
            if site.basis.components - 1 in indices and bias is not None:
                yield too, "an ablated remainder takes the bias with it"
        case _ if site.read.side == "in":
            stays = "" if bias is None else "; the bias stays, with include_bias=True as well"
            yield (
                label,
                f"0 at the input, as if {_plural('column', _members(site, indices))} of the weight were 0{stays}",
            )
        case _ if bias is None:
            yield label, "0; the module has no bias, so include_bias=True changes nothing"
        case _:
            own = None if bias.is_meta else bias[_members(site, indices)]
            value = "their biases" if own is None or len(own) > 1 else f"its bias, {float(own[0]):.4g}"
            yield label, f"{value}, as if {_plural('row', _members(site, indices))} of the weight were 0"
            yield too, "0"


def _bias(host: Adapter, site: Site) -> Tensor | None:
    name = site.cut.weights[0] if len(site.cut.weights) == 1 else site.module
    try:
        return host.bias(site.layer, name)
    except AdapterError:  # of a remote model, whose weights are elsewhere
        return torch.empty(0, device="meta")


ROWS = ("row", "row_block", "matrix", "head_query", "head_value")
"""Kinds that are rows of a projection."""


def _attention(site: Site, indices: Sequence[int], layout: Layout) -> Iterator[tuple[str, str]]:
    """Which heads a part belongs to, and which query heads read a key or value."""
    attention, _, end = site.module.rpartition(".")
    for heads in layout.heads:
        count = layout.key_values(heads)
        if heads.layer != site.layer or not count:
            continue
        shared = heads.queries // count
        if site.kind == "head" and heads.attention == site.module and shared > 1:
            own = sorted({index // shared for index in indices})
            yield "attention", f"reads {_fed(own, shared)} ({heads.queries} query heads share {count})"
        elif heads.attention == attention and end in ("q", "k", "v") and site.kind in ROWS:
            own = sorted({row // heads.size for row in _members(site, indices)})
            if end == "q" or shared == 1:
                yield "attention", f"{_plural('head', own)} of {heads.queries}, {heads.size} rows each"
            else:
                yield "attention", f"{_fed(own, shared)}; there are {count}, of {heads.size} rows each"


def _fed(own: Sequence[int], shared: int) -> str:
    queries = [query for head in own for query in range(head * shared, (head + 1) * shared)]
    feeds = "feeds" if len(own) == 1 else "feed"
    return f"key/value {_plural('head', own)}, which {feeds} query {_plural('head', queries)}"


def _pronoun(members: Sequence[int]) -> str:
    return "it contributes" if len(members) == 1 else "they contribute"


def _plural(word: str, members: Sequence[int]) -> str:
    return f"{word}{'s' * (len(members) > 1)} {_ranges(members)}"


def _ranges(numbers: Sequence[int]) -> str:
    """``3``, ``0 to 7``, ``1, 4 and 9``, ``0 to 3 and 8 to 11``; long lists are cut short."""
    spans: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    texts = [text for a, b in spans for text in ([str(a), str(b)][: 1 + (b > a)] if b <= a + 1 else [f"{a} to {b}"])]
    if len(texts) > 6:
        return f"{', '.join(texts[:5])}, ... ({len(numbers)} in all)"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
