"""What a long run tells its user."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ablationlens import progress


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    handlers, level, propagate = list(progress.log.handlers), progress.log.level, progress.log.propagate
    yield
    progress.log.handlers[:] = handlers
    progress.log.setLevel(level)
    progress.log.propagate = propagate


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "a second"),
        (1, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert progress.duration(float(seconds)) == words


def test_nothing_is_printed_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    progress.announce("a line")
    assert list(progress.bar(range(3), total=3, unit="block", label="x")) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_show_shows_each_line_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress.show()
    progress.show()
    progress.announce("a line")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("a line") == 1


def test_a_bar_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.bar(range(3), total=3, unit="block", label="sweeping", show_bar=True)) == [0, 1, 2]
    assert "sweeping" in capsys.readouterr().err


def test_the_log_is_the_librarys_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        progress.announce("a line")
    assert [record.name for record in caplog.records] == ["ablationlens"]
