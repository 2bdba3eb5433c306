"""The script of the bundled decomposition: what it writes loads again, and its card has measured it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ablationlens as al
from ablationlens.spd.decompose_induction import Recipe, decompose, main


def test_a_short_training_writes_a_decomposition_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablationlens.spd.decompose_induction.MEASURED", 4)
    main(["--out", str(tmp_path / "made"), "--steps", "2", "--seed", "3"])
    card = json.loads((tmp_path / "made" / "card.json").read_text())
    made = al.spd.load(tmp_path / "made" / "decomposition.safetensors", al.adapt(al.zoo.load("induction").model))
    assert card["recipe"]["steps"] == made.provenance["recipe"]["steps"] == 2
    assert card["recipe"]["seed"] == made.provenance["recipe"]["seed"] == 3
    assert len(card["modules"]) == len(made.places) == 8
    assert card["copy_accuracy"]["target"] > 0.95 > card["copy_accuracy"]["adversarial"]
    readme = (tmp_path / "made" / "README.md").read_text()
    assert "| L1.attn.o | 128 |" in readme
    assert f"{card['copy_accuracy']['target']:.1%}" in readme


def test_the_gap_of_a_module_is_what_its_remainder_is_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablationlens.spd.decompose_induction.MEASURED", 2)
    few = decompose(Recipe(components=2, steps=1, hidden=4), tmp_path)
    assert min(module["remainder"] for module in few["modules"]) > 0.2
    assert max(module["gap"] for module in few["modules"]) > 0.5
