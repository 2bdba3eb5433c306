"""Attributions that a run has finished: which of them a run that goes on can take as they are.

With each attribution stands what it was asked for. It is taken again for the same question; computed again where only
the amount of work differs, as a store of draws would be extended; and refused where it is of another model, other data
or another seed, so that a directory never holds two runs.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablationlens.data import Batch
from ablationlens.errors import StoreError
from ablationlens.masked_model import MaskedModel
from ablationlens.results import Attribution

log = logging.getLogger("ablationlens")

ASKED = "asked"
"""Where the provenance says what was asked for."""
AMOUNTS = ("budget", "tolerance", "draws", "steps", "samples", "solver")
"""What may differ between two attributions that are one run: how much is computed, and how it is fitted."""


def marked(found: Attribution, asked: dict[str, Any]) -> Attribution:
    """With what was asked for in its provenance."""
    return replace(found, provenance={**found.provenance, ASKED: asked})


def load_finished(
    path: Path, asked: dict[str, Any], model: MaskedModel, data: Batch, *, refuse: bool
) -> Attribution | None:
    """The attribution that a file holds, if it answers what is asked now.

    Args:
        path: the file.
        asked: what decides the result, beside model and data.
        model: the model that it should be of.
        data: the examples.
        refuse: whether to refuse here what belongs to another run; a method with a store leaves that to the store.

    Returns:
        The attribution; None if there is none, it is damaged, or it was made with more or less work.

    Raises:
        StoreError: if it belongs to another run.
    """
    if not path.is_file():
        return None
    try:
        found = Attribution.load(path)
    except StoreError as error:
        log.warning("%s; it is computed again", error)
        return None
    asked = json.loads(json.dumps(asked))
    identity = json.loads(json.dumps(_identity(model, data)))
    more = _differences(found.provenance.get(ASKED) or {}, asked)
    others = _differences({key: found.provenance.get(key) for key in identity}, identity)
    others |= {name: texts for name, texts in more.items() if name.removeprefix("options.") not in AMOUNTS}
    if not more and not others:
        log.info("%s: finished already, in %s", found.method, path)
        return found
    if others and refuse:
        shown = "; ".join(
            f"{name.removeprefix('options.')} is {stored} there and {now} now" for name, (stored, now) in others.items()
        )
        raise StoreError(f"{path} belongs to another run: {shown}. Choose another directory for this one")
    return None


def _identity(model: MaskedModel, data: Batch) -> dict[str, Any]:
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
