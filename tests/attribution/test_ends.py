"""Both ends of a mask game, on functions that are written down."""

from __future__ import annotations

import numpy as np
import pytest

from ablationlens.attribution.ends import ends
from tests.evaluate.games import game, scales

ADDITIVE = np.array([1.0, -2.0, 0.5])


def test_both_ends_of_each_example() -> None:
    pairs = np.zeros((3, 3))
    pairs[0, 1] = 4.0
    found = ends(game(ADDITIVE, pairs, constant=7.0), scales(1, 3))
    np.testing.assert_allclose(found.ablated, [7, 7])
    np.testing.assert_allclose(found.kept, [7 - 0.5 + 4, 7 - 1.5 + 36], rtol=1e-6)


def test_the_gap_is_what_weights_sum_to_beyond_it() -> None:
    found = ends(game(ADDITIVE, constant=7.0), scales(1, 3))
    weights = np.array([1.0, 3.0])[:, None] * ADDITIVE
    np.testing.assert_allclose(found.gap(weights), 0, atol=1e-6)
    np.testing.assert_allclose(found.gap(weights + np.array([0.0, 2.0, 0.0])), 2, atol=1e-6)


@pytest.mark.parametrize("rows", [1, None])
def test_what_is_noted(rows: int | None) -> None:
    weights = np.ones((2, 3))
    noted = ends(game(ADDITIVE), scales(1, 2), rows=rows).provenance(weights)
    assert noted["full_output"] == pytest.approx([-0.5, -1.0])
    assert noted["empty_output"] == pytest.approx([0, 0])
    assert noted["completeness_gap"] == pytest.approx([3.5, 4.0])
