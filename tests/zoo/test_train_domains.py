"""The script that trains `domains`, on a model and texts of a few kilobytes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ablationlens.zoo import corpus
from ablationlens.zoo.train_domains import END_OF_TEXT, Recipe, main, train

TINY = Recipe(layers=1, width=16, heads=2, context=64, vocabulary=300, steps=2, rows_per_domain=2, length=16)
WORDS = ["tensor", "kernel", "matrix", "return", "include", "license", "number", "yellow", "seven", "under"]
FILES = {
    "python": ("stdlib/a.py", "stdlib/b.py"),
    "cpp": ("torch/include/a.h", "torch/include/b.h"),
    "maths": ("sympy/a.py", "sympy/b.py"),
    "prose": ("dist-info/tqdm/LICENCE", "dist-info/tqdm/METADATA"),
    "data": ("sklearn/a.csv", "sklearn/b.csv"),
}


def fake_split(domain: str) -> tuple[dict[str, str], dict[str, str]]:
    draw = random.Random(domain)
    training, held_out = FILES[domain]
    return (
        {training: " ".join(draw.choices(WORDS, k=600))},
        {held_out: " ".join(draw.choices(WORDS, k=400))},
    )


@pytest.fixture
def tiny_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "split", fake_split)


@pytest.mark.usefixtures("tiny_texts")
def test_a_run_writes_a_directory_that_loads_and_a_card_that_fits_it(tmp_path: Path) -> None:
    card = train(TINY, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert card["architecture"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.pad_token == END_OF_TEXT
    assert tokenizer.decode(tokenizer("tensor kernel,\n\tcafé")["input_ids"]) == "tensor kernel,\n\tcafé"
    assert card["training"]["tokens_seen"] == 2 * 2 * 5 * 16
    assert card["data"]["cpp"]["held_out_files"] == ["torch/include/b.h"]
    assert set(card["held_out_loss"]) == set(corpus.DOMAINS)
    assert {"python", "torch", "tqdm", "scikit-learn", "sympy"} <= card["versions"].keys()
    readme = (tmp_path / "README.md").read_text()
    assert f"{card['held_out_loss']['maths']['model']:.2f}" in readme
    assert "torch/include/b.h" in readme


@pytest.mark.usefixtures("tiny_texts")
def test_the_same_recipe_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(TINY, tmp_path / name)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


@pytest.mark.usefixtures("tiny_texts")
def test_training_sees_no_held_out_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []

    def tokenize(files: dict[str, str], tokenizer: object) -> np.ndarray:
        seen.extend(files)
        return np.arange(1, 200, dtype=np.int64)

    monkeypatch.setattr("ablationlens.zoo.train_domains.tokenize", tokenize)
    train(TINY, tmp_path)
    assert sorted(seen) == sorted(training for training, _ in FILES.values())


def test_the_command_line_needs_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err
