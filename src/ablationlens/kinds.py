"""The kinds of component: one small function each, from a model's layout to sites.

| kind | reads | cuts |
|---|---|---|
| ``head`` | the attention output before ``attn.o`` (z) | query heads, however many key/value heads they share |
| ``head_query`` | the queries of a head, the output of ``attn.q`` | a query head: without them it attends evenly |
| ``head_value`` | the values, the output of ``attn.v`` | a key/value head, for all query heads that share it |
| ``row`` | a module's output | one output feature of the out x in matrix |
| ``row_block`` | a module's output | `size` consecutive output features |
| ``matrix`` | a module's output | the whole matrix |
| ``column`` | a module's input | one input feature |
| ``neuron`` | the input of ``mlp.out`` | one hidden feature of the MLP |
| ``filter`` | a convolution's output | one output channel |
| ``rank_one`` | a module's input, written at its output | factors V, U and their remainder |

Rank-one parts of the token embedding (``embed``) read tokens, which stand for one-hot rows. Those of an inserted
identity (``attn.q.pre_identity``) are read and written at the input of the module that it stands before; whatever else
is cut there, such as columns or heads, is cut after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError, UnknownNameError
from ablationlens.layout import Heads, Layout, Module, after_identity, split_stack
from ablationlens.sites import Coordinates, Cut, Projected, RankOne, Site, Tap


@dataclass(frozen=True)
class Request:
    """What a kind is asked for: layers and modules already checked against the layout; None means the default."""

    layout: Layout
    layers: tuple[int, ...]
    modules: tuple[str, ...] | None
    size: int | None = None

    def chosen(self, default: Callable[[Module], bool]) -> list[Module]:
        """Modules in canonical order: those named, or those that the kind takes by default."""
        return [
            module
            for module in self.layout.modules
            if module.layer in self.layers
            and (default(module) if self.modules is None else module.name in self.modules)
        ]


def _by_rows(kind: str, module: Module, block: int) -> Site:
    if module.parts:
        raise InputError(
            f"'{module.name}' is a fused matrix: name its rows by projection, modules={list(module.parts)}"
        )
    out = Tap(module.layer, module.name, "out")
    cut = Cut((module.name,), "whole" if kind == "matrix" else "row")
    return Site(kind, module.layer, module.name, out, out, Coordinates(module.rows, block), cut)


def _rows(request: Request) -> Iterable[Site]:
    for module in request.chosen(lambda m: not m.parts and m.operation == "linear"):
        yield _by_rows("row", module, 1)


def _row_blocks(request: Request) -> Iterable[Site]:
    if not is_integer(request.size) or request.size is None or request.size < 1:
        raise InputError(
            f'kind "row_block" needs the rows of a block: registry("row_block", size=8); got size={request.size}'
        )
    for module in request.chosen(lambda m: not m.parts and m.operation == "linear"):
        yield _by_rows("row_block", module, request.size)


def _matrices(request: Request) -> Iterable[Site]:
    for module in request.chosen(lambda m: not m.parts):
        yield _by_rows("matrix", module, module.rows)


def _filters(request: Request) -> Iterable[Site]:
    for module in request.chosen(lambda m: m.operation == "convolution"):
        if module.operation != "convolution":
            raise InputError(f"'{module.name}' is not a convolution: use kind 'row' for its output features")
        yield _by_rows("filter", module, 1)


def _columns(request: Request) -> Iterable[Site]:
    for module in request.chosen(lambda m: m.part_of is None and m.operation == "linear"):
        cut = Cut(module.parts or (module.name,), "column")
        if module.part_of is not None:
            read, write = Tap(module.layer, module.part_of, "in"), Tap(module.layer, module.name, "out")
            yield Site("column", module.layer, module.name, read, write, Projected(module.columns), cut)
        else:
            tap = Tap(module.layer, module.name, "in")
            yield Site("column", module.layer, module.name, tap, tap, Coordinates(module.columns), cut)


def _heads(request: Request) -> Iterable[Site]:
    for heads in request.layout.heads:
        if heads.layer in request.layers and (request.modules is None or heads.module in request.modules):
            tap = Tap(heads.layer, heads.module, "in")
            basis = Coordinates(heads.queries * heads.size, heads.size)
            yield Site("head", heads.layer, heads.attention, tap, tap, basis, Cut((heads.module,), "column"))


def _head_queries(request: Request) -> Iterable[Site]:
    for heads in request.layout.heads:
        yield from _projected(request, heads, "head_query", f"{heads.attention}.q", heads.queries)


def _head_values(request: Request) -> Iterable[Site]:
    for heads in request.layout.heads:
        yield from _projected(request, heads, "head_value", f"{heads.attention}.v", request.layout.key_values(heads))


def _projected(request: Request, heads: Heads, kind: str, name: str, count: int) -> Iterable[Site]:
    """What a projection gives each head."""
    known = any(module.layer == heads.layer and module.name == name for module in request.layout.modules)
    if known and heads.layer in request.layers and (request.modules is None or name in request.modules):
        tap, basis = Tap(heads.layer, name, "out"), Coordinates(count * heads.size, heads.size)
        yield Site(kind, heads.layer, name, tap, tap, basis, Cut((name,), "row"))


def _neurons(request: Request) -> Iterable[Site]:
    for module in request.chosen(_writes_mlp):
        if request.layout.transformer and _writes_mlp(module):
            tap = Tap(module.layer, module.name, "in")
            mlp = module.name.rpartition(".")[0]
            cut = Cut((module.name,), "column")
            yield Site("neuron", module.layer, mlp, tap, tap, Coordinates(module.columns), cut)


def _writes_mlp(module: Module) -> bool:
    return split_stack(module.name)[1] == "mlp.out"


KINDS: dict[str, Callable[[Request], Iterable[Site]]] = {
    "head": _heads,
    "head_query": _head_queries,
    "head_value": _head_values,
    "row": _rows,
    "column": _columns,
    "row_block": _row_blocks,
    "matrix": _matrices,
    "neuron": _neurons,
    "filter": _filters,
}
"""Kinds that a layout alone decides; ``rank_one`` also needs factors: see `rank_one_site`."""


WHERE = {
    "head": "heads are cut at attn.o",
    "head_query": "queries are cut at attn.q",
    "head_value": "values are cut at attn.v",
    "neuron": "neurons are cut at mlp.out",
}


def sites_of(
    layout: Layout,
    kind: str,
    *,
    layers: Sequence[int] | None = None,
    modules: Sequence[str] | str | None = None,
    size: int | None = None,
) -> list[Site]:
    """Sites of one kind, in canonical order.

    Raises:
        UnknownNameError: for an unknown kind, layer or module.
        InputError: if the model has no such component, or the request does not fit the kind.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"no kind '{kind}': the kinds are {', '.join([*KINDS, 'rank_one'])}")
    chosen = layout.select_names(modules)
    request = Request(layout, layout.select_layers(layers), chosen, size)
    sites = list(KINDS[kind](request))
    if not sites:
        asked = "" if chosen is None else f" in {', '.join(chosen)}"
        raise InputError(f"no component of kind '{kind}'{asked}: {_why_none(kind, layout, chosen)}")
    return sites


