"""One patch at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ablationlens.attribution.patching.masks import OneAtATime


@given(st.integers(1, 6), st.one_of(st.none(), st.integers(1, 5)), st.data())
def test_every_patch_is_one_gate_and_spans_fit_together(
    components: int, positions: int | None, data: st.DataObject
) -> None:
    patches = OneAtATime(components, positions)
    everything = patches.masks(0, patches.draws)
    cells = components * (positions or 1)
    assert everything.shape == (cells + 1, *patches.shape)
    flat = everything.reshape(cells + 1, -1)
    assert flat[0].all()
    assert np.array_equal(flat[1:], ~np.eye(cells, dtype=bool))
    start = data.draw(st.integers(0, patches.draws - 1))
    stop = data.draw(st.integers(start + 1, patches.draws))
    assert np.array_equal(patches.masks(start, stop), everything[start:stop])


def test_the_order_is_that_of_the_docstring() -> None:
    mask = OneAtATime(components=3, positions=4).masks(1 + 2 * 3 + 1, 1 + 2 * 3 + 2)[0]
    assert np.argwhere(~mask).tolist() == [[2, 1]]
