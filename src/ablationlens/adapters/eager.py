"""Attention that forms its patterns, for the duration of a call."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

SETTING = "_attn_implementation_internal"
"""Where a Hugging Face configuration keeps how its attention runs; set alone, it changes no sub-configuration."""


@contextmanager
def eager(model: nn.Module) -> Generator[None]:
    """Run attention as "eager", where transformers can switch it; how each part ran before comes back.

    "sdpa" and "flash_attention_2" never form a pattern. Logits differ between them by rounding. Families that chose
    their attention when they were built cannot be switched, and stay as they are.
    """
    before = [(config, getattr(config, SETTING)) for config in _switchable(model)]
    try:
        for config, running in before:
            if running != "eager":
                setattr(config, SETTING, "eager")
        yield
    finally:
        for config, running in before:
            if getattr(config, SETTING) != running:
                setattr(config, SETTING, running)


def _switchable(model: nn.Module) -> list[Any]:
    """The configurations of all parts of a model whose attention can be switched, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        can_switch = getattr(module, "_can_set_attn_implementation", None)
        if callable(can_switch) and can_switch():
            found.update((id(config), config) for config in _with_parts(getattr(module, "config", None)))
    return list(found.values())


def _with_parts(config: Any) -> Iterator[Any]:
    if not hasattr(config, SETTING):
        return
    yield config
    for name in getattr(config, "sub_configs", ()):
        yield from _with_parts(getattr(config, name, None))
