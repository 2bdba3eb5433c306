"""The examples that a configuration names: texts from a domain or from files, and what should follow them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any, TypeAlias, TypeVar, cast

from ablationlens import zoo
from ablationlens.data import Batch, batch
from ablationlens.data.tokens import one_token, rows_of, tokenize
from ablationlens.errors import ConfigError, InputError
from ablationlens.runs.data_config import DataConfig, LabelConfig, names_in
from ablationlens.runs.loading import Opened

DOMAIN_COUNT = 8
"""Texts of a domain, unless the configuration says how many."""
DOMAIN_TOKENS = 32
"""Their length."""
KNOWN = 0.1
"""Share of words that a tokenizer has to know, for texts to be worth reading."""

Text: TypeAlias = str | list[int]
"""A text, or the tokens of one."""
Example: TypeAlias = tuple[Text, int | None]
"""A text, and the token that should follow it, if the configuration names one."""
T = TypeVar("T")


def open_data(config: DataConfig, opened: Opened, field: str = "data") -> Batch:
    """The examples that a configuration names, tokenised.

    Args:
        config: which texts.
        opened: the model that will read them.
        field: name of the configuration's field, for messages.

    Raises:
        ConfigError: if a file cannot be read, or has too few texts, or too long ones, or a label is no token.
    """
    if config.sequences is not None:
        return _sequences(config, config.sequences, opened, field)
    if config.domain is not None:
        texts = zoo.load("domains").texts(config.domain, tokens=config.tokens or DOMAIN_TOKENS)
        examples: list[Example] = [(text, None) for text in _first(texts, config.count or DOMAIN_COUNT, field)]
    else:
        examples = [one for file in config.files for one in _from_file(Path(file), config, opened.tokenizer, field)]
    data = _batch(examples, config, opened, field)
    if opened.context is not None and data.length is not None and data.length > opened.context:
        raise ConfigError(
            f"{field}: the longest text has {data.length} tokens, and the model reads at most {opened.context}: cut "
            f"it in the file, or set {field}.truncate"
        )
    return data


def _sequences(config: DataConfig, length: int, opened: Opened, field: str) -> Batch:
    """Random sequences that are each repeated once, scored where the next token was seen before."""
    source = zoo.load("induction")
    rows = source.sequences(config.count or DOMAIN_COUNT, length).tolist()
    if opened.tokenizer is None or tokenize(source.tokenizer.batch_decode(rows), opened.tokenizer) != rows:
        raise ConfigError(f"{field}.sequences: those of the bundled model induction: set model.name to induction")
    positions = list(range(length, 2 * length - 1)) if config.positions is None else config.positions
    return batch(rows, tokenizer=opened.tokenizer, positions=positions)


def _batch(examples: list[Example], config: DataConfig, opened: Opened, field: str) -> Batch:
    texts = tuple(text for text, _ in examples if isinstance(text, str))
    if texts and len(texts) < len(examples):
        raise ConfigError(f"{field}.field: some are texts and some are lists of token ids: expected one or the other")
    if texts and opened.tokenizer is None:
        raise ConfigError(
            f"model.name: the data are texts, and {opened.no_tokenizer}. Put one there, with "
            "tokenizer.save_pretrained(folder), or give lists of token ids in a .jsonl file"
        )
    labels = None if config.label is None else [cast("int", label) for _, label in examples]
    rows = tokenize(texts, opened.tokenizer) if texts else rows_of([text for text, _ in examples])
    if texts:
        _check_known(rows, opened, field)
    cut = [row[: config.truncate] for row in rows]
    data = batch(cut, tokenizer=opened.tokenizer, labels=labels, positions=config.positions)
    return replace(data, texts=texts or None)


def _check_known(rows: list[list[int]], opened: Opened, field: str) -> None:
    """Refuse texts of which the tokenizer knows hardly a word: to the model all of them would be the same.

    Raises:
        ConfigError: if no more than one in ten is known.
    """
    tokenizer = opened.tokenizer
    unknown: int | None = getattr(tokenizer, "unk_token_id", None)
    special = set(tokenizer.all_special_ids)
    missing = sum(row.count(unknown) for row in rows if unknown is not None)
    known = sum(token not in special for row in rows for token in row)
    if missing == 0 or known > KNOWN * (known + missing):
        return
    said = (
        f"{field}: the tokenizer of the model knows {known:,} of the {known + missing:,} words of these texts, and "
        f"reads the others as {tokenizer.unk_token!r}"
    )
    if tokenizer.get_vocab() == zoo.load("induction").tokenizer.get_vocab():
        raise ConfigError(f"{said}. The bundled model induction reads random sequences: {field}: {{sequences: 24}}")
    raise ConfigError(f"{said}: give texts in its words, or another model")


# --- files ------------------------------------------------------------------------------------------------------------


def _from_file(path: Path, config: DataConfig, tokenizer: Any, field: str) -> list[Example]:
    """The examples of one file."""
    if config.field is None and config.template is None:
        return [(text, None) for text in _first(read_lines(path, field), config.count, field, f" in {path}")]
    label_of = None if config.label is None else _label_reader(config.label, tokenizer)
    examples: list[Example] = []
    for number, item in enumerate(_first(read_objects(path, field), config.count, field, f" in {path}"), 1):
        place = f"text {number} of {path}"
        text = _text_of(item, config, place, field)
        try:
            examples.append((text, None if label_of is None else label_of(item)))
        except InputError as error:
            raise ConfigError(f"{field}.label: {place}: {error}") from error
    return examples


def _first(found: list[T], count: int | None, field: str, where: str = "") -> list[T]:
    if count is not None and count > len(found):
        raise ConfigError(f"{field}.count: {count} texts were asked for, and there are {len(found)}{where}")
    return found[:count]


def read_lines(path: Path, field: str) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        ConfigError: if it cannot be read, or has none.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"{field}.file: {path} cannot be read: {why}") from error
    if not lines:
        raise ConfigError(f"{field}.file: {path} holds no text: expected one on each line")
    return lines


def read_objects(path: Path, field: str) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines.

    Raises:
        ConfigError: if the file cannot be read, or a line of it is no object.
    """
    items: list[dict[str, Any]] = []
    for number, line in enumerate(read_lines(path, field), 1):
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{field}.file: text {number} of {path} is no JSON: {error}") from error
        if not isinstance(item, dict):
            raise ConfigError(f"{field}.file: text {number} of {path} should be an object; it is {_kind(item)}")
        items.append(item)
    return items


