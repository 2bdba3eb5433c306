"""Diagonal masks and the Gauss-Legendre rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.masks.diagonal import Diagonal, gauss_legendre


def test_all_gates_open_together() -> None:
    design = Diagonal(4, (0.0, 0.25, 1.0))
    assert design.draws == len(design) == 3
    assert design.masks(0, 3).tolist() == [[0.0] * 4, [0.25] * 4, [1.0] * 4]
    assert design.masks(1, 2).dtype == np.float32
    assert json.loads(json.dumps(design.describe()))["levels"] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("levels", [(), (1.5,), (0.5, -0.1), (float("nan"),)])
def test_levels_outside_the_range_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(al.InputError, match="from 0"):
        Diagonal(4, levels)


@given(steps=st.integers(1, 40), degree=st.integers(0, 79))
@settings(max_examples=100, deadline=None)
def test_the_rule_is_exact_for_polynomials_below_twice_its_steps(steps: int, degree: int) -> None:
    nodes, weights = gauss_legendre(steps)
    assert ((nodes > 0) & (nodes < 1)).all()
    error = abs(float(weights @ nodes**degree) - 1 / (degree + 1))
    assert error < 1e-12 or degree >= 2 * steps
