"""Runs of goodfire-ai/spd, made from shapes, and the oracles of what they compute; nothing here uses the library.

The model is its LlamaSimpleMLP, written from the description of its format: RMSNorm before each half of a block,
rotary positions by halves, grouped keys and values (or one fused matrix), an MLP without a gate and with the tanh form
of GELU, the unembedding tied to the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

SETTINGS: dict[str, Any] = {
    "model_type": "LlamaSimpleMLP",
    "block_size": 12,
    "vocab_size": 29,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 16,
    "n_intermediate": 20,
    "mlp_bias": False,
    "attn_bias": False,
    "rotary_adjacent_pairs": False,
    "rotary_dim": 4,
    "rotary_base": 10000,
    "n_ctx": 12,
    "n_key_value_heads": 2,
    "use_grouped_query_attention": True,
    "flash_attention": True,
    "rms_norm_eps": 1e-6,
}
"""What ``model_config.yaml`` says of the model."""
COUNTS = {
    "h.0.attn.q_proj": 5,
    "h.1.attn.q_proj": 5,
    "h.0.attn.v_proj": 4,
    "h.1.attn.v_proj": 4,
    "h.1.mlp.down_proj": 7,
}
"""The modules that are decomposed, and how many components each has."""
LOGICAL = {
    "h.0.attn.q_proj": (0, "attn.q"),
    "h.0.attn.v_proj": (0, "attn.v"),
    "h.1.attn.q_proj": (1, "attn.q"),
    "h.1.attn.v_proj": (1, "attn.v"),
    "h.1.mlp.down_proj": (1, "mlp.out"),
}
"""Where they are, in the order of the model."""
PATTERNS = [("h.*.attn.q_proj", 5), ("h.*.attn.v_proj", 4), ("h.1.mlp.down_proj", 7)]
KINDS = ("mlp", "vector_mlp", "shared_mlp")
HIDDEN = {"mlp": [6], "vector_mlp": [6, 3], "shared_mlp": [6]}
"""Widths of the hidden layers of each kind of importance function."""


# -- the model --------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


class Attention(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__()
        d, bias = s["n_embd"], s["attn_bias"]
        self.heads, self.size, self.base = s["n_head"], d // s["n_head"], s["rotary_base"]
        self.grouped = s["use_grouped_query_attention"]
        self.shared = s["n_key_value_heads"] if self.grouped else self.heads
        if self.grouped:
            self.q_proj = nn.Linear(d, d, bias=bias)
            self.k_proj = nn.Linear(d, self.shared * self.size, bias=bias)
            self.v_proj = nn.Linear(d, self.shared * self.size, bias=bias)
        else:
            self.c_attn = nn.Linear(d, 3 * d, bias=bias)
        self.o_proj = nn.Linear(d, d, bias=bias)

    def turned(self, x: Tensor) -> Tensor:
        """Rotary positions: feature i of a head turns with feature i + size / 2, by position / base^(2i / size)."""
        half, time = self.size // 2, x.shape[-2]
        angles = torch.arange(time).double()[:, None] * self.base ** (-torch.arange(half).double() / half)
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        if self.grouped:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        else:
            q, k, v = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (one.unflatten(-1, (-1, self.size)).transpose(1, 2) for one in (q, k, v))
        index = torch.arange(self.heads) // (self.heads // self.shared)
        q, k, v = self.turned(q), self.turned(k)[:, index], v[:, index]
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(self.size)
        time = x.shape[1]
        pattern = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -math.inf).softmax(-1)
        return self.o_proj(torch.einsum("bhqk,bhkd->bqhd", pattern, v).flatten(2))


class MLP(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__()
        self.c_fc = nn.Linear(s["n_embd"], s["n_intermediate"], bias=s["mlp_bias"])
        self.down_proj = nn.Linear(s["n_intermediate"], s["n_embd"], bias=s["mlp_bias"])

    def forward(self, x: Tensor) -> Tensor:
        a = self.c_fc(x)
        return self.down_proj(a * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))))


class Block(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__()
        self.rms_1, self.rms_2 = Norm(s["n_embd"], s["rms_norm_eps"]), Norm(s["n_embd"], s["rms_norm_eps"])
        self.attn, self.mlp = Attention(s), MLP(s)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.rms_1(x))
        return x + self.mlp(self.rms_2(x))


class LlamaSimpleMLP(nn.Module):
    """The target model, in plain PyTorch; it returns a tuple whose first element is the logits."""

    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__()
        self.wte = nn.Embedding(s["vocab_size"], s["n_embd"])
        self.h = nn.ModuleList(Block(s) for _ in range(s["n_layer"]))
        self.ln_f = Norm(s["n_embd"], s["rms_norm_eps"])
        self.lm_head = nn.Linear(s["n_embd"], s["vocab_size"], bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor) -> tuple[Tensor, None]:
        x = self.wte(idx)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None


def llama_simple(seed: int = 0, **settings: Any) -> LlamaSimpleMLP:
    """A model whose every weight matters: norms and biases are random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaSimpleMLP({**SETTINGS, **settings})
        for parameter in model.parameters():
            parameter.data = 0.4 * torch.randn_like(parameter) + (parameter.data == 1)
    return model.eval().requires_grad_(False)


