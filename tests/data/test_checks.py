"""What counts as an integer, and which rows are bad."""

from __future__ import annotations

import numpy as np
import torch

from ablationlens.data.checks import is_integer, is_integral, where_rows


def test_truth_values_and_floats_are_no_integers() -> None:
    assert all(is_integer(value) for value in (0, -1, np.int64(3), np.uint8(3)))
    assert not any(is_integer(value) for value in (True, np.bool_(True), 1.0, np.float32(1), "1", None))
    assert all(is_integral(torch.zeros(1, dtype=dtype)) for dtype in (torch.int64, torch.int32, torch.uint8))
    assert not any(is_integral(torch.zeros(1, dtype=dtype)) for dtype in (torch.bool, torch.half, torch.complex64))


def test_bad_rows_come_in_order() -> None:
    assert where_rows(torch.tensor([False, True, False, True])) == [1, 3]
    assert where_rows(torch.zeros(3, dtype=torch.bool)) == []
