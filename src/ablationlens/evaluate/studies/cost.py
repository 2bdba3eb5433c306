"""What a study costs, said before it starts; and its settings, checked before anything is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.progress import announce


def state_cost(model: MaskedModel, study: str, parts: Mapping[str, int | None]) -> dict[str, Any]:
    """Log what a study will cost, in forward rows (a gradient counts 3), and return it for its provenance.

    Args:
        model: what is studied; with a base each row under a mask costs several (`MaskedModel.passes`).
        study: its name.
        parts: what it consists of -> rows under masks; None where they are not known.
    """
    parts = {part: None if rows is None else rows * model.passes for part, rows in parts.items()}
    known = [rows for rows in parts.values() if rows is not None]
    total = sum(known) if len(known) == len(parts) else None
    texts = [f"{part} ({'cost unknown' if rows is None else f'{rows:,}'})" for part, rows in parts.items()]
    whole = f"{sum(known):,} forward rows" if total is not None else f"at least {sum(known):,} forward rows"
    announce(f"study of the {study}: {' + '.join(texts)} = {whole}, a gradient counted as 3")
    return {"parts": dict(parts), "forward_rows": total}


def usable(alphas: Sequence[float], components: int) -> tuple[float, ...]:
    """Those of some fractions at which at least one component is ablated and one kept; a half if there are none."""
    return tuple(alpha for alpha in alphas if 1 <= int(alpha * components + 0.5) < components) or (0.5,)


def check_draws(draws: int, fewest: int = 3) -> None:
    """Refuse fewer masks than there must be.

    Raises:
        InputError: if so.
    """
    if draws < fewest:
        raise InputError(
            f"draws is the number of masks for each alpha, at least {fewest}, better hundreds; got {draws}"
        )


def check_masks(alphas: Sequence[float], components: int, draws: int, seed: int, fewest: int = 3) -> None:
    """Refuse held-out masks that cannot be drawn, before attributions are fitted that would then be lost.

    Raises:
        InputError: if there are fewer than `fewest` of them, or an alpha ablates nothing or everything.
    """
    check_draws(draws, fewest)
    for alpha in alphas:
        random_design("bernoulli", components, alpha, draws, seed)


def distinct(name: str, values: Sequence[float] | Sequence[int], example: str) -> tuple[float, ...]:
    """The numbers as given.

    Args:
        name: of the argument.
        values: what was given for it.
        example: what to type instead.

    Raises:
        InputError: if there are none, or some are equal.
    """
    found = tuple(float(value) for value in np.atleast_1d(np.asarray(values, dtype=np.float64)))
    if not found or len(set(found)) < len(found):
        raise InputError(f"{name} are different numbers, at least one, such as {name}={example}; got {values!r}")
    return found


def check_named(name: str, values: Mapping[str, Any], example: str) -> None:
    """Refuse what is no mapping of names to at least one thing.

    Raises:
        InputError: if so.
    """
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{name} go by name, {name}={example}; got {values!r}")
