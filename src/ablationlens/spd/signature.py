"""Of which weights components were made: a few numbers of each matrix, kept with a decomposition.

Shapes do not tell two models of one architecture apart, and on the wrong one nothing fails: the remainders make up the
difference, and every figure is of components that mean nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ablationlens.adapters.base import Adapter
from ablationlens.progress import log
from ablationlens.randomness import normal

PROBES = 4
ROWS = 4096
"""Rows of a matrix that are made float32 at a time."""
TOLERANCE = 0.02
"""Relative distance from which weights are other ones; making them bfloat16 moves them by about 0.002."""

Signatures = dict[str, list[float]]
"""Name of a module -> the signature of its weight: JSON-able."""

_compared: WeakKeyDictionary[Adapter, WeakSet[nn.Module]] = WeakKeyDictionary()
"""What was held against a model already: said once is enough."""


def signature(weight: Float[Tensor, "out in"]) -> list[float]:
    """Bilinear forms r^T W s of a matrix, r and s normal and the same for every matrix of the shape.

    The distance of two signatures estimates the Frobenius distance of the matrices.
    """
    out, into = weight.shape
    left = torch.from_numpy(normal(0, "spd:signature:left", 0, (PROBES, out)))
    right = torch.from_numpy(normal(0, "spd:signature:right", 0, (into, PROBES))).to(weight.device)
    with torch.no_grad():
        read = torch.cat([rows.float() @ right for rows in weight.detach().split(ROWS)]).double().cpu()
    found: list[float] = (left.double() * read.T).sum(-1).tolist()
    return found


def distance(weight: Float[Tensor, "out in"], kept: list[float]) -> float:
    """How far a matrix is from the one whose signature was kept, over its own Frobenius norm: 0 if it is the same."""
    own = signature(weight)
    norm = math.sqrt(len(kept)) * float(weight.detach().float().norm())
    return math.dist(own, kept) / max(norm, 1e-30)


def warn_of_other_weights(
    decomposition: nn.Module, adapter: Adapter, weights: Mapping[str, Tensor], kept: Signatures
) -> None:
    """Say so, once for each model, where components are used on weights that they were not made of.

    Args:
        decomposition: which is used.
        adapter: the model.
        weights: its own, [out, in], by name of the module.
        kept: signatures of those that the components were made of; modules that it lacks are not compared.
    """
    before = _compared.setdefault(adapter, WeakSet())
    if decomposition in before:
        return
    before.add(decomposition)
    found = {name: distance(weight, kept[name]) for name, weight in weights.items() if name in kept}
    others = {name: far for name, far in found.items() if not far <= TOLERANCE}
    if others:
        worst = max(others, key=lambda name: others[name])
        log.warning(
            "%d of %d modules do not have the weights that this decomposition was made of (%s is off by about %.0f%%): "
            "it is of another model, or the weights were edited or folded since; its remainders make up the "
            "difference, and its components may mean nothing here",
            len(others),
            len(found),
            worst,
            100 * others[worst],
        )
