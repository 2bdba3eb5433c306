"""Tiny models of every family of the architecture table, and what their weights say.

Nothing here uses the library. Where a family keeps each logical module is written by hand from the modelling code of
transformers, with attributes and not with paths, and `edited` zeroes components in an untied copy of a model. A fused
matrix is split by the very lines that the modelling code splits its activation with, applied to the row numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import scramble, untied

VOCAB, WIDTH, HIDDEN, LAYERS, HEADS, GROUPS = 40, 16, 24, 2, 4, 2
"""Tokens, d_model, MLP features, layers of each stack, query heads, and key/value heads where these are grouped."""
TOKENS, DECODED, IMAGE, PATCH, CHANNELS = 6, 5, 8, 4, 3

Owner = tuple[nn.Module, Tensor | slice]
"""The module that computes a logical module, and which of its output features are the logical module's, in order."""

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Family:
    """One tiny model of a family.

    Attributes:
        name: a name for the tests.
        make: builds it, the same one at every call.
        owner: (model, layer, logical name) -> who computes it.
        modules: logical names, in canonical order.
        head: features of one head.
        groups: key/value heads.
        inputs: "tokens", "images" or "both stacks".
        attention: its attentions, each with the name under which transformers returns its patterns.
    """

    name: str
    make: Callable[[], Any]
    owner: Callable[[Any, int, str], Owner]
    modules: tuple[str, ...]
    head: int = WIDTH // HEADS
    groups: int = HEADS
    inputs: str = "tokens"
    attention: Mapping[str, str] = field(default_factory=lambda: {"attn": "attentions"})

    def batch(self, examples: int = 3, seed: int = 0) -> dict[str, Tensor]:
        """Inputs of the forward pass, by the names of its arguments."""
        generator = torch.Generator().manual_seed(seed)
        if self.inputs == "images":
            return {"pixel_values": torch.randn(examples, CHANNELS, IMAGE, IMAGE, generator=generator)}
        tokens = {"input_ids": torch.randint(1, VOCAB, (examples, TOKENS), generator=generator)}
        if self.inputs == "both stacks":
            tokens["decoder_input_ids"] = torch.randint(1, VOCAB, (examples, DECODED), generator=generator)
        return tokens

    @property
    def fused(self) -> dict[str, tuple[str, ...]]:
        """Fused modules, each with its parts."""
        every = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.gate_in": ("mlp.gate", "mlp.in")}
        return {whole: parts for whole, parts in every.items() if whole in self.modules}

    def part(self, model: Any, layer: int, name: str) -> tuple[nn.Module, Tensor]:
        """The module that computes a logical module, and the numbers of its own output features."""
        module, rows = self.owner(model, layer, name)
        every = torch.arange(matrix(module).shape[0])
        return module, every[rows]


def matrix(module: nn.Module) -> Tensor:
    """The out x in matrix of a Linear, or of GPT-2's Conv1D, as a view that can be written to."""
    weight: Any = module.weight
    return weight if isinstance(module, nn.Linear) else weight.T