def tokens(examples: int = 3, length: int = 9) -> Tensor:
    return torch.randint(0, SETTINGS["vocab_size"], (examples, length), generator=torch.Generator().manual_seed(1))


# -- checkpoints ------------------------------------------------------------------------------------------------------


def random_parts(
    target: Mapping[str, Tensor],
    counts: Mapping[str, int],
    kind: str,
    *,
    hidden: Sequence[int] | None = None,
    transposed: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Factors and importance functions, under the keys of a checkpoint."""
    own = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for path, C in counts.items():
        identity = path.endswith(".pre_identity")
        weight = target[f"{path.removesuffix('.pre_identity')}.weight"]
        rows, columns = reversed(weight.shape) if transposed else weight.shape
        rows = columns if identity else rows
        name = path.replace(".", "-")
        found[f"_components.{name}.V"] = 0.4 * torch.randn(columns, C, generator=own)
        found[f"_components.{name}.U"] = 0.4 * torch.randn(C, rows, generator=own)
        if f"{path}.bias" in target:
            found[f"_components.{name}.bias"] = target[f"{path}.bias"].clone()
        widths = [
            1 if kind == "mlp" else columns,
            *(HIDDEN[kind] if hidden is None else hidden),
            C if kind == "shared_mlp" else 1,
        ]
        for index, (before, after) in enumerate(pairwise(widths)):
            each = () if kind == "shared_mlp" else (C,)
            layer = f"_ci_fns.{name}.layers.{2 * index}"
            found[f"{layer}.W"] = torch.randn(*each, before, after, generator=own) / math.sqrt(before)
            found[f"{layer}.b"] = 0.5 + 0.3 * torch.randn(*each, after, generator=own)
    return found


def config_of(
    kind: str = "vector_mlp", sigmoid: str = "leaky_hard", patterns: Any = PATTERNS, **more: Any
) -> dict[str, Any]:
    """What ``final_config.yaml`` says, as far as it matters."""
    return {
        "seed": 0,
        "ci_fn_type": kind,
        "ci_fn_hidden_dims": HIDDEN[kind],
        "sigmoid_type": sigmoid,
        "sampling": "continuous",
        "use_delta_component": True,
        "module_info": [{"module_pattern": pattern, "C": C} for pattern, C in patterns],
        "identity_module_info": None,
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_output_attr": "idx_0",
        **more,
    }


def whole_state(target: Mapping[str, Tensor], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint: the target model and its components."""
    return {**{f"target_model.{name}": value for name, value in target.items()}, **parts}


def write(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], step: int = 500) -> Path:
    """A run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state), folder / f"model_{step}.pth")
    (folder / "final_config.yaml").write_text(yaml.safe_dump(dict(config)))
    (folder / "model_config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def run_of(folder: Path, kind: str = "vector_mlp", sigmoid: str = "leaky_hard") -> tuple[Path, dict[str, Tensor]]:
    """A run on `llama_simple`, and its checkpoint's state."""
    target = llama_simple().state_dict()
    state = whole_state(target, random_parts(target, COUNTS, kind))
    return write(folder, state, config_of(kind, sigmoid)), state


