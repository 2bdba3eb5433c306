"""Tiny seeded models for the tests, and what their weights say: the oracle of every ablation.

Nothing here uses the library. `part` finds the out x in matrix of a logical module by hand, as a view that can be
written to, and `edited` zeroes components in an untied copy of a model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import nnsight
import torch
from torch import Tensor, nn

VOCAB, WIDTH, LAYERS, HEADS = 50, 32, 2, 4
MLP_WIDTH = 48
"""Hidden features of the Llama models; GPT-2 has 4 * WIDTH."""
RANK = 3


def scramble(model: nn.Module, seed: int = 0, scale: float = 0.25) -> nn.Module:
    """Give every parameter, biases and norms included, values without structure that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and "weight" in name
            parameter.copy_((1 + 0.2 * noise) if is_norm else scale * noise)
    return model.eval()


def gpt2(seed: int = 0, **options: Any) -> Any:
    """Conv1D, fused qkv, biases everywhere, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    for name, value in options.items():
        setattr(config, name, value)
    return scramble(GPT2LMHeadModel(config), seed)


def llama(seed: int = 0, **options: Any) -> Any:
    """Grouped-query attention, gated MLP, no bias."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return scramble(LlamaForCausalLM(LlamaConfig(**{**settings, **options})), seed)


def llama_biased(seed: int = 0) -> Any:
    return llama(seed, attention_bias=True, mlp_bias=True)


class ConvNet(nn.Module):
    """Two convolutions with biases, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, stride=2)
        self.classify = nn.Linear(5 * 3 * 3, 7)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.second(self.first(images).relu()).relu()
        return self.classify(hidden.flatten(1))


class MLP(nn.Module):
    """Three linear layers; the modules are defined in another order than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 5)
        self.first = nn.Linear(10, 16)
        self.middle = nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(nn.functional.gelu(self.first(x)))))


class Tied(nn.Module):
    """Two uses of one weight: what is ablated is the use that is named."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(6, 6)
        self.twice = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.twice(torch.tanh(self.twice(self.once(x))))


def convnet(seed: int = 0) -> ConvNet:
    return scramble(ConvNet(), seed, 0.5)  # type: ignore[return-value]


def mlp(seed: int = 0) -> MLP:
    return scramble(MLP(), seed, 0.5)  # type: ignore[return-value]


def tied(seed: int = 0) -> Tied:
    return scramble(Tied(), seed, 0.5)  # type: ignore[return-value]


def twice(seed: int = 0) -> Twice:
    return scramble(Twice(), seed, 0.5)  # type: ignore[return-value]


MODELS = {
    "gpt2": gpt2,
    "llama": llama,
    "llama_biased": llama_biased,
    "convnet": convnet,
    "mlp": mlp,
    "tied": tied,
}
TRANSFORMERS = ("gpt2", "llama", "llama_biased")


def bridge_of(model: Any) -> Any:
    """A TransformerBridge around a copy of a Hugging Face model."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    own = copy.deepcopy(model)
    return build_bridge_from_module(own, type(own).__name__, hf_config=own.config).eval()


def held_by(host: str, model: Any) -> Any:
    """A copy of a model as a host holds it."""
    if host == "transformer_lens":
        return bridge_of(model)
    own = copy.deepcopy(model)
    return own if host == "torch" else nnsight.NNsight(own)


def module_in(held: Any) -> Any:
    """The Hugging Face model, or plain module, that a host holds."""
    if isinstance(held, nnsight.NNsight):
        return held._module
    return getattr(held, "original_model", held)


def inputs_of(name: str, examples: int = 4, seed: int = 0) -> Tensor:
    """Inputs that fit a model of `MODELS`."""
    generator = torch.Generator().manual_seed(seed)
    if name in TRANSFORMERS:
        return torch.randint(0, VOCAB, (examples, 7), generator=generator)
    shape = {"convnet": (3, 8, 8), "mlp": (10,), "tied": (8,)}[name]
    return torch.randn(examples, *shape, generator=generator)


