"""Dictionary: a sparse autoencoder or transcoder, from its tensors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.basis import Basis
from ablationlens.errors import InputError


class Dictionary(Basis):
    """A sparse autoencoder or transcoder, as its tensors: each component is one latent.

    ::

        codes = activation((x - pre_bias) @ W_enc + b_enc)

    with ReLU as the activation, JumpReLU if `threshold` is given (``codes * (codes > threshold)``), or the largest
    `k` codes of each row, ReLU of them, if `k` is. The decoder's bias is not asked for: it is part of what no latent
    contributes. An autoencoder of SAELens is::

        al.Dictionary(sae.W_enc, sae.W_dec, b_enc=sae.b_enc, pre_bias=sae.b_dec)  # cfg.apply_b_dec_to_input
        al.Dictionary(sae.W_enc, sae.W_dec, b_enc=sae.b_enc, threshold=sae.threshold)  # jumprelu

    One that also rescales its input (``normalize_activations``) has that folded into its weights first.

    Args:
        W_enc: [width, component]; the weight of an `nn.Linear` is its transpose.
        W_dec: [component, written].
        b_enc: [component], added before the activation.
        pre_bias: [width], taken off the input; the decoder's bias, in autoencoders that do so.
        threshold: [component] or one number, for JumpReLU.
        k: codes of a row that stay, for top-k.

    Raises:
        InputError: if shapes do not fit, or both `threshold` and `k` are given.
    """

    def __init__(
        self,
        W_enc: Tensor,
        W_dec: Tensor,
        *,
        b_enc: Tensor | None = None,
        pre_bias: Tensor | None = None,
        threshold: Tensor | float | None = None,
        k: int | None = None,
    ) -> None:
        _check_matrices(W_enc, W_dec)
        self.W_enc, self.W_dec = W_enc.detach(), W_dec.detach()
        self.width, self.components = W_enc.shape
        if threshold is not None and k is not None:
            raise InputError("threshold= makes a JumpReLU dictionary and k= a top-k one: give one of them")
        if k is not None and not 1 <= k <= self.components:
            raise InputError(f"k={k}: this dictionary has 1 to {self.components} codes to keep")
        if isinstance(threshold, Tensor):
            threshold = threshold.expand(self.components) if threshold.ndim == 0 else threshold
        elif threshold is not None:
            threshold = W_enc.new_full((self.components,), float(threshold))
        self.b_enc = _vector(b_enc, "b_enc", self.components)
        self.pre_bias = _vector(pre_bias, "pre_bias", self.width)
        self.threshold = _vector(threshold, "threshold", self.components)
        self.k = k
        self._kept: Tensor | None = None

    def __repr__(self) -> str:
        sort = "ReLU" if self.threshold is None else "JumpReLU"
        return (
            f"Dictionary({self.width} features, {self.components} {sort if self.k is None else f'top-{self.k}'} codes)"
        )

    @property
    def written(self) -> int:
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows component"]:
        x = x.to(self.W_enc)
        if self.pre_bias is not None:
            x = x - self.pre_bias.to(x)
        codes = x @ self.W_enc
        if self.b_enc is not None:
            codes = codes + self.b_enc.to(codes)
        if self.k is not None:
            values, index = codes.topk(self.k, dim=-1)
            codes = torch.zeros_like(codes).scatter(-1, index, values)
        elif self.threshold is not None:
            codes = torch.where(codes > self.threshold.to(codes), codes, 0.0)
        codes = codes.relu()
        return codes if self._kept is None else codes[..., self._kept]

    def decode(self, codes: Float[Tensor, "*rows component"]) -> Float[Tensor, "*rows written"]:
        return codes @ self.W_dec.to(codes)

    def pick(self, latents: Tensor) -> Dictionary:
        picked = copy.copy(self)
        vars(picked).pop("fingerprint", None)
        picked.W_dec, picked.components = self.W_dec[latents], len(latents)
        if self.k is not None:  # which codes are among the largest depends on all of them
            picked._kept = latents if self._kept is None else self._kept[latents]
            return picked
        picked.W_enc = self.W_enc[:, latents]
        picked.b_enc = None if self.b_enc is None else self.b_enc[latents]
        picked.threshold = None if self.threshold is None else self.threshold[latents]
        return picked


def _check_matrices(W_enc: Any, W_dec: Any) -> None:
    matrices = (W_enc, W_dec)
    if not all(isinstance(one, Tensor) and one.is_floating_point() and one.ndim == 2 for one in matrices):
        came = " and ".join(str(list(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in matrices)
        raise InputError(
            f"a dictionary has float tensors W_enc [width, component], W_dec [component, width]; got {came}"
        )
    if W_enc.shape[1] != W_dec.shape[0]:
        advice = "; one of them looks transposed: use its .T" if W_enc.shape == W_dec.shape else ""
        raise InputError(
            "a dictionary has W_enc [width, component] and W_dec [component, width] of as many components; "
            f"got {list(W_enc.shape)} and {list(W_dec.shape)}{advice}"
        )


def _vector(value: Any, name: str, size: int) -> Tensor | None:
    if value is None:
        return None
    if not isinstance(value, Tensor) or tuple(value.shape) != (size,):
        came = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{name} of a dictionary has shape [{size}]; got {came}")
    return value.detach()
