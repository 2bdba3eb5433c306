"""Law 8 as a table: the same random masks through TransformerLens, nnsight and plain PyTorch, for every family.

    python benchmarks/parity.py                # 200 masks over heads, rows and columns of each family
    python benchmarks/parity.py --masks 20     # a quick look

A figure is the largest difference between the logits of a host and those of plain PyTorch, over all masks, positions
and tokens, in units of max(1, largest logit); "effect" is what the masks change at most, in the same units. Models are
tiny, with random weights, and each is built anew for each host.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import nnsight
import torch
import transformers
from torch import Tensor, nn
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import ablationlens as al

KINDS = ("head", "row", "column")
TOLERANCE = 1e-4
ABLATED = 0.1
"""Share of the components that a mask ablates."""
BATCH = 50
"""Masks of one forward pass, each with an example of its own."""
VOCAB, TOKENS, DECODED, IMAGE = 40, 6, 5, 8

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_WIDE_HEADS = {**_GROUPED, "head_dim": 6}
_LOCAL = {**_WIDE_HEADS, "sliding_window": 4}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
_GPT = {"vocab_size": VOCAB, "n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 4, "n_positions": 32, **_ENDS}
_FALCON = {**_SIZES, "ffn_hidden_size": 24, "bias": True}
_FALCON_40B = {"new_decoder_architecture": True, "num_kv_heads": 2}
_FALCON_RW = {"multi_query": False, "alibi": True, "parallel_attn": False}
_LAYERS = {key: value for key, value in _SIZES.items() if key.startswith(("hidden", "intermediate", "num"))}
_VISION = {**_LAYERS, "image_size": IMAGE, "patch_size": 4}
_STACKS = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 4}
_T5: dict[str, Any] = {"vocab_size": VOCAB, "decoder_start_token_id": 0, **_STACKS}


class Family(NamedTuple):
    """A family: its classes in transformers, and the options of a tiny configuration."""

    name: str
    model: str
    config: str
    options: dict[str, Any]


FAMILIES = (
    Family("GPT-2", "GPT2LMHeadModel", "GPT2Config", _GPT),
    Family("GPT-NeoX, Pythia", "GPTNeoXForCausalLM", "GPTNeoXConfig", _SIZES),
    Family("Llama", "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    Family("Mistral", "MistralForCausalLM", "MistralConfig", {**_GROUPED, "sliding_window": 4}),
    Family("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    Family("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", _WIDE_HEADS),
    Family("Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", _LOCAL),
    Family("Gemma 3", "Gemma3ForCausalLM", "Gemma3TextConfig", _LOCAL),
    Family("Phi 1, 1.5, 2", "PhiForCausalLM", "PhiConfig", _SIZES),
    Family("Phi-3", "Phi3ForCausalLM", "Phi3Config", _GROUPED),
    Family("OPT", "OPTForCausalLM", "OPTConfig", {**_SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    Family("Falcon 7b", "FalconForCausalLM", "FalconConfig", {**_FALCON, "multi_query": True}),
    Family("Falcon 40b", "FalconForCausalLM", "FalconConfig", {**_FALCON, **_FALCON_40B}),
    Family("Falcon, ALiBi", "FalconForCausalLM", "FalconConfig", {**_FALCON, **_FALCON_RW}),
    Family("GPT-J", "GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 4}),
    Family("BERT", "BertForMaskedLM", "BertConfig", _SIZES),
    Family("RoBERTa", "RobertaForMaskedLM", "RobertaConfig", _SIZES),
    Family("T5", "T5ForConditionalGeneration", "T5Config", _T5),
    Family("T5 v1.1", "T5ForConditionalGeneration", "T5Config", {**_T5, "feed_forward_proj": "gated-gelu"}),
    Family("ViT", "ViTForImageClassification", "ViTConfig", {**_VISION, "num_labels": 5}),
    Family("CLIP vision", "CLIPVisionModelWithProjection", "CLIPVisionConfig", {**_VISION, "projection_dim": 7}),
)


def build(family: Family) -> Any:
    """The family's tiny model with random weights, the same at every call; no bias and no norm is left trivial."""
    config = getattr(transformers, family.config)(**family.options)
    model: nn.Module = getattr(transformers, family.model)(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.25 * noise)
    return model.eval()


def inputs_of(model: Any, examples: int) -> dict[str, Tensor]:
    """Random inputs, by the names of the forward pass."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(examples, 3, IMAGE, IMAGE, generator=generator)}
    inputs = {"input_ids": torch.randint(1, VOCAB, (examples, TOKENS), generator=generator)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(1, VOCAB, (examples, DECODED), generator=generator)
    return inputs


def bridged(model: Any) -> Any:
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config)


HOSTS: dict[str, Callable[[Any], Any]] = {"TransformerLens": bridged, "nnsight": nnsight.NNsight}


def masked_logits(adapter: al.Adapter, registry: al.Registry, masks: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Logits under each mask, for an example of its own; rows keep their bias."""
    masked = al.MaskedModel(adapter, registry)
    logits: list[Tensor] = []
    for start in range(0, len(masks), BATCH):
        rows = slice(start, start + BATCH)
        with torch.no_grad():
            logits.append(masked.logits(masks[rows], al.batch({name: value[rows] for name, value in inputs.items()})))
    return torch.cat(logits)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) / max(1.0, float(b.abs().max()))


def measure(family: Family, masks: int) -> tuple[list[str], bool]:
    """The lines of one family, and whether all hosts that hold it agree."""
    plain = al.adapt(build(family))
    inputs = inputs_of(build(family), masks)
    others: dict[str, al.Adapter] = {}
    missing: list[str] = []
    for host, hold in HOSTS.items():
        try:
            others[host] = al.adapt(hold(build(family)))
        except (al.AdapterError, ValueError, RuntimeError) as reason:
            missing.append(f"    not held by {host}: {str(reason).splitlines()[0]}")
    lines: list[str] = []
    agree = all(other.layout == plain.layout for other in others.values())
    for kind in KINDS:
        registry = plain.registry(kind)
        generator = torch.Generator().manual_seed(2)
        mask = (torch.rand(masks, len(registry), generator=generator) >= ABLATED).float()
        expected = masked_logits(plain, registry, mask, inputs)
        effect = distance(expected, masked_logits(plain, registry, torch.ones_like(mask), inputs))
        found = {
            host: distance(masked_logits(other, registry, mask, inputs), expected) for host, other in others.items()
        }
        agree = agree and all(value < TOLERANCE for value in found.values())
        figures = "".join(f"{found[host]:16.1e}" if host in found else f"{'-':>16}" for host in HOSTS)
        lines.append(f"{family.name:18}{kind:8}{len(registry):12}{effect:10.2f}{figures}")
    return lines + missing, agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=200, help="random masks of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print(f"{platform.machine()}, torch {torch.__version__}, float32, {arguments.masks} masks")
    print(f"{'family':18}{'kind':8}{'components':>12}{'effect':>10}" + "".join(f"{host:>16}" for host in HOSTS))
    disagreeing: list[str] = []
    for family in FAMILIES:
        lines, agree = measure(family, arguments.masks)
        print("\n".join(lines), flush=True)
        if not agree:
            disagreeing.append(family.name)
    verdict = f"above it: {', '.join(disagreeing)}" if disagreeing else "every family below it"
    print(f"goal {TOLERANCE:.0e}: {verdict}")


if __name__ == "__main__":
    main()
