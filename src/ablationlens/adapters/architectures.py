"""Where each logical module lives in the model families that we know: one table.

A model outside the table is still adapted, by the paths of its modules, without heads or neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Architecture:
    """One family of Hugging Face models.

    Attributes:
        model_types: values of `config.model_type`.
        layers: paths at which the list of layers may stand, the language model's first.
        modules: logical name -> path within a layer.
        fused: logical name of a fused module -> its projections, in the order of its rows.
    """

    model_types: tuple[str, ...]
    layers: tuple[str, ...]
    modules: Mapping[str, str]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        model_types=("gpt2",),
        layers=("transformer.h", "h"),
        modules={
            "attn.qkv": "attn.c_attn",
            "attn.o": "attn.c_proj",
            "mlp.in": "mlp.c_fc",
            "mlp.out": "mlp.c_proj",
        },
        fused={"attn.qkv": ("attn.q", "attn.k", "attn.v")},
    ),
    Architecture(
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        layers=("model.layers", "layers"),
        modules={
            "attn.q": "self_attn.q_proj",
            "attn.k": "self_attn.k_proj",
            "attn.v": "self_attn.v_proj",
            "attn.o": "self_attn.o_proj",
            "mlp.gate": "mlp.gate_proj",
            "mlp.in": "mlp.up_proj",
            "mlp.out": "mlp.down_proj",
        },
    ),
)


def architecture_of(model: nn.Module) -> Architecture | None:
    """The family of a Hugging Face model, or None for a model outside the table."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    return next((family for family in ARCHITECTURES if model_type in family.model_types), None)


def layer_list(model: nn.Module, family: Architecture) -> tuple[str, nn.ModuleList] | None:
    """Path and module of the family's list of layers in this model, or None if it has none."""
    modules = dict(model.named_modules())
    for path in family.layers:
        layers = modules.get(path)
        if isinstance(layers, nn.ModuleList):
            return path, layers
    return None
