"""Write a trained model as the directory that the package ships: weights, tokenizer, card."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, out: Path) -> None:
    """Write the configuration and the weights (safetensors)."""
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # it is written readable by its owner alone


def save_tokenizer(tokenizer: Tokenizer, out: Path, *, special: str, context: int) -> None:
    """Write a tokenizer as `transformers` reads it, with one special token for every purpose."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special,
        eos_token=special,
        pad_token=special,
        unk_token=special,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)
    # the name by which every version of transformers knows the class
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def save_card(card: dict[str, Any], readme: str, out: Path) -> None:
    """Write the card twice: for programs and for people."""
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text("\n\n".join(map(_rewrap, readme.split("\n\n"))), encoding="utf-8")


def _rewrap(block: str) -> str:
    """Break the lines of a paragraph anew, for the numbers filled in have moved its margin."""
    is_paragraph = block[:1].isalnum()
    return textwrap.fill(" ".join(block.split()), 120) + "\n" * block.endswith("\n") if is_paragraph else block
