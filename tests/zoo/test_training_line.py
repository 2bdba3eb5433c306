from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ablationlens.zoo.training_line import parse


def read(*arguments: str) -> tuple[Path, int, int]:
    return parse("python -m trained", "What it trains.", arguments, steps=7, seed=3)


def test_what_is_not_said_is_the_scripts_own() -> None:
    assert read("--out", "there") == (Path("there"), 7, 3)


def test_what_is_said() -> None:
    assert read("--out", "there", "--steps", "5", "--seed", "0") == (Path("there"), 5, 0)


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        read("--out", "there", "--threads", str(before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_help_says_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--help")
    shown = capsys.readouterr().out
    assert "usage: python -m trained" in shown
    assert "What it trains." in shown


def test_out_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read()
    assert "--out" in capsys.readouterr().err