def logits(output: Any) -> Tensor:
    """What a model of the table is asked for."""
    for name in ("logits", "image_embeds", "text_embeds", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    raise AssertionError(f"no logits in {type(output).__name__}")


@torch.no_grad()
def run(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Plain forward pass, without any of our code."""
    return logits(model(**inputs))


@torch.no_grad()
def edited(family: Family, model: Any, components: Iterable[Any], *, include_bias: bool = False) -> Any:
    """An untied copy of `model` in which the weights of these components are zero.

    Rows keep their bias unless `include_bias`.
    """
    own = untied(model)
    for component in components:
        site, index = component.site, component.index
        prefix = site.module.rpartition(".")[0] + "." if "." in site.module else ""
        match site.kind:
            case "head":
                module, _ = family.part(own, site.layer, f"{site.module}.o")
                matrix(module)[:, index * family.head : (index + 1) * family.head] = 0
            case "neuron":
                module, _ = family.part(own, site.layer, f"{prefix}mlp.out")
                matrix(module)[:, index] = 0
            case "column":
                module, rows = family.part(own, site.layer, site.module)
                matrix(module)[rows, index] = 0
            case _:
                module, rows = family.part(own, site.layer, site.module)
                size = {"row": 1, "row_block": site.basis.block, "matrix": len(rows)}[site.kind]
                chosen = rows[index * size : (index + 1) * size]
                matrix(module)[chosen] = 0
                bias = getattr(module, "bias", None)
                if include_bias and bias is not None:
                    bias[chosen] = 0
    return own


# -- how each family is built -----------------------------------------------------------------------------------------

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": GROUPS}
_VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "num_channels": CHANNELS,
}


def build(model: str, config: str, **options: Any) -> Any:
    """A scrambled model of transformers; activations and initialisations are as the family has them."""
    import transformers

    return scramble(getattr(transformers, model)(getattr(transformers, config)(**options)))


def _seq2seq(projection: str, family: str = "T5") -> Any:
    return build(
        f"{family}ForConditionalGeneration",
        f"{family}Config",
        vocab_size=VOCAB,
        d_model=WIDTH,
        d_kv=6,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS + 1,
        num_heads=HEADS,
        feed_forward_proj=projection,
        decoder_start_token_id=0,
    )


# -- where each family keeps what, read from its modelling code -------------------------------------------------------

_SEPARATE = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")
_GATED = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate", "mlp.in", "mlp.out")
_FUSED = ("attn.qkv", *_SEPARATE)


def _whole(modules: dict[str, nn.Module], name: str) -> Owner:
    return modules[name], ALL


def _gpt2(model: Any, layer: int, name: str) -> Owner:
    block = model.transformer.h[layer]
    if name in ("attn.q", "attn.k", "attn.v"):  # query, key, value = c_attn(x).split(self.split_size, dim=2)
        split = torch.arange(3 * WIDTH).split(WIDTH)
        return block.attn.c_attn, dict(zip(("attn.q", "attn.k", "attn.v"), split, strict=True))[name]
    modules = {"attn.qkv": block.attn.c_attn, "attn.o": block.attn.c_proj}
    return _whole({**modules, "mlp.in": block.mlp.c_fc, "mlp.out": block.mlp.c_proj}, name)


def _gpt_neox(model: Any, layer: int, name: str) -> Owner:
    block = model.gpt_neox.layers[layer]
    attention = block.attention
    if name in ("attn.q", "attn.k", "attn.v"):  # qkv.view(*, -1, 3 * head_size).transpose(1, 2).chunk(3, dim=-1)
        split = torch.arange(3 * WIDTH).view(-1, 3 * attention.head_size).chunk(3, dim=-1)
        rows = dict(zip(("attn.q", "attn.k", "attn.v"), split, strict=True))[name]
        return attention.query_key_value, rows.flatten()
    modules = {"attn.qkv": attention.query_key_value, "attn.o": attention.dense}
    return _whole({**modules, "mlp.in": block.mlp.dense_h_to_4h, "mlp.out": block.mlp.dense_4h_to_h}, name)


def _bloom(model: Any, layer: int, name: str) -> Owner:
    return _falcon_old(model.transformer.h[layer], name)


def _falcon_old(block: Any, name: str) -> Owner:
    attention = block.self_attention
    if name in ("attn.q", "attn.k", "attn.v"):  # fused_qkv.view(batch, length, num_heads, 3, head_dim)
        by_head = torch.arange(3 * WIDTH).view(attention.num_heads, 3, attention.head_dim)
        return attention.query_key_value, by_head[:, ("attn.q", "attn.k", "attn.v").index(name)].flatten()
    modules = {"attn.qkv": attention.query_key_value, "attn.o": attention.dense}
    return _whole({**modules, "mlp.in": block.mlp.dense_h_to_4h, "mlp.out": block.mlp.dense_4h_to_h}, name)


def _falcon(model: Any, layer: int, name: str) -> Owner:
    block = model.transformer.h[layer]
    attention = block.self_attention
    if name in ("attn.q", "attn.k", "attn.v"):  # the model's own way of splitting, asked with the numbers of the rows
        numbers = torch.arange(attention.query_key_value.out_features)[None, None]
        split = attention._split_heads(numbers)[("attn.q", "attn.k", "attn.v").index(name)]
        rows = list(dict.fromkeys(split.flatten().tolist()))  # shared keys and values are repeated for each query head
        return attention.query_key_value, torch.tensor(rows)
    modules = {"attn.qkv": attention.query_key_value, "attn.o": attention.dense}
    return _whole({**modules, "mlp.in": block.mlp.dense_h_to_4h, "mlp.out": block.mlp.dense_4h_to_h}, name)


def _like_llama(block: Any, name: str) -> Owner:
    attention, mlp = block.self_attn, block.mlp
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    modules = {**modules, "attn.o": attention.o_proj, "mlp.out": mlp.down_proj}
    return _whole({**modules, "mlp.gate": mlp.gate_proj, "mlp.in": mlp.up_proj}, name)  # act(gate(x)) * up(x)


def _llama(model: Any, layer: int, name: str) -> Owner:
    return _like_llama(model.model.layers[layer], name)


def _gemma3_with_images(model: Any, layer: int, name: str) -> Owner:
    return _like_llama(model.model.language_model.layers[layer], name)


def _phi(model: Any, layer: int, name: str) -> Owner:
    block = model.model.layers[layer]
    attention = block.self_attn
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    return _whole({**modules, "attn.o": attention.dense, "mlp.in": block.mlp.fc1, "mlp.out": block.mlp.fc2}, name)


def _phi3(model: Any, layer: int, name: str) -> Owner:
    block = model.model.layers[layer]
    attention, mlp = block.self_attn, block.mlp
    if name in ("attn.q", "attn.k", "attn.v"):
        rows = torch.arange(attention.qkv_proj.out_features)
        queries = HEADS * attention.head_dim
        keys = attention.num_key_value_heads * attention.head_dim
        split = (rows[:queries], rows[queries : queries + keys], rows[queries + keys :])
        return attention.qkv_proj, split[("attn.q", "attn.k", "attn.v").index(name)]
    if name in ("mlp.gate", "mlp.in"):  # gate, up_states = gate_up_proj(x).chunk(2, dim=-1)
        gate, up = torch.arange(2 * HIDDEN).chunk(2)
        return mlp.gate_up_proj, gate if name == "mlp.gate" else up
    modules = {"attn.qkv": attention.qkv_proj, "attn.o": attention.o_proj}
    return _whole({**modules, "mlp.gate_in": mlp.gate_up_proj, "mlp.out": mlp.down_proj}, name)


def _opt(model: Any, layer: int, name: str) -> Owner:
    block = model.model.decoder.layers[layer]
    attention = block.self_attn
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    return _whole({**modules, "attn.o": attention.out_proj, "mlp.in": block.fc1, "mlp.out": block.fc2}, name)


def _gptj(model: Any, layer: int, name: str) -> Owner:
    block = model.transformer.h[layer]
    attention = block.attn
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    return _whole(
        {**modules, "attn.o": attention.out_proj, "mlp.in": block.mlp.fc_in, "mlp.out": block.mlp.fc_out}, name
    )


def _bert(model: Any, layer: int, name: str) -> Owner:
    block = model.base_model.encoder.layer[layer]
    attention = block.attention.self
    modules = {"attn.q": attention.query, "attn.k": attention.key, "attn.v": attention.value}
    modules = {**modules, "attn.o": block.attention.output.dense}
    return _whole({**modules, "mlp.in": block.intermediate.dense, "mlp.out": block.output.dense}, name)


def _distilbert(model: Any, layer: int, name: str) -> Owner:
    block = model.distilbert.transformer.layer[layer]
    attention = block.attention
    modules = {"attn.q": attention.q_lin, "attn.k": attention.k_lin, "attn.v": attention.v_lin}
    return _whole({**modules, "attn.o": attention.out_lin, "mlp.in": block.ffn.lin1, "mlp.out": block.ffn.lin2}, name)


def _vit(model: Any, layer: int, name: str) -> Owner:
    return _like_vit(model.vit.layers[layer], name)


def _deit(model: Any, layer: int, name: str) -> Owner:
    return _like_vit(model.deit.layers[layer], name)


def _like_vit(block: Any, name: str) -> Owner:
    attention = block.attention
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    return _whole({**modules, "attn.o": attention.o_proj, "mlp.in": block.mlp.fc1, "mlp.out": block.mlp.fc2}, name)


def _clip(model: Any, layer: int, name: str) -> Owner:
    return _like_clip(model.vision_model.encoder.layers[layer], name)


def _clip_text(model: Any, layer: int, name: str) -> Owner:
    return _like_clip(model.text_model.encoder.layers[layer], name)


def _siglip(model: Any, layer: int, name: str) -> Owner:
    return _like_clip(model.encoder.layers[layer], name)


def _like_clip(block: Any, name: str) -> Owner:
    attention = block.self_attn
    modules = {"attn.q": attention.q_proj, "attn.k": attention.k_proj, "attn.v": attention.v_proj}
    return _whole({**modules, "attn.o": attention.out_proj, "mlp.in": block.mlp.fc1, "mlp.out": block.mlp.fc2}, name)


def _t5(model: Any, layer: int, name: str) -> Owner:
    stack, _, rest = name.partition(".")
    block = getattr(model, stack).block[layer]
    where, _, part = rest.partition(".")
    if where == "mlp":
        mlp = block.layer[-1].DenseReluDense
        entering = {"gate": mlp.wi_0, "in": mlp.wi_1} if hasattr(mlp, "wi_0") else {"in": mlp.wi}  # act(wi_0) * wi_1
        return _whole({**entering, "out": mlp.wo}, part)
    attention = block.layer[0].SelfAttention if where == "attn" else block.layer[1].EncDecAttention
    return _whole({"q": attention.q, "k": attention.k, "v": attention.v, "o": attention.o}, part)


def _both_stacks(entering: tuple[str, ...]) -> tuple[str, ...]:
    attention = [f"{where}.{part}" for where in ("encoder.attn", "decoder.attn", "decoder.cross") for part in "qkvo"]
    encoder = [*attention[:4], *(f"encoder.mlp.{part}" for part in (*entering, "out"))]
    return (*encoder, *attention[4:], *(f"decoder.mlp.{part}" for part in (*entering, "out")))


_T5_PATTERNS = {
    "encoder.attn": "encoder_attentions",
    "decoder.attn": "decoder_attentions",
    "decoder.cross": "cross_attentions",
}

_FAMILIES = (
    Family(
        "gpt2",
        lambda: build(
            "GPT2LMHeadModel",
            "GPT2Config",
            **{**_SIZES, "n_embd": WIDTH, "n_inner": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32},
        ),
        _gpt2,
        _FUSED,
    ),
    Family("gpt_neox", lambda: build("GPTNeoXForCausalLM", "GPTNeoXConfig", **_SIZES), _gpt_neox, _FUSED),
    Family(
        "llama",
        lambda: build("LlamaForCausalLM", "LlamaConfig", **_GROUPED, attention_bias=True, mlp_bias=True),
        _llama,
        _GATED,
        groups=GROUPS,
    ),
    Family("mistral", lambda: build("MistralForCausalLM", "MistralConfig", **_GROUPED), _llama, _GATED, groups=GROUPS),
    Family("qwen2", lambda: build("Qwen2ForCausalLM", "Qwen2Config", **_GROUPED), _llama, _GATED, groups=GROUPS),
    Family(
        "qwen3",
        lambda: build("Qwen3ForCausalLM", "Qwen3Config", **_GROUPED, head_dim=6),
        _llama,
        _GATED,
        head=6,
        groups=GROUPS,
    ),
    Family(
        "gemma2",
        lambda: build("Gemma2ForCausalLM", "Gemma2Config", **_GROUPED, head_dim=6, sliding_window=4),
        _llama,
        _GATED,
        head=6,
        groups=GROUPS,
    ),
    Family(
        "gemma3",
        lambda: build(
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            **_GROUPED,
            head_dim=6,
            sliding_window=4,
            layer_types=["sliding_attention", "full_attention"],
        ),
        _llama,
        _GATED,
        head=6,
        groups=GROUPS,
    ),
    Family(
        "gemma3_with_images",
        lambda: build(
            "Gemma3ForConditionalGeneration",
            "Gemma3Config",
            text_config={**_GROUPED, "head_dim": 6},
            vision_config=_VISION,
            mm_tokens_per_image=4,
            image_token_index=VOCAB - 1,
        ),
        _gemma3_with_images,
        _GATED,
        head=6,
        groups=GROUPS,
    ),
    Family("phi", lambda: build("PhiForCausalLM", "PhiConfig", **_GROUPED), _phi, _SEPARATE, groups=GROUPS),
    Family(
        "phi3",
        lambda: build("Phi3ForCausalLM", "Phi3Config", **_GROUPED),
        _phi3,
        ("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.gate_in", "mlp.gate", "mlp.in", "mlp.out"),
        groups=GROUPS,
    ),
    Family(
        "opt",
        lambda: build("OPTForCausalLM", "OPTConfig", **_SIZES, ffn_dim=HIDDEN, word_embed_proj_dim=8),
        _opt,
        _SEPARATE,
    ),
    Family(
        "falcon",  # the 7b: all query heads share one key and one value
        lambda: build(
            "FalconForCausalLM", "FalconConfig", **_SIZES, ffn_hidden_size=HIDDEN, multi_query=True, bias=True
        ),
        _falcon,
        _FUSED,
        groups=1,
    ),
    Family(
        "falcon_new",  # the 40b and later ones: groups of query heads
        lambda: build(
            "FalconForCausalLM",
            "FalconConfig",
            **_SIZES,
            ffn_hidden_size=HIDDEN,
            new_decoder_architecture=True,
            num_kv_heads=GROUPS,
        ),
        _falcon,
        _FUSED,
        groups=GROUPS,
    ),
    Family(
        "falcon_old",  # falcon-rw: a key and a value for each head, and positions by ALiBi
        lambda: build(
            "FalconForCausalLM",
            "FalconConfig",
            **_SIZES,
            ffn_hidden_size=HIDDEN,
            multi_query=False,
            alibi=True,
            parallel_attn=False,
            bias=True,
        ),
        _falcon,
        _FUSED,
    ),
    Family(
        "gptj",
        lambda: build(
            "GPTJForCausalLM",
            "GPTJConfig",
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_inner=HIDDEN,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=32,
            rotary_dim=4,
        ),
        _gptj,
        _SEPARATE,
    ),
    Family("bert", lambda: build("BertForMaskedLM", "BertConfig", **_SIZES), _bert, _SEPARATE),
    Family(
        "roberta",  # the position of its first token is the number after that of the padding token
        lambda: build("RobertaForMaskedLM", "RobertaConfig", **{**_SIZES, "pad_token_id": 1}),
        _bert,
        _SEPARATE,
    ),
    Family(
        "electra", lambda: build("ElectraForMaskedLM", "ElectraConfig", **_SIZES, embedding_size=8), _bert, _SEPARATE
    ),
    Family(
        "distilbert",
        lambda: build(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            vocab_size=VOCAB,
            dim=WIDTH,
            hidden_dim=HIDDEN,
            n_layers=LAYERS,
            n_heads=HEADS,
            max_position_embeddings=32,
        ),
        _distilbert,
        _SEPARATE,
    ),
    Family(
        "vit",
        lambda: build("ViTForImageClassification", "ViTConfig", **_VISION, num_labels=5),
        _vit,
        _SEPARATE,
        inputs="images",
    ),
    Family(
        "clip_vision",
        lambda: build("CLIPVisionModelWithProjection", "CLIPVisionConfig", **_VISION, projection_dim=7),
        _clip,
        _SEPARATE,
        inputs="images",
    ),
    Family(
        "t5",
        lambda: _seq2seq("relu"),
        _t5,
        _both_stacks(("in",)),
        head=6,
        inputs="both stacks",
        attention=_T5_PATTERNS,
    ),
    Family(
        "t5_gated",  # T5 v1.1 and Flan-T5
        lambda: _seq2seq("gated-gelu"),
        _t5,
        _both_stacks(("gate", "in")),
        head=6,
        inputs="both stacks",
        attention=_T5_PATTERNS,
    ),
)
FAMILIES = {family.name: family for family in _FAMILIES}
"""The families of the table; each is tested in every host that can hold it."""


def _like_family(name: str, like: str, make: Callable[[], Any], **changes: Any) -> Family:
    return replace(FAMILIES[like], name=name, make=make, **changes)


def _text_model(model: str, **options: Any) -> Callable[[], Any]:
    return lambda: build(f"{model}ForCausalLM", f"{model}Config", **{**_GROUPED, **options})


_SIBLINGS = (
    *(
        _like_family(model.lower(), "llama", _text_model(model))
        for model in ("Olmo", "Olmo2", "Granite", "SmolLM3", "StableLm", "Cohere")
    ),
    _like_family("gemma", "llama", _text_model("Gemma", head_dim=6), head=6),
    _like_family(
        "llava",
        "llama",
        lambda: build(
            "LlavaForConditionalGeneration",
            "LlavaConfig",
            text_config={**_GROUPED, "model_type": "llama"},
            vision_config={**_VISION, "model_type": "clip_vision_model"},
            image_token_index=VOCAB - 1,
        ),
        owner=_gemma3_with_images,
    ),
    _like_family(
        "bloom",
        "falcon_old",
        lambda: build(
            "BloomForCausalLM", "BloomConfig", vocab_size=VOCAB, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS
        ),
        owner=_bloom,
    ),
    _like_family("xlm-roberta", "bert", lambda: build("XLMRobertaForMaskedLM", "XLMRobertaConfig", **_SIZES)),
    _like_family("camembert", "bert", lambda: build("CamembertForMaskedLM", "CamembertConfig", **_SIZES)),
    _like_family("deit", "vit", lambda: build("DeiTForImageClassification", "DeiTConfig", **_VISION), owner=_deit),
    _like_family("siglip", "vit", lambda: build("SiglipVisionModel", "SiglipVisionConfig", **_VISION), owner=_siglip),
    _like_family(
        "clip_text",
        "bert",
        lambda: build("CLIPTextModelWithProjection", "CLIPTextConfig", **_SIZES, projection_dim=7),
        owner=_clip_text,
    ),
    _like_family("mt5", "t5_gated", lambda: _seq2seq("gated-gelu", "MT5")),
    _like_family("umt5", "t5_gated", lambda: _seq2seq("gated-gelu", "UMT5")),
)
SIBLINGS = {family.name: family for family in _SIBLINGS}
"""Other model types that keep their modules where a family of the table does."""


@cache
def model_of(name: str) -> Any:
    """The tiny model of a family or sibling, built once; tests that change it take `FAMILIES[name].make()`."""
    return {**FAMILIES, **SIBLINGS}[name].make()
