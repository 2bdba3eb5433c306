"""What a configuration can say of the data: texts of a domain, of a file or of several, and what should follow them."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ablationlens.runs.strict import Count, Strict, Token, as_json


class LabelConfig(Strict):
    """What is right after each text: one token.

    Attributes:
        field: the field of a .jsonl object that holds it: a text that is one token (a leading space often matters), or
            the index of a token.
        tokens: the token for each value of that field, where it holds something else: ``{true: " yes", false: " no"}``.
    """

    alone = "field"

    field: str
    tokens: Annotated[dict[str, Token], BeforeValidator(as_json), Field(min_length=1)] | None = None


class DataConfig(Strict):
    """Texts: those of a domain that the model `domains` was not trained on, or the lines of a file or of several.

    Attributes:
        domain: python, cpp, maths, prose or data.
        tokens: length of each text of a domain.
        sequences: random sequences of so many tokens, each repeated once, of the bundled model `induction`.
        file: a text file with one text a line, or a .jsonl file with one object a line; relative to the configuration.
            Several are read one after the other.
        field: the field of a .jsonl object that is the text, or a list of token ids.
        template: the text, with the names of an object's texts in braces: ``"{passage}\nQuestion: {question}?"``.
        label: what should follow each text, scored at its last token; by default a text's own tokens are scored.
        count: the first so many texts, of each file if there are several; all of a file by default, 8 otherwise.
        truncate: no more tokens of each text of a file than these, its first.
        positions: which positions are scored, as in `al.batch`; by default all that have a next token, or a label, and
            of sequences those whose next token was seen before.
    """

    domain: Literal["python", "cpp", "maths", "prose", "data"] | None = None
    tokens: Annotated[int, Field(ge=8, le=128)] | None = None
    sequences: Annotated[int, Field(ge=2, le=64)] | None = None
    file: str | Annotated[list[str], Field(min_length=1)] | None = None
    field: str | None = None
    template: str | None = None
    label: LabelConfig | None = None
    count: Count | None = None
    truncate: Annotated[int, Field(ge=2)] | None = None
    positions: int | list[int] | None = None

    @field_validator("template")
    @classmethod
    def _names(cls, template: str | None) -> str | None:
        if template is not None:
            names_in(template)
        return template

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in ("domain", "file", "sequences") if getattr(self, name) is not None]
        if len(given) != 1:
            came = " and ".join(given) or "neither"
            raise ValueError(
                f"give either domain (with tokens) or file (with field for .jsonl), or sequences; got {came}"
            )
        if self.domain is None and self.tokens is not None:
            raise ValueError("tokens is the length of a domain's texts; for those of a file there is truncate")
        if self.file is None and self.truncate is not None:
            longer = "the length of a domain's texts is tokens" if self.sequences is None else "sequences is a length"
            raise ValueError(f"truncate is for the texts of a file; {longer}")
        self._check_lines()
        if self.label is not None and self.truncate is not None:
            raise ValueError(
                "truncate would take the end of a text, which is where its label is scored: leave one of them out, and "
                "shorten the texts in the file"
            )
        return self

    def _check_lines(self) -> None:
        """Objects need a field or a template; other texts have neither, and no label."""
        objects = {file.endswith(".jsonl") for file in self.files}
        if len(objects) == 2:
            raise ValueError("file: give .jsonl files only, or text files only")
        if objects == {True} and (self.field is None) == (self.template is None):
            came = "neither" if self.field is None else "both"
            raise ValueError(f"field names the text in a .jsonl file, or template makes it; got {came}")
        if objects != {True}:
            for name in ("field", "template", "label"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for the objects of a .jsonl file; the file is {self.file!r}")

    @property
    def files(self) -> list[str]:
        """The files, in order."""
        return [self.file] if isinstance(self.file, str) else self.file or []


def names_in(template: str) -> list[str]:
    """The names between the braces of a template.

    Raises:
        ValueError: if there are none, or anything else is between braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"names stand in braces, as {{question}}, and a brace itself is {{{{ or }}}}: {error}"
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names or any(name == "" or options or convert for _, name, options, convert in parts):
        raise ValueError("between the braces of a template stand names of texts alone, as in '{passage} {question}'")
    return names
