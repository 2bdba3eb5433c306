"""Sites of the user's own on the models of the tests, and what their ablation does, without the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import ablationlens as al
from tests import models

HOSTS = ["torch", "transformer_lens", "nnsight"]
"""Hosts that the laws of sites of the user's own are tested in."""
NAMES = ["gpt2", "llama"]
GROUPS = 8
LATENTS = 20
CHOSEN = (0, 3, 4, 7, 8, 11, 15, 19)
"""Latents in the registry; the others are always kept."""


def path_of(name: str, layer: int) -> str:
    return f"transformer.h.{layer}" if name == "gpt2" else f"model.layers.{layer}"


def block_of(model: Any, layer: int) -> Any:
    return model.get_submodule(path_of("gpt2" if hasattr(model, "transformer") else "llama", layer))


def addresses(name: str, layer: int = 0) -> dict[str, str]:
    return {"transformer_lens": f"blocks.{layer}.hook_resid_post", "torch": path_of(name, layer)}


def residual(name: str, layer: int = 0, **options: Any) -> Any:
    """The residual stream after a layer, in groups of consecutive features."""
    return al.custom_site("resid_post", addresses(name, layer), **{"groups": GROUPS, **options})


def tensors(seed: int = 0, width: int = models.WIDTH, latents: int = LATENTS) -> dict[str, Tensor]:
    """Weights of a little autoencoder: W_enc, W_dec, b_enc, b_dec; about half of its latents are active."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "W_enc": randn(width, latents) / width**0.5,
        "W_dec": randn(latents, width) / latents**0.5,
        "b_enc": 0.1 * randn(latents),
        "b_dec": 0.1 * randn(width),
    }


def autoencoder(seed: int = 0, **options: Any) -> al.Dictionary:
    of = tensors(seed)
    return al.Dictionary(of["W_enc"], of["W_dec"], b_enc=of["b_enc"], pre_bias=of["b_dec"], **options)


def latents(name: str, layer: int = 0, **options: Any) -> Any:
    """Latents of the autoencoder on the residual stream after a layer."""
    settings: dict[str, Any] = {"basis": autoencoder(), "select": CHOSEN}
    return al.custom_site("sae", addresses(name, layer), **{**settings, **options})


SITES: dict[str, Callable[..., Any]] = {"residual": residual, "latents": latents}


def encoded(x: Tensor, seed: int = 0) -> Tensor:
    """The plain formula of a ReLU autoencoder that takes its decoder's bias off the input."""
    of = tensors(seed)
    return torch.relu((x - of["b_dec"]) @ of["W_enc"] + of["b_enc"])


def changed(model: Any, inputs: Tensor, layer: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits of an untouched copy whose residual stream after a layer goes through `change`: a plain PyTorch hook."""
    own = models.untied(model)

    def after(module: Any, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    block_of(own, layer).register_forward_hook(after)
    return models.logits_of(own, inputs)


def stream(model: Any, inputs: Tensor, layer: int = 0) -> Tensor:
    """The residual stream after a layer."""
    seen: list[Tensor] = []
    changed(model, inputs, layer, lambda x: (seen.append(x), x)[1])
    return seen[0]


def ablated(kind: str, gates: Tensor, replacement: Tensor | float = 0.0) -> Callable[[Tensor], Tensor]:
    """What the ablation of some components does to the stream of one example, by the plain formulas.

    `replacement` is what stands in: of the stream, or of all codes.
    """

    def change(x: Tensor) -> Tensor:
        if kind == "residual":
            kept = gates.repeat_interleave(x.shape[-1] // len(gates))
            return torch.where(kept == 1, x, torch.as_tensor(replacement).expand_as(x))
        codes = encoded(x)
        kept = torch.ones(codes.shape[-1])
        kept[list(CHOSEN)] = gates
        error = x - codes @ tensors()["W_dec"]
        return torch.where(kept == 1, codes, torch.as_tensor(replacement).expand_as(codes)) @ tensors()["W_dec"] + error

    return change


def masks(rows: int, width: int, seed: int = 0) -> Tensor:
    """Hard masks of very different densities; the fourth ablates everything."""
    generator = torch.Generator().manual_seed(seed + width)
    shares = torch.linspace(0.2, 0.9, rows)[:, None]
    made = (torch.rand(rows, width, generator=generator) < shares).float()
    if rows > 3:
        made[3] = 0
    return made
