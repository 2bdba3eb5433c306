"""The probe: for a model outside the table, which module looks like what, from names and shapes.

It proposes; nothing is used unless the user gives it back: ``al.adapt(model, architecture=...)``. What names and
shapes do not decide is left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ablationlens.adapters import orientation
from ablationlens.adapters.architectures import Architecture
from ablationlens.adapters.configuration import config_of, head_size
from ablationlens.errors import AdapterError

ATTENTION = {"attn", "attention", "att", "mha", "selfattn", "selfattention", "crossattention", "crossattn"}
CROSS = {"cross", "crossattention", "crossattn", "enc", "encdec", "encoder", "memory", "src"}
PROJECTIONS = {
    "q": {"q", "query", "queries", "wq", "qw"},
    "k": {"k", "key", "keys", "wk", "kw"},
    "v": {"v", "value", "values", "wv", "vw"},
}
JOINED = {"qkv", "wqkv", "kqv"}
GATES = {"gate", "gating", "w1", "wi_0"}
OTHERS = {"up", "w3", "wi_1", "linear"}
"""Words in the names of modules, each a role that they stand for; `GATES` goes through the activation function."""

HEAD_COUNTS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "heads", "h")
HEAD_SIZES = ("head_dim", "d_head", "head_size", "dim_head", "d_kv", "attention_head_size")
"""Attributes of an attention module that say how many heads it has, or how large they are."""


@dataclass(frozen=True)
class Matrix:
    """One matrix of a layer: its path there, the words in it, and its shape."""

    path: str
    rows: int
    columns: int

    @property
    def words(self) -> list[str]:
        """Lower-case words of the path: ``layer.0.SelfAttention.q`` is layer, 0, self, attention, q."""
        return re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.path).lower())

    @property
    def leaf(self) -> set[str]:
        """Words of the module's own name, and the name as a whole."""
        own = Matrix(self.path.rpartition(".")[2], 0, 0)
        return {*own.words, own.path.lower()}

    @property
    def parent(self) -> str:
        return self.path.rpartition(".")[0]


@dataclass
class Roles:
    """What was found in the layers at one path.

    Attributes:
        path: of the list of layers.
        modules: logical name -> path within a layer.
        interleaved: see `Architecture`.
        head_size: what an attribute of the model says; None if none does.
        parameters: of all its layers.
        doubts: what the user has to look at, in sentences.
    """

    path: str
    modules: dict[str, str] = field(default_factory=dict)
    interleaved: bool = False
    head_size: int | None = None
    parameters: int = 0
    doubts: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether there is an attention in it."""
        return "attn.o" in self.modules and ("attn.qkv" in self.modules or "attn.q" in self.modules)


def propose(model: nn.Module) -> Architecture:
    """What the names and shapes of a model's modules suggest, to be checked by whoever knows the model.

    Raises:
        AdapterError: if no list of layers in it has an attention.
    """
    found = _probe(model)
    if found is None:
        raise AdapterError(f"no list of layers of {type(model).__name__} has modules that look like an attention")
    return found[0]


def advice(model: nn.Module) -> str:
    """What to type for a model outside the table: the proposal, with what is doubtful in it."""
    found = _probe(model)
    if found is None:
        return (
            "If it is a transformer, say where its modules are: al.adapt(model, architecture=al.Architecture("
            'layers="path.of.the.layers", modules={"attn.q": "path.in.a.layer", ...}))'
        )
    architecture, doubts = found
    text = repr(architecture).replace("\n", "\n    ")
    look = "".join(f"\n- {doubt}" for doubt in doubts)
    return (
        f"{type(model).__name__} is outside the table of families. Its modules look as follows; check it, and type\n\n"
        f"    adapter = al.adapt(model, architecture={text})\n"
        + (f"\nLook at this in particular:{look}" if doubts else "")
    )


def _probe(model: nn.Module) -> tuple[Architecture, list[str]] | None:
    found = [roles for roles in _candidates(model) if roles.complete]
    if not found:
        return None
    stacks = _stacks(found)
    doubts = [doubt for roles in stacks.values() for doubt in roles.doubts]
    left = [roles.path for roles in found if roles not in stacks.values()]
    if left:
        doubts.append(f"layers with an attention are also at {', '.join(left)}, and left out")
    says = head_size(config_of(model))
    sizes = {roles.head_size for roles in stacks.values()}
    size = sizes.pop() if says is None and len(sizes) == 1 else None
    if says is None and size is None:
        doubts.append("add head_size=..., the features of one head: no attribute of the model says it")
    prefix = {stack: f"{stack}." if stack else "" for stack in stacks}
    modules = {
        f"{prefix[stack]}{name}": path for stack, roles in stacks.items() for name, path in roles.modules.items()
    }
    paths = {stack: roles.path for stack, roles in stacks.items()}
    architecture = Architecture(
        layers=paths.get("", paths),
        modules=modules,
        interleaved=any(roles.interleaved for roles in stacks.values()),
        head_size=size,
    )
    return architecture, doubts


def _stacks(found: list[Roles]) -> dict[str, Roles]:
    """An encoder and a decoder that attends to it, or else one stack: the language model's, or the largest."""
    named = {side: roles for roles in found for side in ("encoder", "decoder") if side in roles.path.split(".")}
    if len(named) == 2 and "cross.o" in named["decoder"].modules:
        return named

    def rank(roles: Roles) -> tuple[bool, int]:
        words = set(Matrix(roles.path, 0, 0).words)
        return bool(words & {"language", "text", "decoder"}), roles.parameters

    return {"": max(found, key=rank)}


