"""Writing a model directory."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from ablationlens.zoo.saving import save_card, save_tokenizer


def test_a_tokenizer_survives_the_way_to_disk(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')  # which has a tokenizer class of its own
    save_tokenizer(tokenizer, tmp_path, special="<s>", context=16)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("b a a")["input_ids"] == [2, 1, 1]
    assert (loaded.bos_token, loaded.pad_token_id, loaded.model_max_length) == ("<s>", 0, 16)


def test_the_card_is_written_for_programs_and_for_people(tmp_path: Path) -> None:
    table = "| a | b |\n|---|---|\n| 1 | 2 |"
    save_card({"loss": 1.5}, f"# Title\n\none\ntwo\n\n{table}\n\nthe end\n", tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == {"loss": 1.5}
    assert (tmp_path / "README.md").read_text() == f"# Title\n\none two\n\n{table}\n\nthe end\n"
