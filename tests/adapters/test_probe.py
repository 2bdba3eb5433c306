"""The probe: what it proposes for models outside the table, and what it leaves open."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.architectures import Architecture, architecture_of
from ablationlens.adapters.probe import advice, propose
from tests import models
from tests.adapters.test_architectures import Own
from tests.families import FAMILIES, SIBLINGS, build


@pytest.mark.parametrize("name", [*FAMILIES, *SIBLINGS])
def test_it_finds_every_family_of_the_table_by_names_and_shapes(name: str) -> None:
    model = {**FAMILIES, **SIBLINGS}[name].make()
    known = architecture_of(model)
    assert known is not None
    for config in (model.config, getattr(model.config, "text_config", None)):
        if config is not None:
            config.model_type = "unheard-of"
    assert architecture_of(model) is None
    proposed = propose(model)
    assert dict(proposed.modules) == dict(known.modules)
    assert (proposed.interleaved, proposed.head_size) == (known.interleaved, None)
    path = proposed.stacks
    assert all(set(path[stack]) <= set(paths) for stack, paths in known.stacks.items())
    adapter = al.adapt(model, architecture=proposed)
    assert adapter.layout.names == FAMILIES.get(name, SIBLINGS.get(name)).modules  # type: ignore[union-attr]


_SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
_BOTH = {
    **{"vocab_size": 40, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32},
    **{"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0},
}
OUTSIDE: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
    (
        "MptForCausalLM",
        "MptConfig",
        {"vocab_size": 40, "d_model": 16, "n_layers": 2, "n_heads": 4},
        {"attn.qkv": "attn.Wqkv", "attn.o": "attn.out_proj", "mlp.in": "ffn.up_proj", "mlp.out": "ffn.down_proj"},
    ),
    (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**_SIZES, "intermediate_size": 24, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
        {"attn.qkv": "attn.Wqkv", "attn.o": "attn.Wo", "mlp.gate_in": "mlp.Wi", "mlp.out": "mlp.Wo"},
    ),
    (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            **{"vocab_size": 40, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "intermediate_size": 24},
            "attention_types": [[["global", "local"], 1]],
        },
        {
            **{f"attn.{part}": f"attn.attention.{part}_proj" for part in "qkv"},
            **{"attn.o": "attn.attention.out_proj", "mlp.in": "mlp.c_fc", "mlp.out": "mlp.c_proj"},
        },
    ),
    (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_SIZES, "intermediate_size": 24, "num_key_value_heads": 2, "num_local_experts": 2},
        {f"attn.{part}": f"self_attn.{part}_proj" for part in "qkvo"},  # the experts are no Linear modules
    ),
    (
        "BartForConditionalGeneration",
        "BartConfig",
        _BOTH,
        {
            **{f"encoder.attn.{part}": f"self_attn.{part}_proj" for part in "qkv"},
            **{"encoder.attn.o": "self_attn.out_proj", "encoder.mlp.in": "fc1", "encoder.mlp.out": "fc2"},
            **{f"decoder.attn.{part}": f"self_attn.{part}_proj" for part in "qkv"},
            **{f"decoder.cross.{part}": f"encoder_attn.{part}_proj" for part in "qkv"},
            **{"decoder.attn.o": "self_attn.out_proj", "decoder.cross.o": "encoder_attn.out_proj"},
            **{"decoder.mlp.in": "fc1", "decoder.mlp.out": "fc2"},
        },
    ),
]


@pytest.mark.parametrize(("model", "config", "options", "modules"), OUTSIDE, ids=lambda value: str(value)[:16])
def test_it_finds_families_outside_the_table(model: str, config: str, options: Any, modules: dict[str, str]) -> None:
    own = build(model, config, **options)
    assert architecture_of(own) is None
    assert dict(propose(own).modules) == modules


def test_where_no_name_speaks_of_an_attention_nothing_is_proposed() -> None:
    with pytest.raises(al.AdapterError, match="no list of layers of Own has modules that look like an attention"):
        propose(Own())  # a matrix that is wider than what it reads could be anything


class Odd(nn.Module):
    """Attention and a gated MLP under names that nobody uses."""

    def __init__(self, heads: int | None = 3) -> None:
        super().__init__()
        self.to_queries, self.to_keys, self.to_values = nn.Linear(12, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.back = nn.Linear(12, 12)
        if heads is not None:
            self.n_heads = heads


class OddBlock(nn.Module):
    def __init__(self, heads: int | None = 3) -> None:
        super().__init__()
        self.mixing = Odd(heads)
        self.gating, self.wide, self.narrow = nn.Linear(12, 20), nn.Linear(12, 20), nn.Linear(20, 12)


class OddModel(nn.Module):
    def __init__(self, heads: int | None = 3) -> None:
        super().__init__()
        self.blocks = nn.Sequential(OddBlock(heads), OddBlock(heads))


def test_odd_names() -> None:
    expected = Architecture(
        layers="blocks",
        modules={
            **{"attn.q": "mixing.to_queries", "attn.k": "mixing.to_keys", "attn.v": "mixing.to_values"},
            **{"attn.o": "mixing.back", "mlp.gate": "gating", "mlp.in": "wide", "mlp.out": "narrow"},
        },
        head_size=4,
    )
    assert propose(OddModel()) == expected


def test_what_it_does_not_know_it_says() -> None:
    assert propose(OddModel(heads=None)).head_size is None
    assert "add head_size=..." in advice(OddModel(heads=None))
    unclear = OddModel()
    for block in unclear.blocks:
        block.gating, block.first = nn.Identity(), nn.Linear(12, 20)
    assert "mlp.gate" not in propose(unclear).modules
    assert "which one goes through the activation function" in advice(unclear)
    joined = models.gpt2()
    joined.config.model_type = "unheard-of"
    assert "interleaved=True is the other" in advice(joined)
    with pytest.raises(al.AdapterError, match="ConvNet has modules that look like an attention"):
        propose(models.convnet())


@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_a_model_outside_the_table_says_what_to_type_and_it_works(kind: str) -> None:
    model = models.llama()
    model.config.model_type = "unheard-of"
    adapter = al.adapt(model)
    assert not adapter.layout.transformer
    for ask in (lambda: adapter.registry(kind), lambda: adapter.registry("row", modules=["q"])):
        with pytest.raises(al.AblationLensError) as refused:
            ask()
        text = str(refused.value)
        assert "LlamaForCausalLM is outside the table" in text
        assert "al.adapt(model, architecture=al.Architecture(" in text
        line = text[text.index("adapter = al.adapt(") : text.index("\n    ))") + len("\n    ))")]
        names: dict[str, Any] = {"al": al, "model": model}
        exec("\n".join(part.removeprefix("    ") for part in line.splitlines()), names)
        assert names["adapter"].layout == al.adapt(models.llama()).layout
    registry = names["adapter"].registry(kind)
    masked = al.MaskedModel(names["adapter"], registry)
    tokens = models.inputs_of("llama", 2)
    expected = models.logits_of(models.edited(models.llama(), [registry[3]]), tokens)
    assert models.close(masked.logits(masked.mask(off=[registry[3]]), al.batch(tokens)), expected)


def test_a_network_that_is_no_transformer_is_told_how_to_say_that_it_is_one() -> None:
    adapter = al.adapt(models.convnet(), example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(al.InputError, match=r"go by their paths.*al\.Architecture\(layers="):
        adapter.registry("head")
