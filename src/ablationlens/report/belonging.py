"""Which section of a report each result belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ablationlens.errors import InputError
from ablationlens.report.catalogue import CALLS, known
from ablationlens.report.evidence import Evidence, Given


def by_section(given: Given | None, fingerprints: Mapping[str, str]) -> dict[str, tuple[Evidence, ...]]:
    """Which section each belongs to.

    Args:
        given: what the report's caller gave.
        fingerprints: title of each section -> fingerprint of its components.

    Raises:
        InputError: for something that is no evidence, a section that there is not, or other components.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        for title in given:
            if title not in fingerprints:
                raise InputError(f"studies are of section {title!r}; the sections are {_quoted(fingerprints)}")
        found = {title: _listed(each) for title, each in given.items()}
        for title, each in found.items():
            for one in each:
                own = fingerprint(one)
                if own is not None and own != fingerprints[title]:
                    raise InputError(f"the {type(one).__name__} of section {title!r} is of other components than it")
        return found
    found: dict[str, tuple[Evidence, ...]] = {}
    for one in _listed(given):
        own = fingerprint(one)
        titles = [title for title, each in fingerprints.items() if own in (None, each)]
        if not titles:
            raise InputError(
                f"the {type(one).__name__} is of other components than those of the sections "
                f"{_quoted(fingerprints)}: give an attribution of these components too"
            )
        found[titles[0]] = (*found.get(titles[0], ()), one)
    return found


def fingerprint(one: Evidence) -> str | None:
    """Of the components that it is about, if its provenance has it."""
    registry: Any = one.provenance.get("registry")
    return str(cast("Mapping[str, Any]", registry)["fingerprint"]) if isinstance(registry, Mapping) else None


def _listed(given: Evidence | Sequence[Evidence]) -> tuple[Evidence, ...]:
    listed: Any = (given,) if known(given) else given
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise InputError(f"studies=[...] are what al.studies, al.compare, ... return; got {type(listed).__name__}")
    each = tuple(cast("Sequence[Any]", listed))
    for one in each:
        if not known(one):
            raise InputError(f"studies=[...] are what {CALLS} return; got {type(one).__name__}")
    return each


def _quoted(names: Mapping[str, str]) -> str:
    return ", ".join(repr(name) for name in names)
