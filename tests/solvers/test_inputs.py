"""Masks and outputs that no solver can use."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.errors import InputError
from ablationlens.solvers import SOLVERS
from tests.solvers.problems import every, problem


@every
def test_shapes_and_types_that_do_not_fit_are_refused(name: str) -> None:
    masks, outputs = problem()
    for bad_masks, bad_outputs, message in [
        (masks[:-1], outputs, r"outputs \[draw, target\] with 119 draws, got shape \(120, 4\)"),
        (masks, outputs[:, 0], r"got shape \(120,\); for one target type outputs\[:, None\]"),
        (masks, outputs[:, :0], r"outputs \[draw, target\]"),
        (masks[0], outputs, r"masks \[draw, component\].*got shape \(15,\)"),
        (masks[:, :0], outputs, r"masks \[draw, component\].*got shape \(120, 0\)"),
        (masks.astype(complex), outputs, "complex128"),
        (masks.astype(str), outputs, "masks"),
        (masks, outputs.astype(complex), "complex128"),
    ]:
        with pytest.raises(InputError, match=message):
            SOLVERS[name](bad_masks, bad_outputs)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, value: float) -> None:
    masks, outputs = problem()
    bad = outputs.copy()
    bad[7, 2] = value
    with pytest.raises(InputError, match=r"1 of 120 draws \(the first is draw 7\)"):
        SOLVERS[name](masks, bad)
    gates = masks.astype(np.float32)
    gates[3, 1] = value
    with pytest.raises(InputError, match="finite masks"):
        SOLVERS[name](gates, outputs)
