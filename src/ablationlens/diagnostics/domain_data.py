"""What studies of several data sets share: data that is checked before anything is run, and the draws of a fit."""

from __future__ import annotations

from collections.abc import Mapping

from ablationlens.attribution import coar
from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.evaluate.studies.fitting import Method
from ablationlens.masked_model import MaskedModel, check_call

EXAMPLE = "{'python': python_batch, 'prose': prose_batch}"
PER_COMPONENT = 4
"""Draws of a regression for each component, where none are given."""
DRAWS = 500
"""Draws of any other method, where none are given."""


def check_data(model: MaskedModel, data: Mapping[str, Batch], *, fewest: int, examples: int) -> None:
    """Refuse what is no mapping of names to examples.

    Args:
        model: the masked model.
        data: what was given.
        fewest: data sets that there must be.
        examples: that each of them must have.

    Raises:
        InputError: naming the data set.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"data are batches by name, data={EXAMPLE}; got {type(data).__name__}")
    if len(data) < fewest:
        raise InputError(
            f"data are batches by name, at least {fewest}, data={EXAMPLE}; got "
            + (", ".join(map(repr, data)) if data else "none")
        )
    for name, batch in data.items():
        if not isinstance(name, str):
            raise InputError(f"the name of a domain is a word, data={EXAMPLE}; got {name!r}")
        if not isinstance(batch, Batch):
            raise InputError(f"data[{name!r}] is a Batch, al.batch(texts, tokenizer=...); got {type(batch).__name__}")
        if len(batch) < examples:
            raise InputError(
                f"data[{name!r}] has {_counted(len(batch))}; this study needs at least {examples} of each domain"
                + ("" if len(batch) else f": leave {name!r} out, or give it texts")
            )
        check_call(model, batch)


def draws_for(method: Method, components: int, draws: int | None) -> int:
    """How many draws a fit has: those given, else 4 per component for `al.coar` and 500 for any other method."""
    if draws is not None:
        return draws
    return PER_COMPONENT * components if getattr(method, "func", method) is coar else DRAWS


def _counted(examples: int) -> str:
    return "1 example" if examples == 1 else f"{examples} examples" if examples else "no examples"