def _text_of(item: dict[str, Any], config: DataConfig, place: str, field: str) -> Text:
    """The text of an object: one of its fields, or made by the template."""
    if config.template is None:
        name = cast("str", config.field)
        value = item.get(name)
        if isinstance(value, str) or _is_tokens(value):
            return cast("Text", value)
        raise ConfigError(f"{field}.field: {_expected(item, name, place, 'or a list of token ids ')}")
    for name in names_in(config.template):
        if not isinstance(item.get(name), str):
            raise ConfigError(f"{field}.template: {_expected(item, name, place)}")
    # Not str.format, which would also look into what it is given.
    return "".join(
        literal + ("" if name is None else item[name]) for literal, name, _, _ in Formatter().parse(config.template)
    )


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in cast("list[Any]", value))


def _expected(item: dict[str, Any], name: str, place: str, other: str = "") -> str:
    came = (
        f"there it is {_kind(item[name])}" if name in item else f"it is an object with {', '.join(item) or 'nothing'}"
    )
    return f"{place} should be an object with a text {other}'{name}'; {came}"


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# --- labels -----------------------------------------------------------------------------------------------------------


def _label_reader(config: LabelConfig, tokenizer: Any) -> Callable[[dict[str, Any]], int]:
    """A function that finds the label's token in an object; each text is looked up once."""
    known: dict[str, int] = {}

    def token_of(value: int | str) -> int:
        if isinstance(value, int):
            return value
        if value not in known:
            known[value] = one_token(value, tokenizer)
        return known[value]

    def read(item: dict[str, Any]) -> int:
        if config.field not in item:
            raise InputError(f"there is no '{config.field}'; it is an object with {', '.join(item) or 'nothing'}")
        value = item[config.field]
        if config.tokens is None:
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise InputError(
                    f"'{config.field}' should be a text that is one token, or the index of a token; it is "
                    f"{_kind(value)}. Say which token each value stands for: label: {{field: {config.field}, "
                    'tokens: {true: " yes", false: " no"}}'
                )
            return token_of(value)
        key = value if isinstance(value, str) else json.dumps(value)
        if key not in config.tokens:
            raise InputError(
                f"'{config.field}' is {json.dumps(value)}, and tokens says what stands for {', '.join(config.tokens)} "
                "(YAML reads a bare yes or no as true or false: quote them)"
            )
        return token_of(config.tokens[key])

    return read