# -- one list of layers -----------------------------------------------------------------------------------------------


def _candidates(model: nn.Module) -> Iterator[Roles]:
    """Every list of layers that are alike, outermost first; lists within the layers of such a list do not count."""
    taken: list[str] = []
    for path, layers in model.named_modules():
        if not isinstance(layers, nn.ModuleList | nn.Sequential) or any(path.startswith(f"{own}.") for own in taken):
            continue
        matrices = _common(list(layers))
        if not matrices:
            continue
        roles = Roles(path, parameters=sum(p.numel() for p in layers.parameters()))
        _attention(roles, matrices, layers[0])
        _mlp(roles, matrices)
        if roles.complete:
            taken.append(path)
        yield roles


def _common(layers: list[nn.Module]) -> list[Matrix]:
    """Matrices that all layers have, by path and shape; none if the layers are of several classes."""
    if len({type(layer) for layer in layers}) != 1:
        return []
    of_each = [{matrix.path: matrix for matrix in _matrices(layer)} for layer in layers]
    return [matrix for path, matrix in of_each[0].items() if all(own.get(path) == matrix for own in of_each)]


def _matrices(layer: nn.Module) -> Iterator[Matrix]:
    for path, module in layer.named_modules():
        how = orientation.orientation(module)
        if how is not None and how.operation == "linear" and path:
            yield Matrix(path, how.rows, how.columns)


def _attention(roles: Roles, matrices: list[Matrix], layer: nn.Module) -> None:
    """Find q, k, v and o, of the attention within the layer and of that to an encoder."""
    projecting = [matrix for matrix in matrices if _projection(matrix) is not None]
    holders = {matrix.parent for matrix in projecting if matrix.parent}
    of_attention = [m for m in matrices if set(m.words) & ATTENTION or m in projecting or m.parent in holders]
    for kind in ("attn", "cross"):
        own = [matrix for matrix in of_attention if bool(set(matrix.words) & CROSS) == (kind == "cross")]
        found = dict(_projections(roles, own))
        entering = list(found.values())
        rest = [m for m in own if m not in entering and _projection(m) is None and _takes_heads(m, found)]
        if not found or len(rest) != 1:
            if len(rest) > 1:
                roles.doubts.append(f"{kind}.o could be {' or '.join(m.path for m in rest)}")
            continue
        roles.modules |= {f"{kind}.{part}": matrix.path for part, matrix in found.items()}
        roles.modules[f"{kind}.o"] = rest[0].path
        roles.head_size = roles.head_size or _size_of_heads(layer, rest[0])


def _projection(matrix: Matrix) -> str | None:
    """ "q", "k", "v" or "qkv" by the module's own name; None for any other name."""
    if matrix.leaf & JOINED or all(matrix.leaf & names for names in PROJECTIONS.values()):
        return "qkv"
    parts = [part for part, names in PROJECTIONS.items() if matrix.leaf & names]
    return parts[0] if len(parts) == 1 else None