def logits_of(model: nn.Module, inputs: Any) -> Tensor:
    """Plain forward pass of a model, without any of our code."""
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
        return getattr(output, "logits", output)


def untied(model: Any) -> Any:
    """A copy in which no two modules share a parameter."""
    own = copy.deepcopy(model)
    for module in own.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach().clone())
    return own


LLAMA_PATHS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.in": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}
GPT2_PATHS = {"attn.qkv": "attn.c_attn", "attn.o": "attn.c_proj", "mlp.in": "mlp.c_fc", "mlp.out": "mlp.c_proj"}


def module_of(model: Any, layer: int, name: str) -> tuple[Any, slice]:
    """The module that computes a logical module, and which of its output features are its own."""
    if hasattr(model, "transformer"):
        rows = slice(0, None)
        if name in ("attn.q", "attn.k", "attn.v"):
            number = ("attn.q", "attn.k", "attn.v").index(name)
            rows, name = slice(number * WIDTH, (number + 1) * WIDTH), "attn.qkv"
        return model.transformer.h[layer].get_submodule(GPT2_PATHS[name]), rows
    if hasattr(model, "model"):
        return model.model.layers[layer].get_submodule(LLAMA_PATHS[name]), slice(0, None)
    return model.get_submodule(name), slice(0, None)


def part(model: Any, layer: int, name: str) -> tuple[Tensor, Tensor | None]:
    """The out x in matrix and the bias of a logical module, as views of the parameters."""
    module, rows = module_of(model, layer, name)
    weight = module.weight.T if hasattr(model, "transformer") else module.weight
    return weight[rows], None if module.bias is None else module.bias[rows]


@torch.no_grad()
def edited(model: Any, components: Iterable[Any], *, include_bias: bool = False) -> Any:
    """An untied copy of `model` in which the weights of these components are zero.

    Rows keep their bias unless `include_bias`; heads, columns and neurons have none of their own. The remainder of
    rank-one parts is ``W - (V U)^T``, and the bias belongs to it.
    """
    own = untied(model)
    for component in components:
        site, index = component.site, component.index
        match site.kind:
            case "head":
                weight, _ = part(own, site.layer, "attn.o")
                size = WIDTH // HEADS
                weight[:, index * size : (index + 1) * size] = 0
            case "neuron":
                part(own, site.layer, "mlp.out")[0][:, index] = 0
            case "column":
                part(own, site.layer, site.module)[0][:, index] = 0
            case "rank_one":
                weight, bias = part(own, site.layer, site.module)
                V, U = site.basis.V, site.basis.U
                if index < V.shape[1]:
                    weight -= torch.outer(U[index], V[:, index])
                else:
                    weight -= part(model, site.layer, site.module)[0] - (V @ U).T
                    if include_bias and bias is not None:
                        bias.zero_()
            case _:
                weight, bias = part(own, site.layer, site.module)
                size = {"row": 1, "filter": 1, "row_block": site.basis.block, "matrix": weight.shape[0]}[site.kind]
                rows = slice(index * size, (index + 1) * size)
                weight[rows] = 0
                if include_bias and bias is not None:
                    bias[rows] = 0
    return own


def given_factors(model: Any, layer: int, name: str, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Factors that have nothing to do with the weight: the remainder must make up for them."""
    weight, _ = part(model, layer, name)
    generator = torch.Generator().manual_seed(seed)
    V = 0.3 * torch.randn(weight.shape[1], RANK, generator=generator)
    U = 0.3 * torch.randn(RANK, weight.shape[0], generator=generator)
    return V, U


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to `tolerance`, which scales with the largest entry where that is above 1."""
    assert a.shape == b.shape, (a.shape, b.shape)
    scale = max(1.0, float(b.detach().abs().max()))
    return float((a - b).detach().abs().max()) <= tolerance * scale


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference in units of max(1, largest entry)."""
    return float((a - b).detach().abs().max()) / max(1.0, float(b.detach().abs().max()))
