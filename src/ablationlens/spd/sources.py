"""Sources: what decides, between its importance and 1, how much of a component is kept.

With importance ci and source s, both from 0 to 1, the gate of a component is ``ci + (1 - ci) * s``: a component of
importance 1 is always kept, one of importance 0 may have any gate. Sources are random (stochastic masks) or chosen to
do harm (adversarial masks). The remainder of a module counts as a component of importance 0: its gate is its source
(arXiv 2506.20790, section 2.2; goodfire-ai/spd).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data.checks import is_integer
from ablationlens.errors import InputError
from ablationlens.randomness import raw
from ablationlens.spd.decomposition import Where, name_of
from ablationlens.spd.forward import Gates
from ablationlens.spd.given import check_sources

Sampling: TypeAlias = Literal["continuous", "binomial"]
SAMPLINGS: tuple[Sampling, ...] = ("continuous", "binomial")
Sources: TypeAlias = dict[Where, Float[Tensor, "*#rows C_and_1"]]
"""For each module the sources of its components, and of its remainder in the last column."""


def random_sources(
    importances: Mapping[Where, Float[Tensor, "*rows C"]], sampling: Sampling, generator: torch.Generator
) -> Sources:
    """Uniform numbers from 0 to 1, or 0 and 1 with equal chance; the remainder's are uniform in both."""
    found: Sources = {}
    for where, lower in importances.items():
        shape = (*lower.shape[:-1], lower.shape[-1] + 1)
        one = torch.rand(shape, generator=generator, device=generator.device).to(lower)
        if sampling == "binomial":
            one = torch.cat([(one[..., :-1] >= 0.5).to(one), one[..., -1:]], dim=-1)
        found[where] = one
    return found


def addressed_sources(
    importances: Mapping[Where, Float[Tensor, "example *position C"]],
    sampling: Sampling,
    seed: int,
    sample: int,
    examples: Sequence[int] | None = None,
) -> Sources:
    """Random sources that depend on (seed, sample, example, module) alone.

    Args:
        importances: whose sources they are.
        sampling: "continuous" or "binomial".
        seed: of the sources.
        sample: its number.
        examples: which the importances are of; all by default.
    """
    found: Sources = {}
    for where, lower in importances.items():
        own = range(lower.shape[0]) if examples is None else examples
        one = uniform_sources((*lower.shape[:-1], lower.shape[-1] + 1), seed, where, sample, own)
        if sampling == "binomial":
            one[..., :-1] = (one[..., :-1] >= 0.5).float()
        found[where] = one
    return found


def uniform_sources(shape: tuple[int, ...], seed: int, where: Where, sample: int, examples: Sequence[int]) -> Tensor:
    """Uniform numbers in [0, 1), [example, ...], each example's at an address of its own."""
    count = int(np.prod(shape[1:]))
    rows = [raw(seed, f"spd:{name_of(where)}", (sample << 32) + example, count) for example in examples]
    return torch.from_numpy((np.stack(rows) >> 8).astype(np.float32) / 2**24).reshape(shape)


def gates_of(
    importances: Mapping[Where, Float[Tensor, "*rows C"]], sources: Mapping[Where, Tensor], *, remainder: bool = True
) -> dict[Where, Gates]:
    """The gates that sources make of importances; without `remainder` the remainders are left out, at gate 0.

    Raises:
        InputError: for sources of another shape than that of every row, or [1, ..., C + 1].
    """
    gates: dict[Where, Gates] = {}
    for where, lower in importances.items():
        source = sources[where]
        check_sources(source, lower, where)
        rest = source[..., -1:] if remainder else torch.zeros_like(source[..., -1:])
        gates[where] = Gates(lower + (1 - lower) * source[..., :-1], rest)
    return gates


def multiplied(gates: Mapping[Where, Gates], kept: Mapping[Where, Gates]) -> dict[Where, Gates]:
    """Gates of which some are ablated: `kept` is 0 where they are."""
    return {
        where: Gates(own.parts * kept[where].parts, own.remainder * kept[where].remainder)
        for where, own in gates.items()
    }


def check_sampling(sampling: str) -> None:
    """Refuse an unknown way to draw sources.

    Raises:
        InputError: naming the ways.
    """
    if sampling not in SAMPLINGS:
        raise InputError(f"sampling is 'continuous' or 'binomial'; got {sampling!r}")


def checked_seed(seed: Any) -> int:
    """A seed as Python's own integer, which JSON knows.

    Raises:
        InputError: if it is none.
    """
    if not is_integer(seed) or not 0 <= seed < 2**63:
        raise InputError(f"seed is a whole number from 0 to 2**63 - 1; got {seed!r}")
    return int(seed)
