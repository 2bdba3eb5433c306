"""Sources: what decides, between its importance and 1, how much of a component is kept.

With importance ci and source s, both from 0 to 1, the gate of a component is ``ci + (1 - ci) * s``: a component of
importance 1 is always kept, one of importance 0 may have any gate. Sources are random (stochastic masks) or chosen to
do harm (adversarial masks). The remainder of a module counts as a component of importance 0: its gate is its source
(arXiv 2506.20790, section 2.2; goodfire-ai/spd).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.errors import InputError
from ablationlens.spd.decomposition import Where, name_of, rows_of
from ablationlens.spd.forward import Gates

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


def gates_of(
    importances: Mapping[Where, Float[Tensor, "*rows C"]], sources: Mapping[Where, Tensor], *, remainder: bool = True
) -> dict[Where, Gates]:
    """The gates that sources make of importances; without `remainder` the remainders are left out, at gate 0."""
    gates: dict[Where, Gates] = {}
    for where, lower in importances.items():
        source = sources[where]
        rest = source[..., -1:] if remainder else torch.zeros_like(source[..., -1:])
        gates[where] = Gates(lower + (1 - lower) * source[..., :-1], rest)
    return gates


def check_shares(what: str, held: Mapping[Where, Tensor], widths: Mapping[Where, int], examples: int) -> None:
    """Refuse importances or sources that are not those of these modules, or are no shares from 0 to 1.

    Args:
        what: they are, for the message.
        held: of each module [example, *position, width], or [1, ..., 1, width].
        widths: of the modules.
        examples: how many there are.

    Raises:
        InputError: naming the module, what was expected and what came.
    """
    if not isinstance(held, Mapping) or held.keys() != widths.keys():
        came = ", ".join(map(str, held)) if isinstance(held, Mapping) else type(held).__name__
        raise InputError(f"{what} are of {', '.join(map(str, widths))}, by (layer, module); got {came}")
    for where, width in widths.items():
        one = held[where]
        if not isinstance(one, Tensor) or one.ndim < 2 or one.shape[-1] != width or len(one) not in (1, examples):
            came = list(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise InputError(
                f"{what} of {name_of(where)} are a tensor [{examples} examples, *positions, {width}] or [1, ..., 1, "
                f"{width}]; got {came}"
            )
        if not bool(((one >= 0) & (one <= 1)).all()):
            raise InputError(
                f"{what} of {name_of(where)} are numbers from 0 to 1; got {float(one.min()):.4g} to "
                f"{float(one.max()):.4g}"
            )


def check_rows(what: str, held: Mapping[Where, Tensor], inputs: Mapping[Where, Tensor]) -> None:
    """Refuse numbers that would be spread over examples or positions which they are not of.

    Args:
        what: they are, for the message.
        held: of each module.
        inputs: of each module: [*rows, in], or tokens, [*rows].

    Raises:
        InputError: naming the module, what was expected and what came.
    """
    for where, one in held.items():
        rows = rows_of(inputs[where])
        if one.shape[:-1] not in (rows, torch.Size([1] * len(rows))):
            single = ", ".join("1" for _ in rows)
            raise InputError(
                f"{what} of {name_of(where)} have rows {list(rows)}, as its input has, or [{single}] for all; got "
                f"{list(one.shape[:-1])}"
            )


def check_sampling(sampling: str) -> None:
    """Refuse an unknown way to draw sources.

    Raises:
        InputError: naming the ways.
    """
    if sampling not in SAMPLINGS:
        raise InputError(f"sampling is 'continuous' or 'binomial'; got {sampling!r}")
