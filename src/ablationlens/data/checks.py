"""The questions that inputs, labels and positions are all asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


def where_rows(bad: Bool[Tensor, " batch"]) -> list[int]:
    """The rows that are True, in order; usually none."""
    return bad.nonzero()[:, 0].tolist()


def is_integral(tensor: Tensor) -> bool:
    """Whether it holds integers; truth values are none."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def is_integer(value: Any) -> bool:
    """Whether it is one integer, Python's or NumPy's; a truth value is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is one real number, Python's or NumPy's, perhaps NaN; a truth value is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
