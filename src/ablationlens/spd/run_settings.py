"""What of a run's configuration matters to its components, in the present and the older formats of goodfire-ai/spd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

from ablationlens.errors import InputError, StoreError
from ablationlens.layout import IDENTITY
from ablationlens.spd.functions import FUNCTIONS
from ablationlens.spd.run_files import CONFIG
from ablationlens.spd.sigmoids import SIGMOIDS

DEFAULT_KIND, DEFAULT_HIDDEN, DEFAULT_SIGMOID = "vector_mlp", (8,), "leaky_hard"
"""What goodfire-ai/spd takes where a configuration says nothing."""


class Settings(NamedTuple):
    """Settings of a run.

    Attributes:
        kind: of the importance functions.
        hidden: widths of their hidden layers.
        sigmoid: what makes importances of what they give.
        patterns: of module paths, each with its number of components.
    """

    kind: str
    hidden: tuple[int, ...]
    sigmoid: str
    patterns: tuple[tuple[str, int], ...]

    def components(self, paths: Iterable[str]) -> dict[str, int]:
        """How many components each of the paths that a pattern names has.

        Raises:
            StoreError: if patterns contradict one another.
        """
        found: dict[str, int] = {}
        for path in paths:
            counts = {count for pattern, count in self.patterns if fnmatchcase(path, pattern)}
            if len(counts) > 1:
                raise StoreError(f"{CONFIG} gives {path} {' and '.join(map(str, sorted(counts)))} components")
            if counts:
                found[path] = counts.pop()
        return found


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Read them.

    Raises:
        StoreError: if one is missing or no such setting.
        InputError: for a global importance function, which is not supported.
    """
    own = _importances(config)
    kind, hidden = own.get("kind", DEFAULT_KIND), own.get("hidden", DEFAULT_HIDDEN)
    sigmoid = config.get("sigmoid_type", DEFAULT_SIGMOID)
    if not isinstance(kind, str) or kind not in FUNCTIONS:
        raise StoreError(f"{CONFIG}: ci_fn_type is {kind!r}, and not one of {', '.join(FUNCTIONS)}")
    if not isinstance(hidden, list | tuple) or not all(isinstance(one, int) and one > 0 for one in hidden):
        raise StoreError(f"{CONFIG}: ci_fn_hidden_dims is a list of widths; got {hidden!r}")
    if not isinstance(sigmoid, str) or sigmoid not in SIGMOIDS:
        raise StoreError(f"{CONFIG}: sigmoid_type is {sigmoid!r}, and not one of {', '.join(SIGMOIDS)}")
    return Settings(str(kind), tuple(cast("list[int]", hidden)), str(sigmoid), tuple(_patterns(config)))


def _importances(config: Mapping[str, Any]) -> dict[str, Any]:
    nested: Any = config.get("ci_config")
    if isinstance(nested, dict):
        if nested.get("mode") == "global":  # pyright: ignore[reportUnknownMemberType]
            raise InputError(
                f"{CONFIG}: the importances of this run come from one global function of all modules at once "
                f"({nested.get('fn_type')}), which is not supported; runs of layer-wise functions are"  # pyright: ignore[reportUnknownMemberType]
            )
        names: dict[str, tuple[str, ...]] = {"kind": ("fn_type",), "hidden": ("hidden_dims",)}
        given = cast("dict[str, Any]", nested)
    else:
        names = {"kind": ("ci_fn_type", "gate_type"), "hidden": ("ci_fn_hidden_dims", "gate_hidden_dims")}
        given = dict(config)
    return {key: given[name] for key, known in names.items() for name in known if name in given}


def _patterns(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    if "target_module_patterns" in config:  # older: one number for all
        lists = [("", config["target_module_patterns"]), (f".{IDENTITY}", config.get("identity_module_patterns"))]
        wrong = next((given for _, given in lists if not isinstance(given, list | None)), None)
        if wrong is not None:
            raise StoreError(f"{CONFIG}: target_module_patterns is a list of patterns of module paths; got {wrong!r}")
        return [(f"{pattern}{end}", _count(config.get("C"))) for end, given in lists for pattern in given or ()]
    if not config.get("module_info"):
        raise StoreError(f"{CONFIG} lacks module_info, which says how many components each module has")
    lists = [("", config["module_info"]), (f".{IDENTITY}", config.get("identity_module_info"))]
    try:
        return [(f"{one['module_pattern']}{end}", _count(one["C"])) for end, given in lists for one in given or ()]
    except (TypeError, KeyError) as error:
        raise StoreError(f"{CONFIG}: module_info is a list of {{module_pattern, C}}; {error} is wrong there") from error


def _count(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise StoreError(f"{CONFIG}: C is the number of components of a module; got {given!r}")
    return given
