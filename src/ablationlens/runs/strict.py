"""What configurations are made of: mappings in which every field is known, and choices of one among several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_serializer,
    model_validator,
)

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
"""A float; YAML 1.1 reads 1e-2 as a text, which is taken as the number that it is."""
Alpha = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
LONGEST = 100
"""Letters of a file's name, without its ending."""
Token = int | str
"""Index of a token, a text that is one token, or "label"."""


def listed(value: Any) -> Any:
    """One thing where several may stand."""
    return value if isinstance(value, list) else [value]


def called(name: str) -> str:
    """A name as files have it: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.")


def check_files(what: str, names: Sequence[str]) -> None:
    """Refuse names that give no file, or the file of another.

    Args:
        what: what they are called by, for the message.
        names: of each.

    Raises:
        ValueError: if there are such.
    """
    seen: dict[str, str] = {}
    for name in names:
        file = called(name)
        if not file:
            raise ValueError(f"the name of a {what} needs a letter from a to z or a digit, for its file; got {name!r}")
        if len(file) > LONGEST:
            raise ValueError(
                f"the name of a {what} gives its file: choose one of at most {LONGEST} letters; got {len(file)}: "
                f"{name[:20]!r}..."
            )
        if file in seen:
            came = f"{name!r} twice" if seen[file] == name else f"{seen[file]!r} and {name!r}, which give one file"
            raise ValueError(f"every {what} needs a name of its own, name: ...; got {came}")
        seen[file] = name


def as_json(value: Any) -> Any:
    """Keys of a mapping as JSON writes values: YAML reads a bare true as a truth value, and 1 as a number."""
    if not isinstance(value, Mapping):
        return value
    return {key if isinstance(key, str) else json.dumps(key, default=str): item for key, item in value.items()}


class Strict(BaseModel):
    """A mapping in which every field is known, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    alone: ClassVar[str | None] = None
    """The field that may stand for the mapping, if it is the only one: ``model: domains``."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """A value as the mapping that it stands for, if it does for one."""
        return {cls.alone: value} if isinstance(value, str) and cls.alone is not None else value

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return cls.written_out(value)

    @model_serializer(mode="wrap")
    def _said(self, written: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Nothing is left out where it says something: ``tolerance: null`` is no default."""
        fields = type(self).model_fields
        return {
            key: value for key, value in written(self).items() if value is not None or fields[key].default is not None
        }


class OneOf(Strict):
    """A mapping with exactly one of its fields: what is chosen, and its options."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """What the library has and a configuration has not: name -> where it is, for messages."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """A name alone is a choice without options."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, Mapping):
            return {key: {} if options is None else options for key, options in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> OneOf:
        if len(self.model_fields_set) != 1:
            came = ", ".join(sorted(self.model_fields_set)) or "none"
            raise ValueError(f"choose exactly one of {', '.join(type(self).model_fields)}; got {came}")
        return self

    @property
    def choice(self) -> tuple[str, Any]:
        """Name and options of what is chosen."""
        name = next(iter(self.model_fields_set))
        return name, getattr(self, name)