def _why_none(kind: str, layout: Layout, chosen: Sequence[str] | None) -> str:
    """Why a model has no component of a kind, or not where it was asked for, and what to type."""
    if not layout.transformer and kind in WHERE:
        modules = f"the modules of this model go by their paths ({', '.join(layout.names[:4])}, ...)"
        return f"{modules}, so it is not known which of them is what. {layout.advice}".rstrip()
    where = f"{WHERE[kind]}; " if kind in WHERE else ""
    if kind == "head" and chosen is not None:
        heads = next((heads for heads in layout.heads if any(_projects(heads, name) for name in chosen)), None)
        if heads is not None:
            return _query_heads(layout, heads, chosen)
    return f"{where}this model's modules are {', '.join(layout.names[:12])}"


def _projects(heads: Heads, name: str) -> bool:
    return name in {f"{heads.attention}.{part}" for part in ("qkv", "q", "k", "v")}


def _query_heads(layout: Layout, heads: Heads, chosen: Sequence[str]) -> str:
    """What heads are, for somebody who asks for those of a query, key or value projection."""
    count, shared = layout.key_values(heads), heads.attention
    rows = next((name for name in chosen if _projects(heads, name) and not name.endswith("qkv")), f"{shared}.k")
    of = f"{heads.queries} query heads" if rows.endswith(".q") else f"{count} key/value heads"
    return (
        f"a head is one of the {heads.queries} query heads, cut where {heads.module} reads them: "
        f'registry("head", modules=["{heads.module}"]). {shared}.k and {shared}.v have {count} key/value heads of '
        f"{heads.size} rows, each for {heads.queries // count} query heads. For one component for each of the {of} of "
        f'{rows}: registry("row_block", modules=["{rows}"], size={heads.size})'
    )


def rank_one_site(module: Module, factors: RankOne) -> Site:
    """The site of a module's rank-one parts.

    Raises:
        InputError: if the factors do not have the module's shape, or the module is a convolution.
    """
    if module.operation == "convolution":
        raise InputError(f"rank-one parts need a linear module, and '{module.name}' is a convolution")
    expected = (module.columns, module.rows)
    if (factors.V.shape[0], factors.U.shape[1]) != expected:
        raise InputError(
            f"factors of L{module.layer}.{module.name} need V [{expected[0]}, C] and U [C, {expected[1]}]; "
            f"got V {list(factors.V.shape)} and U {list(factors.U.shape)}"
        )
    cut = Cut(module.parts or (module.name,), "whole")
    return Site("rank_one", module.layer, module.name, *rank_one_taps(module), factors, cut)


def rank_one_taps(module: Module) -> tuple[Tap, Tap]:
    """Where rank-one parts of a module are read, and where they are written."""
    before = after_identity(module.name) if module.operation == "identity" else None
    if before is not None:
        return Tap(module.layer, before, "in"), Tap(module.layer, before, "in")
    return Tap(module.layer, module.part_of or module.name, "in"), Tap(module.layer, module.name, "out")
