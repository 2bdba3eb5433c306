"""What the configuration of a Hugging Face model says: of its text part, its positions, the size of its heads."""

from __future__ import annotations

from typing import Any

from torch import nn


def config_of(model: nn.Module) -> Any:
    """The Hugging Face configuration of a model, that of its text where it also takes images; None if it has none."""
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", None)
    return text() if callable(text) else config


def positions_of(model: nn.Module) -> int | None:
    """Tokens that a Hugging Face model takes at most; None if it does not say, or takes any number."""
    config = config_of(model)
    sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    most = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    return None if most is None else most - first_position(model)


def first_position(model: nn.Module) -> int:
    """The position of a text's first token: 0, or the number after that of padding, as in RoBERTa and its relatives.

    They are told by their position embedding, which has an entry for padding.
    """
    for path, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if padding is not None and not {"position_embeddings", "pos_embed"}.isdisjoint(path.split(".")):
            return int(padding) + 1
    return 0


def head_size(config: Any) -> int | None:
    """d_head of a Hugging Face configuration; None if it does not say."""
    for name in ("head_dim", "d_kv"):
        if isinstance(size := getattr(config, name, None), int):
            return size
    width, heads = getattr(config, "hidden_size", None), getattr(config, "num_attention_heads", None)
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None
