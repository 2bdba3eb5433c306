"""A decomposition without training: the singular parts of each weight."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from ablationlens.adapters.base import Adapter, check_adapter, layer_numbers, singular_parts
from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Decomposition, Part, Where, name_of


def svd(
    adapter: Adapter,
    modules: Sequence[str] | str | None,
    rank: SupportsIndex,
    *,
    layers: Iterable[int] | int | None = None,
) -> Decomposition:
    """The largest singular parts of weight matrices as components; what they leave is each module's remainder.

    A baseline for trained decompositions: no other components of the same number leave a smaller remainder, and
    nothing says that they mean something one by one. All importances are 1. No forward passes.

    Args:
        adapter: the model.
        modules: logical modules, such as ``["q", "mlp.in"]``, fused ones and identities included, ``["qkv"]`` and
            ``["q.pre_identity"]``, and the token embedding, ``["embed"]``; None: every linear module that is not fused.
        rank: components of each module, from the largest singular value down.
        layers: layers to take; all by default.

    Returns:
        V [in, rank] and U [rank, out] of each module, in the weight's own dtype; the singular value is shared equally
        between them.

    Raises:
        UnknownNameError: for a layer or module that the model does not have.
        InputError: if a module has no matrix, or fewer singular parts, or is a part of another one.
    """
    check_adapter(adapter)
    chosen = None if layers is None else layer_numbers(layers)
    count = int(rank) if is_integer(rank) else 0
    parts: dict[Where, Part] = {}
    for module in adapter.layout.decomposable(chosen, modules):
        where, most = (module.layer, module.name), min(module.rows, module.columns)
        if not 1 <= count <= most:
            raise InputError(
                f"rank is a whole number from 1 to {most}, the parts that {name_of(where)} "
                f"({module.rows} x {module.columns}) has; got {rank!r}"
            )
        factors = singular_parts(adapter.weight(*where), count)
        parts[where] = Part(factors.V, factors.U)
    provenance = {"from": "svd", "rank": count, "model": adapter.describe()}
    return Decomposition(parts, provenance=provenance).requires_grad_(False).made_of(adapter)
