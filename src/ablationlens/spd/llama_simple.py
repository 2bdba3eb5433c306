"""The language model that goodfire-ai/spd decomposes most, its LlamaSimpleMLP, as a TransformerBridge.

Blocks of RMSNorm, attention with rotary positions (rotation of halves) and grouped keys and values, RMSNorm, and an MLP
without a gate whose activation is the tanh form of GELU; the unembedding is the embedding. Hugging Face's Arcee is the
same model with another activation, which its configuration may name, and TransformerLens has a bridge for it, so that
the bridge computes everything natively: attention patterns, heads and weights are the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ablationlens.data.checks import is_integer, is_number
from ablationlens.errors import InputError, StoreError
from ablationlens.files import as_path
from ablationlens.spd.run_files import latest_checkpoint, read_state, read_yaml
from ablationlens.spd.run_state import TARGET, sorted_state

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MODEL_CONFIG = "model_config.yaml"
CLASS = "LlamaSimpleMLP"
LAYER = re.compile(r"h\.(\d+)\.(.+)")
NAMES = {
    "rms_1": "input_layernorm",
    "rms_2": "post_attention_layernorm",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.o_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.down_proj": "mlp.down_proj",
}
"""Modules of a block -> what Arcee calls them."""


class Shape(NamedTuple):
    """What makes a LlamaSimpleMLP: its settings, under the names of its configuration.

    Attributes:
        context: positions that it takes at most.
        grouped: whether q, k and v are matrices of their own, k and v perhaps with fewer heads; else one, `c_attn`.
    """

    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    n_intermediate: int
    n_key_value_heads: int
    context: int
    grouped: bool
    attn_bias: bool
    mlp_bias: bool
    rotary_base: float
    rms_norm_eps: float


def load_target(
    path: str | PathLike[str], *, config: Mapping[str, Any] | str | PathLike[str] | None = None
) -> TransformerBridge:
    """The LlamaSimpleMLP that a run of goodfire-ai/spd decomposed, as a new TransformerBridge.

    Its logits are the model's own to rounding, and its modules have the logical names ``attn.q``, ``attn.k``,
    ``attn.v``, ``attn.o``, ``mlp.in`` and ``mlp.out``, so that ``al.spd.load(path, al.adapt(bridge))`` fits it. No
    forward passes; it holds one copy of the weights, in the checkpoint's own dtype.

    Args:
        path: the folder or checkpoint of a run, which holds its target; or of the run that trained the model itself
            (``model_step_<n>.pt``).
        config: the model's settings, ``model_config.yaml`` of the run that trained it, or a mapping of the same: the
            number of heads and the like are in no checkpoint. By default that file is looked for beside the checkpoint
            and in the folder above.

    Returns:
        The bridge, in eval mode on the CPU.

    Raises:
        StoreError: if a file is missing or damaged, a key is missing or one too many, or the settings contradict the
            weights.
        InputError: for another model than this, or rotary positions in adjacent pairs, which the bridge has not.
    """
    file = latest_checkpoint(as_path(path, "model_500.pth"))
    given = _config(file, config)
    raw = read_state(file)
    try:
        whole = any(key.startswith((TARGET, "patched_model.")) for key in raw)
        target = sorted_state(raw).target if whole else raw
        shape = _shape(given, target)
        weights = _renamed(target, shape)
    except StoreError as error:
        raise StoreError(f"{file}: {error}") from error
    return _bridge(shape, weights)


def _config(file: Path, config: Mapping[str, Any] | str | PathLike[str] | None) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return dict(config)
    if config is not None:
        return read_yaml(as_path(config, MODEL_CONFIG))
    near = [folder / MODEL_CONFIG for folder in (file.parent, file.parent.parent)]
    found = next((own for own in near if own.is_file()), None)
    if found is None:
        raise StoreError(
            f"there is no {MODEL_CONFIG} beside {file} or in the folder above; the run that trained the target has it: "
            f"al.spd.load_target(path, config='.../{MODEL_CONFIG}')"
        )
    return read_yaml(found)


def _shape(config: Mapping[str, Any], target: Mapping[str, Tensor]) -> Shape:
    """The settings, each that shapes can tell held against them.

    Raises:
        StoreError: if one is missing, or contradicts the weights.
        InputError: if it is another model.
    """
    kind = config.get("model_type", CLASS)
    if kind != CLASS:
        raise InputError(f"the target is a {kind}, and load_target reads {CLASS}: al.adapt(model) takes any other")
    if config.get("rotary_adjacent_pairs", False):
        raise InputError(
            "rotary_adjacent_pairs: this model rotates neighbouring features, which no bridge does that keeps its "
            "weights as they are: adapt the model itself, al.adapt(model, architecture=al.Architecture(...))"
        )
    needed = ("vocab_size", "n_layer", "n_head", "n_embd", "n_intermediate", "block_size")
    for name in needed:
        _check_setting(config, name, is_integer)
    grouped = bool(config.get("use_grouped_query_attention", True))
    heads, width = int(config["n_head"]), int(config["n_embd"])
    if grouped:
        _check_setting(config, "n_key_value_heads", is_integer)
    for name, fits in (("n_ctx", is_integer), ("rotary_base", is_number), ("rms_norm_eps", is_number)):
        if name in config:
            _check_setting(config, name, fits)
    shape = Shape(
        vocab_size=config["vocab_size"],
        n_layer=config["n_layer"],
        n_head=heads,
        n_embd=width,
        n_intermediate=config["n_intermediate"],
        n_key_value_heads=int(config["n_key_value_heads"]) if grouped else heads,
        context=min(config["block_size"], config.get("n_ctx", config["block_size"])),
        grouped=grouped,
        attn_bias=bool(config.get("attn_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        rotary_base=float(config.get("rotary_base", 10000)),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
    )
    if width % heads or heads % shape.n_key_value_heads:
        raise StoreError(f"{width} features are not {heads} heads that share {shape.n_key_value_heads} keys and values")
    _check_shapes(shape, target)
    return shape


def _check_setting(config: Mapping[str, Any], name: str, fits: Callable[[Any], bool]) -> None:
    """Refuse a setting that is missing, or no number above 0."""
    if config.get(name) is None:
        raise StoreError(f"the settings of the target lack {name}: give those of {MODEL_CONFIG}")
    if not fits(config[name]) or not config[name] > 0:
        raise StoreError(f"{name} of the target is a number above 0; its settings say {config[name]!r}")


def _check_shapes(shape: Shape, target: Mapping[str, Tensor]) -> None:
    wanted = _wanted(shape)
    missing = [name for name in wanted if name not in target]
    if missing:
        raise StoreError(f"the key {missing[0]} of the target model is missing")
    extra = [name for name in target if name not in wanted]
    if extra:
        raise StoreError(f"the key {extra[0]} is one too many: a {CLASS} of these settings has none of it")
    for name, size in wanted.items():
        if tuple(target[name].shape) != size:
            raise StoreError(f"{name} has shape {list(target[name].shape)}, and the settings say {list(size)}")
    if not torch.equal(target["wte.weight"], target["lm_head.weight"]):
        raise StoreError(f"wte.weight and lm_head.weight differ, and in a {CLASS} they are one")


def _wanted(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor."""
    d, inner = shape.n_embd, shape.n_intermediate
    keys = shape.n_key_value_heads * (d // shape.n_head)
    entries = {"attn.q_proj": d, "attn.k_proj": keys, "attn.v_proj": keys} if shape.grouped else {"attn.c_attn": 3 * d}
    linear = {name: (rows, d) for name, rows in entries.items()}
    linear |= {"attn.o_proj": (d, d), "mlp.c_fc": (inner, d), "mlp.down_proj": (d, inner)}
    found: dict[str, tuple[int, ...]] = {"wte.weight": (shape.vocab_size, d), "lm_head.weight": (shape.vocab_size, d)}
    for layer in range(shape.n_layer):
        found |= {f"h.{layer}.rms_1.weight": (d,), f"h.{layer}.rms_2.weight": (d,)}
        for name, size in linear.items():
            found[f"h.{layer}.{name}.weight"] = size
            if shape.attn_bias if name.startswith("attn") else shape.mlp_bias:
                found[f"h.{layer}.{name}.bias"] = size[:1]
    return {**found, "ln_f.weight": (d,)}


def _renamed(target: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The weights by Arcee's names; a fused matrix becomes the three that it holds."""
    ends = {"wte": "model.embed_tokens", "ln_f": "model.norm", "lm_head": "lm_head"}
    found: dict[str, Tensor] = {}
    for key, value in target.items():
        path, _, kind = key.rpartition(".")
        inside = LAYER.fullmatch(path)
        if inside is None:
            found[f"{ends[path]}.{kind}"] = value
            continue
        layer, own = f"model.layers.{inside.group(1)}", inside.group(2)
        if own == "attn.c_attn":
            parts = zip("qkv", value.split(shape.n_embd), strict=True)
            found |= {f"{layer}.self_attn.{part}_proj.{kind}": rows.clone() for part, rows in parts}
        else:
            found[f"{layer}.{NAMES[own]}.{kind}"] = value
    return found


def _bridge(shape: Shape, weights: dict[str, Tensor]) -> TransformerBridge:
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import ArceeConfig, ArceeForCausalLM

    config = ArceeConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.n_embd,
        intermediate_size=shape.n_intermediate,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_key_value_heads,
        hidden_act="gelu_new",
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.rms_norm_eps,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rotary_base},
        attention_bias=shape.attn_bias,
        mlp_bias=shape.mlp_bias,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "eager"  # that which forms patterns
    with torch.random.fork_rng(devices=[]):  # its first weights are random, and of no use
        model: Any = ArceeForCausalLM(config)
    model.to(weights["lm_head.weight"].dtype).load_state_dict(weights)
    return build_bridge_from_module(model.eval(), ArceeForCausalLM.__name__, hf_config=config).eval()
