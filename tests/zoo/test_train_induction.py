"""The script that trains `induction`, for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ablationlens.zoo.train_induction import MEASURED_LENGTHS, Recipe, build_model, describe_heads, fit, main, train

TINY = Recipe(width=32, heads=4, key_value_heads=2, mlp=32, steps=2, rows=4)


def test_a_run_writes_a_directory_that_loads_and_a_card_that_fits_it(tmp_path: Path) -> None:
    card = train(TINY, tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == card
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert card["architecture"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert [int(length) for length in card["copy_accuracy"]] == list(MEASURED_LENGTHS)
    assert len(card["heads"]) == TINY.layers * TINY.heads
    assert "| L1.head 3 |" in (tmp_path / "README.md").read_text()


def test_the_same_seed_trains_the_same_model() -> None:
    states: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        torch.manual_seed(TINY.seed)
        model = build_model(TINY)
        fit(model, TINY)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_describing_heads_leaves_the_model_as_it_was() -> None:
    model = build_model(TINY).eval()
    ids = torch.arange(1, 21)[None]
    before = model(ids).logits
    describe_heads(model, TINY)
    assert torch.equal(model(ids).logits, before)


def test_the_command_line_needs_a_directory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err
