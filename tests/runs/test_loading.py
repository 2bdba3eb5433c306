"""Models that are refused: pickled, incomplete, damaged, out of reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.tiny_runs import Refused

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]


def test_models_that_are_refused(refused: Refused, tiny_directory: Path, tmp_path: Path) -> None:
    pickled, bare, damaged = tmp_path / "pickled", tmp_path / "bare", tmp_path / "damaged"
    for folder in (pickled, bare, damaged):
        folder.mkdir()
        (folder / "config.json").write_text((tiny_directory / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (damaged / "model.safetensors").write_bytes((tiny_directory / "model.safetensors").read_bytes()[:500])
    line = refused("components", pickled)
    assert "holds pickled weights only (pytorch_model.bin), which are never loaded" in line
    assert "holds no weights" in refused("components", bare)
    assert "cannot be loaded" in refused("components", damaged)
    assert "no Hugging Face model: it has no config.json" in refused("components", tmp_path)


def test_a_hub_that_cannot_be_reached(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    line = refused("components", "nobody/nothing")
    assert (
        "no bundled model (domains, induction), no directory" in line and "hub cannot be reached (no network)" in line
    )
