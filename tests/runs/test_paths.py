"""Paths in a configuration: relative to its folder, and absolute once it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablationlens.runs import config_file
from ablationlens.runs.paths import anchored
from tests.runs.test_config import FULL, SHORT


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "c.yaml").write_text(FULL.replace("induction", "weights"))
    config = config_file.load(tmp_path / "c.yaml")
    assert config.model.name == str(tmp_path / "weights")
    assert config.data.file == str(tmp_path / "texts.jsonl")
    assert config.ablation.resample is not None and config.ablation.resample.data is not None
    assert config.ablation.resample.data.file == str(tmp_path / "others.txt")
    elsewhere = tmp_path / "sub"
    elsewhere.mkdir()
    (elsewhere / "c.yaml").write_text(config.to_yaml())
    assert config_file.load(elsewhere / "c.yaml") == config
    assert config_file.parse(SHORT.replace("domains", "org/name"), "c", (), tmp_path).model.name == "org/name"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": "domains"}, {"model": "domains"}),
        ({"model": "org/name"}, {"model": "org/name"}),
        ({"model": "./a"}, {"model": "{here}/a"}),
        ({"model": {"name": "../a", "host": "torch"}}, {"model": {"name": "{above}/a", "host": "torch"}}),
        ({"data": {"file": ["a.txt", "/b.txt"]}}, {"data": {"file": ["{here}/a.txt", "/b.txt"]}}),
        ({"ablation": {"mean": {"data": {"file": "a"}}}}, {"ablation": {"mean": {"data": {"file": "{here}/a"}}}}),
        ({"data": {"file": {"1": "a.txt"}}}, {"data": {"file": {"1": "{here}/a.txt"}}}),
    ],
)
def test_what_is_a_path(content: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [placed(item) for item in value]
        return value.replace("{here}", str(tmp_path)).replace("{above}", str(tmp_path.parent))

    assert anchored(content, tmp_path) == placed(expected)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": 3},
        {"model": {"name": 3}},
        {"data": "x"},
        {"data": None},
        {"data": {"file": 3}},
        {"ablation": "mean"},
        {"ablation": {"mean": None, "zero": {"data": 3}}},
    ],
)
def test_what_has_another_form_is_left_to_the_checks(content: dict[str, Any], tmp_path: Path) -> None:
    assert anchored(content, tmp_path) == content
