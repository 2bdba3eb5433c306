"""The COAR reference's way to run ablations (arXiv 2404.11534): one mask at a time, by setting weights to zero.

For every mask the ablated rows of a copy of the model are set to zero in place, and one forward pass gives the outputs
of all examples. The published code copies the whole model for every mask; putting the weights back from a copy that was
made once is the better way to do the same, and `Reference` can do either.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

import ablationlens as al

PARAMETERS = {
    "attn.q": ("attn.c_attn", 0),
    "attn.k": ("attn.c_attn", 1),
    "attn.v": ("attn.c_attn", 2),
    "attn.o": ("attn.c_proj", 0),
    "mlp.in": ("mlp.c_fc", 0),
    "mlp.out": ("mlp.c_proj", 0),
}
"""Logical module -> GPT-2's module, and which of its equal parts. GPT-2 stores matrices transposed: an output feature
is a column."""


class Reference:
    """Outputs of the rows of a GPT-2 under masks, by editing weights.

    Args:
        model: the model, which is not changed.
        registry: whole modules of rows.
        data: the examples, all of one length.
        copies: copy the model for every mask, as the published code does, rather than put the weights back.
    """

    def __init__(self, model: GPT2LMHeadModel, registry: al.Registry, data: al.Batch, *, copies: bool) -> None:
        self.model = model
        self.data = data
        self.copies = copies
        self.margin = al.Margin()
        self.edited = copy.deepcopy(model)
        width = model.config.n_embd
        spans: dict[str, list[tuple[int, int, int]]] = {}
        for part in registry.parts:
            assert part.site.kind == "row" and part.whole, "the reference's way is written for whole modules of rows"
            module, third = PARAMETERS[part.site.module]
            name = f"transformer.h.{part.site.layer}.{module}.weight"
            spans.setdefault(name, []).append((part.start, part.stop, third * width))
        # the parts of a fused matrix follow one another, in its own order: one slice of the mask for each parameter
        self.spans = {name: (parts[0][0], parts[-1][1]) for name, parts in spans.items()}
        for parts in spans.values():
            assert [first - parts[0][0] for first, _, _ in parts] == [offset for _, _, offset in parts]
        self.originals = {name: model.get_parameter(name) for name in self.spans}

    def __call__(self, mask: np.ndarray) -> Tensor:
        """Outputs of all examples under one mask."""
        with torch.no_grad():
            edited = copy.deepcopy(self.model) if self.copies else self.edited
            for name, (start, stop) in self.spans.items():
                ablated = torch.from_numpy(np.flatnonzero(~mask[start:stop])).to(self.model.device)
                edited.get_parameter(name).index_fill_(1, ablated, 0.0)
            logits = edited(self.data.inputs["input_ids"], use_cache=False).logits
            outputs = self.margin(logits, self.data).cpu()
            if not self.copies:
                for name, original in self.originals.items():
                    edited.get_parameter(name).copy_(original)
        return outputs

    def largest_difference(self, model: al.MaskedModel, data: al.Batch, design: al.Design, draws: int = 5) -> float:
        """From the outputs of a masked model, over a few draws."""
        masks = design.masks(0, draws)
        ours = model.sweep(torch.from_numpy(masks), data, show_bar=False)
        return float((torch.stack([self(mask) for mask in masks]) - ours).abs().max())


def seconds_per_mask(reference: Reference, design: al.Design, seconds: float) -> float:
    """Mean over as many masks as fit into some seconds, after a few that are not counted."""
    for draw in range(3):
        reference(design.mask(draw))
    start, draw = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or draw < 3:
        reference(design.mask(draw % design.draws))
        draw += 1
    return (time.perf_counter() - start) / draw
