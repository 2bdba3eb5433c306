"""Tensor aliases, axis letters and the mask convention: said once here, kept everywhere.

**Axes.** ``batch`` rows of one forward pass, ``example`` rows of the data, ``draw`` masks of a design,
``position`` tokens (or patches), ``component`` columns of a registry, ``feature`` numbers of one activation,
``vocab`` entries of the logits, ``in``/``out`` the two sides of a weight matrix.

**Masks.** One gate per component: 1 = kept, 0 = ablated, anything between is a partial gate. A mask has shape
``[batch, component]``, or ``[batch, position, component]`` with exactly the positions of the inputs, or
``[1, component]``, which is the only shape that broadcasts. Row ``b`` of a mask acts on row ``b`` of the inputs.

**Sign.** An attribution weight is the effect of *keeping* a component: positive means that it raises the output.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Side: TypeAlias = Literal["in", "out"]
"""Which end of a module: the activation that it reads, or the one that it writes."""

Mask: TypeAlias = Float[Tensor, "batch component"] | Float[Tensor, "batch position component"]
"""Gates of one forward pass: row b belongs to row b of the inputs."""

Logits: TypeAlias = Float[Tensor, "batch position vocab"] | Float[Tensor, "batch vocab"]
"""What a model returns: next-token logits, or one row of class logits for each example."""

Scores: TypeAlias = Float[Tensor, " batch"]
"""One number per row: what an Output makes of the logits."""

Outputs: TypeAlias = Float[Tensor, "draw example"]
"""The output of each example under each draw of a design."""

DrawMasks: TypeAlias = Float[np.ndarray, "draw component"] | Bool[np.ndarray, "draw component"]
"""Masks of consecutive draws of a design."""

Features: TypeAlias = slice | Int[Tensor, " feature"]
"""Positions in an activation's feature axis: consecutive ones, or an index where a host interleaves several modules."""
