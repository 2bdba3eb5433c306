"""Whether attributions, a model and data belong together: asked before anything is run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.results import Attribution, AttributionByPosition, of_components

log = logging.getLogger("ablationlens")

SETTINGS = ("method", "alpha", "draws", "rho", "design", "solver", "budget", "tolerance", "steps", "ablation", "output")
"""What two seeds of one method have in common."""


def named(attributions: Mapping[str, Attribution] | Attribution, call: str) -> dict[str, Attribution]:
    """Attributions by name; one alone goes by its method.

    Args:
        attributions: one, or several by name.
        call: the line to type instead, for the message.

    Raises:
        InputError: if there are none, or they are something else.
    """
    for one in attributions.values() if isinstance(attributions, Mapping) else [attributions]:
        if isinstance(one, AttributionByPosition):
            of_components(one, "this call")  # says what to type instead
    if isinstance(attributions, Attribution):
        return {attributions.method: attributions}
    found = dict(attributions) if isinstance(attributions, Mapping) else {}
    if not found or not all(isinstance(one, Attribution) for one in found.values()):
        raise InputError(f"there is nothing to evaluate: give attributions by name, {call}")
    return found


def check_belong(model: MaskedModel, data: Batch, attributions: Mapping[str, Attribution]) -> None:
    """Refuse attributions of another registry, of other examples or of other data.

    Raises:
        InputError: naming the attribution.
    """
    check_call(model, data)
    for name, attribution in attributions.items():
        if attribution.registry != model.registry:
            raise InputError(
                f"attribution '{name}' is of another registry ({len(attribution.registry)} components, the model has "
                f"{len(model.registry)}); evaluate it with the MaskedModel that made it"
            )
        if attribution.weights.shape[0] != len(data):
            raise InputError(
                f"attribution '{name}' is of {attribution.weights.shape[0]} examples, the data has {len(data)}; "
                "evaluate it on the examples that it was made for"
            )
        made_for = fingerprint(attribution)
        if made_for is not None and made_for != data.fingerprint():
            raise InputError(
                f"attribution '{name}' is of other data: its weights belong to other inputs, labels or scored "
                "positions; evaluate it on the examples that it was made for"
            )
        for what in elsewhere(attribution.provenance, model):
            log.warning(
                "attribution '%s' was made with another %s than this model's, and is tested on this one's", name, what
            )


def elsewhere(provenance: Mapping[str, Any], model: MaskedModel) -> list[str]:
    """What a result was made with that this masked model has not: "output", "model"; nothing if it does not say.

    A model is another one if the same class in the same host has other weights. Another ablation is no mistake: to
    carry an attribution over to one is a question of its own.
    """
    here = model.describe()
    found = ["output"] if provenance.get("output", here["output"]) != here["output"] else []
    own: Any = provenance.get("model")
    if isinstance(own, Mapping):
        same = all(own.get(key) == here["model"].get(key) for key in ("host", "class"))
        if same and own.get("fingerprint") != here["model"].get("fingerprint"):
            found.append("model")
    return found


def check_alike(attributions: Mapping[str, Attribution]) -> None:
    """Refuse attributions that are not of the same components and the same examples.

    Raises:
        InputError: naming the first two that differ.
    """
    (first_name, first), *others = attributions.items()
    for name, other in others:
        pair = f"'{first_name}' and '{name}'"
        if other.registry != first.registry:
            raise InputError(
                f"{pair} are of different registries ({len(first.registry)} and {len(other.registry)} components): "
                "compare attributions of one registry, made with the same MaskedModel"
            )
        if other.weights.shape[0] != first.weights.shape[0]:
            raise InputError(
                f"{pair} are of {first.weights.shape[0]} and {other.weights.shape[0]} examples: compare attributions "
                "of the same examples, made with the same data"
            )
        if other.weights["example"].values.tolist() != first.weights["example"].values.tolist():
            raise InputError(f"{pair} are of examples with other names, or in another order: make both with one batch")
        prints = fingerprint(first), fingerprint(other)
        if None not in prints and prints[0] != prints[1]:
            raise InputError(
                f"{pair} are of different data: other inputs, labels or scored positions; make both with one batch"
            )


def check_seeds(first: Mapping[str, Attribution], second: Mapping[str, Attribution]) -> None:
    """Refuse second seeds without a first, of another method or other settings, and two attributions of one seed.

    Raises:
        InputError: naming the attribution.
    """
    for name, other in second.items():
        if name not in first:
            raise InputError(
                f"there is a second seed of '{name}', but no first: its names are those of the attributions, "
                f"{', '.join(map(repr, first))}"
            )
        if not isinstance(other, Attribution):
            raise InputError(f"the second seed of '{name}' is an attribution; got {type(other).__name__}")
        one, two = first[name].provenance, other.provenance
        # with a budget the draws are what early stopping made of them
        settings = [key for key in SETTINGS if key in one and key in two and not (key == "draws" and "budget" in one)]
        differ = [key for key in settings if one[key] != two[key]]
        if differ:
            raise InputError(
                f"the second seed of '{name}' differs in more than its seed: "
                + ", ".join(f"{key} {one[key]!r} and {two[key]!r}" for key in differ)
            )
        seed: Any = first[name].provenance.get("seed")
        if seed is not None and seed == other.provenance.get("seed"):
            raise InputError(
                f"both attributions '{name}' have the seed {seed}, so that they agree by construction; make the second "
                f"with another: seed={seed + 1}"
            )


def fingerprint(attribution: Attribution) -> str | None:
    """Of the data that the attribution was made for, if its provenance has it."""
    data: Any = attribution.provenance.get("data")
    return data.get("fingerprint") if isinstance(data, Mapping) else None
