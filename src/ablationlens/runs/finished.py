"""What a run has finished: which attributions and diagnostics a run that goes on can take as they are.

With each result stands what it was asked for. It is taken again for the same question; computed again where only
the amount of work differs, as a store of draws would be extended; and refused where it is of another model, other data
or another seed, so that a directory never holds two runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ablationlens.data import Batch
from ablationlens.errors import StoreError
from ablationlens.masked_model import MaskedModel
from ablationlens.report.evidence import Evidence
from ablationlens.results import Attribution


@runtime_checkable  # so that beartype can check it in the tests
class Finding(Evidence, Protocol):
    """What a diagnostic returns: a report can show it, and it can be written to a file."""

    def save(self, path: Path) -> Path: ...


Kept = TypeVar("Kept", bound=Attribution | Finding)

log = logging.getLogger("ablationlens")

ASKED = "asked"
"""Where the provenance says what was asked for."""
AMOUNTS = frozenset(
    {"budget", "tolerance", "draws", "steps", "samples", "solver"}
    | {"held_out", "times", "seeds", "fit_draws", "random_orders", "counts", "top"}
    | {"alphas", "fit_alphas"}
)
"""What may differ between two results that are one run: how much is computed, and how it is fitted."""
OWN = frozenset({"options", "alphas", "sets", "order of sets", "ablations", "order of ablations"})
"""What a diagnostic is asked that is no matter of the run: under another name it can be asked too."""
METHODS = "methods"
"""Where a diagnostic of attributions says which; a run may gain some."""


def with_provenance(found: Kept, **said: Any) -> Kept:
    """With more in its provenance."""
    return replace(found, provenance={**found.provenance, **said})  # pyright: ignore[reportArgumentType]


def marked(found: Kept, asked: Mapping[str, Any]) -> Kept:
    """With what was asked for in its provenance."""
    return with_provenance(found, **{ASKED: asked})


def unmarked(found: Kept) -> Kept:
    """As its function made it."""
    provenance = {key: value for key, value in found.provenance.items() if key != ASKED}
    return replace(found, provenance=provenance)  # pyright: ignore[reportArgumentType]


def load_finished(
    path: Path,
    load: Callable[[Path], Kept],
    asked: Mapping[str, Any],
    identity: Mapping[str, Any],
    *,
    called: str,
    refuse: bool,
) -> Kept | None:
    """The result that a file holds, if it answers what is asked now.

    Args:
        path: the file.
        load: reads it.
        asked: what decides the result, as `marked` has kept it.
        identity: the model and the data that it should be of, as its provenance has them.
        called: what messages call it.
        refuse: whether to refuse here what belongs to another run; a method with a store leaves that to the store.

    Returns:
        The result; None if there is none, it is damaged, or it was made with more or less work.

    Raises:
        StoreError: if it belongs to another run.
    """
    if not path.is_file():
        return None
    try:
        found = load(path)
    except StoreError as error:
        log.warning("%s; it is computed again", error)
        return None
    asked, identity = json.loads(json.dumps(asked)), json.loads(json.dumps(identity))
    more = _differences(found.provenance.get(ASKED) or {}, asked)
    others = _differences({key: found.provenance.get(key) for key in identity}, identity)
    others |= {name: texts for name, texts in more.items() if not _is_amount(name)}
    if not more and not others:
        log.info("%s: finished already, in %s", called, path)
        return found
    if others and refuse:
        shown = "; ".join(
            f"{name.removeprefix('options.')} is {stored} there and {now} now" for name, (stored, now) in others.items()
        )
        own = "diagnostic" in asked and all(name.partition(".")[0] in OWN for name in others)
        name = ", or give this diagnostic a name of its own, name: ..." if own else ""
        raise StoreError(f"{path} belongs to another run: {shown}. Choose another directory for this one{name}")
    return None


def _is_amount(name: str) -> bool:
    return name.partition(".")[0] == METHODS or name.removeprefix("options.") in AMOUNTS


def identity_of(model: MaskedModel, data: Batch) -> dict[str, Any]:
    """Model and data, as provenances hold them."""
    return {**model.describe(), "data": {"examples": len(data), "fingerprint": data.fingerprint()}}


def _differences(stored: Any, wanted: Any, where: str = "") -> dict[str, tuple[str, str]]:
    """Dotted name -> both values, of everything that differs."""
    if not isinstance(stored, dict) or not isinstance(wanted, dict):
        return {} if stored == wanted else {where: (_short(stored), _short(wanted))}
    found: dict[str, tuple[str, str]] = {}
    for key in dict.fromkeys([*stored, *wanted]):
        found |= _differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else str(key))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}...{text[-6:]}"
