"""Finding: from a model's modules to its layout and the addresses of its taps, before anything has run."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

from ablationlens.adapters import orientation
from ablationlens.adapters.addresses import Address, AddressBook, attention_rows, equal_rows
from ablationlens.adapters.architectures import FUSED, Architecture, layer_lists, module_at
from ablationlens.adapters.configuration import config_of, head_size
from ablationlens.errors import AdapterError
from ablationlens.layout import EMBEDDING, Heads, Layout, split_stack
from ablationlens.sites import Tap
from ablationlens.types import Features


@runtime_checkable
class HasEmbedding(Protocol):
    """A model of transformers."""

    def get_input_embeddings(self) -> object: ...


class Found(NamedTuple):
    """What there is to cut in a model.

    Attributes:
        addresses: of all taps.
        stored: the module that keeps each weight, and which of its rows are the weight's.
        layout: of all modules, those that never run included.
    """

    addresses: dict[Tap, Address]
    stored: dict[tuple[int, str], tuple[nn.Module, Features]]
    layout: Layout


def find_by_architecture(model: nn.Module, architecture: Architecture) -> Found:
    """Modules under their logical names.

    Raises:
        AdapterError: if the model does not have a module of the architecture, or its heads do not fit.
    """
    book = AddressBook()
    heads: list[Heads] = []
    size = architecture.head_size or head_size(config_of(model))
    for stack, path, layers in layer_lists(model, architecture):
        modules = architecture.of_stack(stack)
        for layer, block in enumerate(layers):
            found = {
                name: (module_at(block, relative, address), address)
                for name, relative in modules.items()
                for address in (f"{path}.{layer}.{relative}",)
            }
            of_layer = [_heads(layer, name, *own, size) for name, own in found.items() if name.endswith(".o")]
            heads += of_layer
            queries = {own.attention: own.queries for own in of_layer}
            for name, (module, address) in found.items():
                parts = _parts(name, module, queries, size, interleaved=architecture.interleaved)
                book.add(layer, name, module, address, parts)
    _find_embedding(book, model, architecture)
    return Found(
        book.addresses, book.stored, Layout(tuple(book.modules), tuple(heads), embeddings=tuple(book.embeddings))
    )


def _find_embedding(book: AddressBook, model: nn.Module, architecture: Architecture) -> None:
    """Note the token embedding of a model of one stack, which transformers says by a method of its models."""
    embedding = None
    if isinstance(model, HasEmbedding) and "" in architecture.stacks:
        with suppress(NotImplementedError):
            embedding = model.get_input_embeddings()
    path = next((path for path, module in model.named_modules() if module is embedding), None)
    if path is not None and isinstance(embedding, nn.Embedding) and orientation.is_lookup(embedding):
        book.add_embedding(EMBEDDING, embedding, (path, embedding, "in"), (path, embedding))


def _heads(layer: int, name: str, module: nn.Module, address: str, size: int | None) -> Heads:
    how = orientation.orientation(module)
    if how is None:
        raise AdapterError(f"{address} is a {type(module).__name__}, which has no matrix that can be cut")
    if size is None:
        raise AdapterError(
            f"{address} reads {how.columns} features, and nothing says how many of them are one head: "
            "al.Architecture(..., head_size=...)"
        )
    if how.columns % size:
        raise AdapterError(f"{address} reads {how.columns} features, which are no heads of {size} features each")
    return Heads(layer, how.columns // size, size, name)


def _parts(
    name: str, module: nn.Module, queries: dict[str, int], size: int | None, *, interleaved: bool
) -> dict[str, Features] | None:
    """The projections in a fused matrix, each with its rows; None for any other."""
    stack, local = split_stack(name)
    how = orientation.orientation(module)
    if local not in FUSED or how is None:
        return None
    parts = tuple(f"{stack}.{part}" if stack else part for part in FUSED[local])
    attention = name.rpartition(".")[0]
    if local != "attn.qkv":
        return equal_rows(how.rows, parts)
    if attention not in queries or size is None:
        raise AdapterError(f"{name} holds q, k and v by head, so the architecture has to name {attention}.o too")
    q, k, v = parts
    return attention_rows(how.rows, (q, k, v), queries[attention], size, interleaved=interleaved)


def find_by_path(model: nn.Module, advice: str = "") -> Found:
    """Every module that has a matrix, under its path; its layer is its rank."""
    book = AddressBook()
    for path, module in model.named_modules():
        if orientation.orientation(module) is not None:
            book.add(len(book.modules), path or type(module).__name__, module, path or "(root)")
        elif path and isinstance(module, nn.Embedding) and orientation.is_lookup(module):
            book.add_embedding(path, module, (path, module, "in"), (path, module))
    layout = Layout(tuple(book.modules), transformer=False, advice=advice, embeddings=tuple(book.embeddings))
    return Found(book.addresses, book.stored, layout)
