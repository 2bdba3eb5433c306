"""A pytest plugin for tests that call the command line: a tiny model in a directory, a configuration, calls."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablationlens import cli
from tests import models
from tests.runs.tiny_runs import TEXTS, WORDS, Command, Refused, WriteConfig


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 as a Hugging Face directory, with a tokenizer of words."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as tokenizer_models
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    models.gpt2().save_pretrained(path)
    words = Tokenizer(tokenizer_models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]").save_pretrained(path)
    return path


@pytest.fixture
def write_config(tiny_directory: Path, tmp_path: Path) -> WriteConfig:
    def write(**fields: Any) -> Path:
        (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
        content = {
            "model": {"name": str(tiny_directory), "host": "torch"},
            "data": {"file": "texts.txt"},
            "registry": "head",
            "method": [{"coar": {"alpha": 0.25, "draws": 40}}, "leave_one_out"],
            "evaluate": {"alphas": [0.25, 0.5], "draws": 20},
        }
        path = tmp_path / "run.yaml"
        asked = {name: value for name, value in {**content, **fields}.items() if value is not None}
        path.write_text(yaml.safe_dump(asked))
        return path

    return write


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    log = logging.getLogger("ablationlens")
    before = (list(log.handlers), log.propagate, log.level)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    yield call
    # `progress.show` binds the error stream that this test captures: take its handler away again.
    log.handlers[:], log.propagate = before[0], before[1]
    log.setLevel(before[2])


@pytest.fixture
def refused(command: Command) -> Refused:
    def call(*arguments: str | Path) -> str:
        code, out, err = command(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        return err

    return call