def _projections(roles: Roles, own: list[Matrix]) -> Iterable[tuple[str, Matrix]]:
    by_name = {part: [m for m in own if _projection(m) == part] for part in ("q", "k", "v")}
    if all(len(found) == 1 for found in by_name.values()):
        return [(part, found[0]) for part, found in by_name.items()]
    joined = [m for m in own if _projection(m) == "qkv"]
    if not joined and len(own) == 2:
        joined = [m for m in own if m.rows > m.columns]  # only q, k and v together are wider than what they read
    if len(joined) != 1 or any(by_name.values()):
        return []
    roles.interleaved = {"query", "key", "value"} <= joined[0].leaf  # as in GPT-NeoX, BLOOM and Falcon
    how = "by head: q, k, v of one, then of the next" if roles.interleaved else "as all of q, then all of k, all of v"
    roles.doubts.append(
        f"the rows of {joined[0].path} are taken {how}, by its name; interleaved={not roles.interleaved} is the other"
    )
    return [("qkv", joined[0])]


def _takes_heads(matrix: Matrix, found: dict[str, Matrix]) -> bool:
    """Whether a matrix could read the heads that these projections make."""
    if "q" in found:
        return matrix.columns == found["q"].rows and matrix.rows == found["q"].columns
    return "qkv" in found and matrix.rows == found["qkv"].columns and matrix.columns < found["qkv"].rows


def _mlp(roles: Roles, matrices: list[Matrix]) -> None:
    """Find the matrices that enter and leave the MLP, by their shapes, and which one is gated, by their names."""
    taken = set(roles.modules.values())
    out = next((m for m in matrices if m.path == roles.modules.get("attn.o")), None)
    if out is None:
        return
    width = out.rows
    rest = [m for m in matrices if m.path not in taken and not set(m.words) & ATTENTION]
    leaving = [m for m in rest if m.rows == width != m.columns]
    entering = [m for m in rest if m.columns == width != m.rows]
    if len(leaving) != 1 or not entering:
        names = ", ".join(m.path for m in rest) or "none"
        roles.doubts.append(f"the matrices of the MLP are not clear from their shapes: {names}")
        return
    hidden = leaving[0].columns
    same = [m for m in entering if m.rows == hidden]
    twice = [m for m in entering if m.rows == 2 * hidden]
    match same, twice:
        case [one], []:
            named = {"mlp.in": one}
        case [], [both]:
            named = {"mlp.gate_in": both}
            roles.doubts.append(f"the first half of the rows of {both.path} is taken as the gate's")
        case [first, second], [] if _gated(first, second) is not None:
            gate, other = _gated(first, second) or (first, second)
            named = {"mlp.gate": gate, "mlp.in": other}
        case _:
            names = " or ".join(m.path for m in entering)
            roles.doubts.append(f"which one goes through the activation function, and is mlp.gate: {names}?")
            named = {}
    roles.modules |= {name: matrix.path for name, matrix in named.items()}
    roles.modules["mlp.out"] = leaving[0].path


def _gated(first: Matrix, second: Matrix) -> tuple[Matrix, Matrix] | None:
    """(gate, other) by their names; None if these do not say."""
    for gate, other in ((first, second), (second, first)):
        named = (bool(gate.leaf & GATES), bool(other.leaf & OTHERS))
        if any(named) and not gate.leaf & OTHERS and not other.leaf & GATES:
            return gate, other
    return None


def _size_of_heads(layer: nn.Module, out: Matrix) -> int | None:
    """What an attribute of the attention, or of the layer, says of the size of its heads; None if none or several."""
    holders: list[Any] = [layer]
    for name in out.parent.split(".") if out.parent else []:
        holders.append(getattr(holders[-1], name, None))
    for holder in reversed(holders):
        counts = [getattr(holder, name, None) for name in HEAD_COUNTS]
        sizes = {out.columns // count for count in counts if type(count) is int and count and not out.columns % count}
        sizes |= {size for name in HEAD_SIZES if type(size := getattr(holder, name, None)) is int}
        if len(sizes) == 1:
            return sizes.pop()
    return None
