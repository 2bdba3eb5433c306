"""Read a configuration from a file, and say of each wrong field where it is, what came, and what could stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.error import MarkedYAMLError

from ablationlens.errors import ConfigError
from ablationlens.runs.config import RunConfig
from ablationlens.runs.overrides import Override, annotation_of, model_of, nested, short
from ablationlens.runs.paths import anchored
from ablationlens.runs.strict import OneOf


def load(path: Path, overrides: Sequence[Override] = ()) -> RunConfig:
    """Read a configuration, with absolute paths: those in the file are relative to its folder.

    Args:
        path: the file.
        overrides: fields that are set from elsewhere, one after the other.

    Raises:
        ConfigError: if there is no such file, it is no YAML, or a field is wrong; one line for each.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"{path}: the configuration cannot be read: {why}") from error
    return parse(text, str(path), overrides, path.parent)


def parse(text: str, source: str, overrides: Sequence[Override] = (), folder: Path | None = None) -> RunConfig:
    """Read a configuration from the text of a file called `source`.

    Args:
        text: YAML.
        source: what messages call it.
        overrides: fields that are set from elsewhere, one after the other.
        folder: what paths in the text are relative to; they stay as they are without it.

    Raises:
        ConfigError: if it is no YAML, or a field is wrong; one line for each.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_where(error)}") from error
    if not isinstance(content, dict):
        fields = ", ".join(RunConfig.model_fields)
        raise ConfigError(f"{source}: a configuration is a mapping with the fields {fields}; got {short(content)}")
    if folder is not None:
        content = anchored(content, folder)
    for override in overrides:
        content = override.applied(content)
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, content, source, overrides))) from None


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _lines(error: ValidationError, content: Any, source: str, overrides: Sequence[Override]) -> list[str]:
    """One line for each wrong field; the several errors of a field that may hold several types share theirs."""
    by_field: dict[str, list[str]] = {}
    # A misspelt field is unknown under one name and missing under the other: the first says more.
    for one in sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing"):
        path, model = _place(one, content)
        message = _message(one, path, model)
        if message not in by_field.setdefault(path or "the configuration", []):
            by_field[path or "the configuration"].append(message)
    return [
        f"{_origin(path, source, overrides)}: {path}: {', or '.join(messages)}" for path, messages in by_field.items()
    ]


def _origin(path: str, source: str, overrides: Sequence[Override]) -> str:
    """Where a wrong field was set: in the file, on the command line, or on both, each with a part of it."""
    parts = path.split(".")
    for override in reversed(overrides):
        if tuple(parts[: len(override.path)]) == override.path:
            return override.typed
    inside = [override.typed for override in overrides if override.path[: len(parts)] == tuple(parts)]
    return " with ".join([source, *inside])


def _place(error: ErrorDetails, content: Any) -> tuple[str, type[BaseModel] | None]:
    """Dotted path of the wrong field, as the user wrote it, and the model that has it, or should have."""
    parts: list[str] = []
    annotation: Any = RunConfig
    owner: type[BaseModel] | None = None
    for part in error["loc"]:
        if isinstance(part, int):
            if isinstance(content, list):  # else a single thing, which `_listed` has put into a list
                parts.append(str(part))
                content = content[part]
            continue
        if annotation is None or not nested(annotation):  # a member of a union of types: no field
            break
        owner, annotation = model_of(annotation), annotation_of(annotation, part)
        parts.append(part)
        content = content.get(part) if isinstance(content, Mapping) else content
    return ".".join(parts), owner


def _message(error: ErrorDetails, path: str, owner: type[BaseModel] | None) -> str:
    """What came, and what could stand there."""
    name = path.rpartition(".")[2]
    fields = list(owner.model_fields) if owner is not None else []
    if error["type"] == "extra_forbidden":
        if owner is not None and issubclass(owner, OneOf) and name in owner.elsewhere:
            return owner.elsewhere[name]
        chosen = owner is not None and issubclass(owner, OneOf)
        what = "unknown; choose one of" if chosen else "unknown field; there are"
        near = get_close_matches(name, fields, n=1)
        known = f"{what} {', '.join(fields)}" if fields else "unknown field; there is nothing to set here"
        return known + (f" (did you mean {near[0]}?)" if near else "")
    if error["type"] == "missing":
        return "missing"
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
    if error["type"] == "value_error":
        return message
    if error["type"] == "model_type":
        return f"should be a mapping; got {short(error['input'])}"
    return f"{message}; got {short(error['input'])}"
