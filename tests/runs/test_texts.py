"""The examples that a configuration names: several files, templates, token ids, truncation, labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ablationlens.data import Batch
from ablationlens.errors import ConfigError
from ablationlens.runs.config import ModelConfig
from ablationlens.runs.data_config import DataConfig
from ablationlens.runs.loading import Opened, open_model
from ablationlens.runs.texts import open_data
from tests.runs.tiny_runs import WORDS

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]


@pytest.fixture(scope="module")
def opened(tiny_directory: Path) -> Opened:
    return open_model(ModelConfig(name=str(tiny_directory), host="torch"))


def write(path: Path, *items: Any) -> str:
    lines = [item if path.suffix == ".txt" else json.dumps(item) for item in items]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def real_tokens(data: Batch) -> list[list[int]]:
    assert data.attended is not None
    return [row[kept].tolist() for row, kept in zip(data.inputs["input_ids"], data.attended, strict=True)]


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


QUESTIONS = [
    {"passage": "w1 w2 w3", "question": "w4 w5", "answer": True},
    {"passage": "w6", "question": "w7 {w8}", "answer": False},
    {"passage": "w9 w1", "question": "w2", "answer": True},
]


def test_several_files_are_read_one_after_the_other(opened: Opened, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.txt", "w1 w2", "w3 w4 w5"), write(tmp_path / "b.txt", "w6 w7 w8 w9", "w1 w1")
    whole = open_data(DataConfig(file=[first, second]), opened)
    assert whole.texts == ("w1 w2", "w3 w4 w5", "w6 w7 w8 w9", "w1 w1")
    assert open_data(DataConfig(file=[second, first], count=1), opened).texts == ("w6 w7 w8 w9", "w1 w2")
    with pytest.raises(ConfigError, match=r"data.count: 3 texts were asked for, and there are 2 in .*a.txt"):
        open_data(DataConfig(file=[first, second], count=3), opened)


def test_no_more_tokens_than_asked_for(opened: Opened, tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "w1 w2 w3 w4 w5", "w6 w7")
    data = open_data(DataConfig(file=file, truncate=3), opened)
    assert real_tokens(data) == [ids("w1 w2 w3"), ids("w6 w7")]
    assert data.texts == ("w1 w2 w3 w4 w5", "w6 w7")
    assert data.scored is not None and data.scored.sum(1).tolist() == [2, 1]
    long = write(tmp_path / "long.txt", " ".join(["w1"] * 40))
    with pytest.raises(ConfigError, match="reads at most 32: cut it in the file, or set data.truncate"):
        open_data(DataConfig(file=long), opened)
    assert open_data(DataConfig(file=long, truncate=32), opened).length == 32


def test_token_ids(opened: Opened, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", {"ids": [1, 2, 3, 4]}, {"ids": [5, 6]})
    data = open_data(DataConfig(file=file, field="ids", truncate=3), opened)
    assert (real_tokens(data), data.texts) == ([[1, 2, 3], [5, 6]], None)
    mixed = write(tmp_path / "b.jsonl", {"ids": [1, 2]}, {"ids": "w1"})
    with pytest.raises(ConfigError, match="data.field: some are texts and some are lists of token ids"):
        open_data(DataConfig(file=mixed, field="ids"), opened)


def test_texts_of_unknown_words(opened: Opened, tmp_path: Path) -> None:
    unknown = write(tmp_path / "a.txt", "no such words", "none here either")
    with pytest.raises(ConfigError, match=r"^data: .* knows 0 of the 6 words .* as '\[UNK\]': give texts in its words"):
        open_data(DataConfig(file=unknown), opened)
    some = write(tmp_path / "b.txt", "no such words", "one w1 here")
    assert len(open_data(DataConfig(file=some), opened)) == 2
    induction = open_model(ModelConfig(name="induction", host="torch"))
    for config in (DataConfig(file=unknown), DataConfig(domain="python")):
        with pytest.raises(ConfigError, match=r"reads random sequences: own\.data: \{sequences: 24\}"):
            open_data(config, induction, "own.data")


def test_a_template_puts_the_texts_of_an_object_together(opened: Opened, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *QUESTIONS)
    data = open_data(DataConfig(file=file, template="{passage} {{}} {question}\n{passage}"), opened)
    # What is put in is not read again, whatever it holds.
    assert data.texts == ("w1 w2 w3 {} w4 w5\nw1 w2 w3", "w6 {} w7 {w8}\nw6", "w9 w1 {} w2\nw9 w1")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ({"field": "answer", "tokens": {"true": "w1", "false": "w2"}}, ["w1", "w2", "w1"]),
        ({"field": "answer", "tokens": {"true": 8, "false": "w2"}}, ["w7", "w2", "w7"]),
        ({"field": "passage", "tokens": {"w6": "w2", "w1 w2 w3": "w3", "w9 w1": "w4"}}, ["w3", "w2", "w4"]),
        ("word", ["w11", "w12", "w13"]),
        ("index", ["w20", "w21", "w22"]),
    ],
)
def test_labels_are_the_token_after_the_text(opened: Opened, tmp_path: Path, label: Any, expected: list[str]) -> None:
    extra = [{"word": f"w{11 + number}", "index": 21 + number} for number in range(3)]
    file = write(tmp_path / "a.jsonl", *({**item, **more} for item, more in zip(QUESTIONS, extra, strict=True)))
    data = open_data(DataConfig.model_validate({"file": file, "field": "passage", "label": label}), opened)
    assert data.labels is not None and data.labels.tolist() == ids(" ".join(expected))
    assert data.scored is not None and data.attended is not None
    assert real_tokens(data) == [ids(item["passage"]) for item in QUESTIONS]
    assert torch.equal(data.scored, data.attended & (data.attended.cumsum(1) == data.attended.sum(1, keepdim=True)))


@pytest.mark.parametrize(
    ("fields", "items", "message"),
    [
        (
            {"template": "{passage}{x}"},
            QUESTIONS,
            "data.template: text 1 of .* a text 'x'; it is an object with passage",
        ),
        ({"template": "{answer}"}, QUESTIONS, "a text 'answer'; there it is true or false"),
        ({"field": "answer"}, QUESTIONS, "a text or a list of token ids 'answer'; there it is true or false"),
        ({"field": "a"}, [{"a": "w1 w2"}, {"a": [1, "w2"]}], "text 2 of .*; there it is a list"),
        ({"field": "a"}, [{"a": "w1 w2"}, {}], "text 2 of .* it is an object with nothing"),
        ({"field": "a"}, ["w1 w2"], "text 1 of .* should be an object; it is a text"),
        (
            {"label": "verdict"},
            QUESTIONS,
            "data.label: text 1 of .*: there is no 'verdict'; it is an object with passage",
        ),
        (
            {"label": "answer"},
            QUESTIONS,
            r"it is true or false. Say which token each value stands for: label: \{field: ans",
        ),
        ({"label": "question"}, QUESTIONS, "data.label: text 1 of .*: 'w4 w5' is 2 tokens"),
        (
            {"label": {"field": "answer", "tokens": {"yes": "w1"}}},
            QUESTIONS,
            "'answer' is true, and tokens says .* yes",
        ),
        ({"label": {"field": "answer", "tokens": {"true": "yes"}}}, QUESTIONS, r"'yes' is no token .* as '\[UNK\]'"),
    ],
)
def test_what_a_file_lacks(
    opened: Opened, tmp_path: Path, fields: dict[str, Any], items: list[Any], message: str
) -> None:
    file = write(tmp_path / "a.jsonl", *items)
    text = {} if "field" in fields or "template" in fields else {"field": "passage"}
    with pytest.raises(ConfigError, match=message):
        open_data(DataConfig.model_validate({"file": file, **text, **fields}), opened)
