"""Overrides: fields of a configuration that are set on the command line, ``--set data.count=50``.

A field is named as messages name it: ``method.coar.draws``, or ``method.0.coar.draws`` where there are several methods
(and where there is one). The value is YAML, as it would stand in the file: a number, a text, ``[0, 1]``,
``{logit: {token: 17}}``, ``null`` for nothing. What is set is checked like the file, as a part of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from ablationlens.errors import ConfigError
from ablationlens.runs.config import RunConfig
from ablationlens.runs.paths import anchored
from ablationlens.runs.strict import OneOf, Strict

OPTION = "--set"
EXAMPLE = f"{OPTION} data.count=50"
NOTHING = ("null", "~")
"""What stands for no value in YAML; that an empty text does so too is not what people mean."""


@dataclass(frozen=True)
class Override:
    """One field, and what it is set to.

    Attributes:
        typed: the option as it was typed, for messages.
        path: names and numbers that lead to the field.
        value: what to set it to, paths absolute.
    """

    typed: str
    path: tuple[str, ...]
    value: Any

    @classmethod
    def parse(cls, text: str, folder: Path) -> Override:
        """Read ``field=value``.

        Args:
            text: what stands behind ``--set``.
            folder: what a path in the value is relative to.

        Raises:
            ConfigError: if it does not have this form.
        """
        typed = f"{OPTION} {text}"
        name, equals, written = text.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or "" in path:
            raise ConfigError(f"{typed}: expected a field and its value, for example {EXAMPLE}")
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise ConfigError(f"{typed}: the value is not valid YAML: {' '.join(str(error).split())}") from error
        if value is None and written.strip() not in NOTHING:
            raise ConfigError(f"{typed}: there is no value; type null for none, or \"''\" for an empty text")
        alone: Any = value
        for key in reversed(path):
            alone = {key: alone}
        alone = anchored(alone, folder)
        for key in path:
            alone = alone[key]
        return cls(typed, path, alone)

    def applied(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration with this field set; the one that is given stays as it is.

        Raises:
            ConfigError: if the way to the field leads through something that has no fields.
        """
        return self._set(content, 0, RunConfig)

    def _set(self, content: Any, depth: int, annotation: Any) -> Any:
        """`content`, which the first `depth` parts of the path lead to, with the rest of the path set."""
        if depth == len(self.path):
            return self.value
        key = self.path[depth]
        if isinstance(content, list):
            return self._set_item(content, depth, annotation)
        model = model_of(annotation)
        if model is not None and issubclass(model, Strict):
            content = model.written_out(content)
        content = {} if content is None else content
        if not isinstance(content, Mapping):
            raise ConfigError(f"{self.typed}: {self._here(depth)} is {short(content)}, which has no field '{key}'")
        if model is not None and issubclass(model, OneOf) and key in model.model_fields:
            self._check_choice(content, depth)
        inner, old = annotation_of(annotation, key), content.get(key)
        if holds_list(inner) and self._numbered(depth + 1):
            old = old if isinstance(old, list) else [{} if old is None else old]  # one thing where several may stand
        return {**content, key: self._set(old, depth + 1, inner)}

    def _numbered(self, depth: int) -> bool:
        """Whether this part of the path is the number of a member."""
        return depth < len(self.path) and self.path[depth].isdecimal()

    def _set_item(self, content: list[Any], depth: int, annotation: Any) -> list[Any]:
        key, here = self.path[depth], self._here(depth)
        if not key.isdecimal() or int(key) >= len(content):
            numbers = ", ".join(f"{here}.{number}" for number in range(len(content))) or "none"
            raise ConfigError(f"{self.typed}: {here} is a list: say which of {numbers}, or set the whole of it")
        done = list(content)
        done[int(key)] = self._set(content[int(key)], depth + 1, annotation)
        return done

    def _check_choice(self, content: Mapping[str, Any], depth: int) -> None:
        """Where one of several is chosen, an option of another one is no way to choose that."""
        key, here = self.path[depth], self._here(depth)
        others = [name for name in content if name != key]
        if others:
            raise ConfigError(
                f"{self.typed}: {here} is {others[0]} here; set the whole of it, {OPTION} {here}={key}, "
                f"or with options {OPTION} '{here}={{{key}: {{...}}}}'"
            )

    def _here(self, depth: int) -> str:
        return ".".join(self.path[:depth]) or "the configuration"


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as ``list[Model]`` or ``Model | None``; none in a mapping of them by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return None
    return next((found for inner in get_args(annotation) if (found := model_of(inner))), None)


def annotation_of(annotation: Any, key: str) -> Any:
    """Annotation of what stands under a name: a field of a model, or a member of a mapping; None for neither."""
    model = model_of(annotation)
    if model is not None:
        field = model.model_fields.get(key)
        return None if field is None else field.annotation
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return next((found for inner in get_args(annotation) if (found := annotation_of(inner, key)) is not None), None)


def nested(annotation: Any) -> bool:
    """Whether something stands under names: in a model, or in a mapping."""
    return (
        model_of(annotation) is not None
        or get_origin(annotation) is dict
        or any(nested(inner) for inner in get_args(annotation))
    )


def holds_list(annotation: Any) -> bool:
    """Whether an annotation such as ``str | list[str] | None`` allows a list."""
    return get_origin(annotation) is list or any(holds_list(inner) for inner in get_args(annotation))


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