def toy_run(folder: Path, model: nn.Module, counts: dict[str, int]) -> Path:
    """A run on any model, which has components of the modules that are counted."""
    target = model.state_dict()
    parts = random_parts(target, counts, "mlp")
    return write(folder, whole_state(target, parts), config_of("mlp", patterns=list(counts.items())))


# -- oracles, in float64 ----------------------------------------------------------------------------------------------


def raw_importances(state: Mapping[str, Tensor], path: str, kind: str, x: Tensor) -> Tensor:
    """What the importance function of a module gives for its input, before the sigmoid."""
    name = path.replace(".", "-")
    own = {key: value.double() for key, value in state.items()}
    layers = sorted({int(key.split(".")[3]) for key in own if key.startswith(f"_ci_fns.{name}.")})
    V = own[f"_components.{name}.V"]
    read = torch.einsum("...i,ic->...c", x, V)[..., None] if kind == "mlp" else x
    if kind == "vector_mlp":
        read = read[..., None, :].expand(*x.shape[:-1], V.shape[1], -1)
    for index in layers:
        W, b = own[f"_ci_fns.{name}.layers.{index}.W"], own[f"_ci_fns.{name}.layers.{index}.b"]
        read = torch.einsum("...i,io->...o" if kind == "shared_mlp" else "...ci,cio->...co", read, W) + b
        if index != layers[-1]:
            read = read * 0.5 * (1 + torch.erf(read / math.sqrt(2)))
    return read if kind == "shared_mlp" else read[..., 0]


def lower(sigmoid: str, x: Tensor) -> Tensor:
    """Importances that make masks."""
    if sigmoid == "normal":
        return 1 / (1 + torch.exp(-x))
    if sigmoid == "upper_leaky_hard":
        return torch.where(x > 1, 1 + 0.01 * (x - 1), x.clamp(0, 1))
    if sigmoid == "swish_hard":
        y, up = x - 0.5, 1 / (1 + torch.exp(-10 * (x - 0.5)))
        right, left = 1 / (1 + torch.exp(-10 * (y - 0.5))), 1 / (1 + torch.exp(-10 * (y + 0.5)))
        return 0.5 + ((y - 0.5) * (1 - right) - y * up) + ((y + 0.5) * left - y * (1 - up))
    return x.clamp(0, 1)


def upper(sigmoid: str, x: Tensor) -> Tensor:
    """Importances that the importance loss sees."""
    return torch.where(x > 1, 1 + 0.01 * (x - 1), x.clamp(0, 1)) if sigmoid == "leaky_hard" else lower(sigmoid, x)


def masked_logits(
    state: Mapping[str, Tensor], masks: Mapping[str, tuple[Tensor, Tensor]], batch: Tensor, **settings: Any
) -> Tensor:
    """Logits with each named module computed as ``((x V) * m) U + m_d x delta^T + bias``: path -> (m, m_d)."""
    model = LlamaSimpleMLP({**SETTINGS, **settings}).double().requires_grad_(False)
    model.load_state_dict(
        {k.removeprefix("target_model."): v for k, v in state.items() if k.startswith("target_model.")}
    )
    for path, (m, kept) in masks.items():
        module: Any = model.get_submodule(path)
        name = path.replace(".", "-")
        V, U = state[f"_components.{name}.V"].double(), state[f"_components.{name}.U"].double()
        delta = module.weight - torch.einsum("ic,co->oi", V, U)

        def instead(
            module: Any,
            args: Any,
            _: Any,
            V: Tensor = V,
            U: Tensor = U,
            delta: Tensor = delta,
            m: Tensor = m,
            kept: Tensor = kept,
        ) -> Tensor:
            (x,) = args
            out = torch.einsum("...c,co->...o", torch.einsum("...i,ic->...c", x, V) * m, U)
            out = out + kept[..., None] * torch.einsum("...i,oi->...o", x, delta)
            return out if module.bias is None else out + module.bias

        module.register_forward_hook(instead)
    return model(batch)[0]
