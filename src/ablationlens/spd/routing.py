"""Routing: in which modules, and at which positions, a reconstruction runs on gated components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Where, name_of
from ablationlens.spd.forward import Gates

Routing: TypeAlias = Literal["all", "layerwise", "subset"]
ROUTINGS: tuple[Routing, ...] = ("all", "layerwise", "subset")


def check_routing(routing: str) -> None:
    """Refuse an unknown routing.

    Raises:
        InputError: naming those that there are.
    """
    if routing not in ROUTINGS:
        raise InputError(f"routing is one of {', '.join(ROUTINGS)}; got {routing!r}")


def routed(gates: Mapping[Where, Gates], routing: Routing, generator: torch.Generator) -> Iterator[dict[Where, Gates]]:
    """The gates of each forward pass that a routing makes.

    - "all": one pass with all modules gated.
    - "layerwise": a pass for each module, gated alone.
    - "subset": one pass; at each position a random number of modules, chosen at random, is gated, and the others are
      as they are.

    Args:
        gates: of every module.
        routing: which.
        generator: of the subsets.

    Raises:
        InputError: for subsets at each position of modules that have not the same positions.
    """
    match routing:
        case "all":
            yield dict(gates)
        case "layerwise":
            for where, own in gates.items():
                yield {where: own}
        case "subset":
            shapes = {where: own.parts.shape[:-1] for where, own in gates.items()}
            rows = next(iter(shapes.values()))
            odd = [where for where, shape in shapes.items() if shape != rows]
            if odd:
                raise InputError(
                    f"{name_of(next(iter(shapes)))} runs on {list(rows)} rows and {name_of(odd[0])} on "
                    f"{list(shapes[odd[0]])}, so that no subset can be drawn for each: use routing='layerwise'"
                )
            chosen = random_subsets(len(gates), rows, generator)
            yield {where: _where(chosen[number], own) for number, (where, own) in enumerate(gates.items())}


def random_subsets(modules: int, rows: torch.Size, generator: torch.Generator) -> Bool[Tensor, " module *rows"]:
    """For each row a uniform number from 1 to all of the modules, and as many chosen at random: [module, *rows]."""
    device = generator.device
    count = torch.randint(1, modules + 1, rows, generator=generator, device=device)
    order = torch.rand((modules, *rows), generator=generator, device=device).argsort(dim=0).argsort(dim=0)
    return order < count


def _where(chosen: Bool[Tensor, "*rows"], gates: Gates) -> Gates:
    kept = ~chosen[..., None].to(gates.parts.device)
    return Gates(gates.parts.masked_fill(kept, 1.0), gates.remainder.masked_fill(kept, 1.0))
