"""How draws and examples share forward passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.packing import Packing, choose, of_rows


@given(
    draws=st.integers(1, 9),
    examples=st.integers(1, 9),
    start=st.integers(0, 20),
    count=st.integers(1, 30),
    total=st.integers(1, 30),
)
def test_spans_cover_every_draw_and_example_once(draws: int, examples: int, start: int, count: int, total: int) -> None:
    packing = Packing(draws, examples)
    covered = [
        (draw, example)
        for span, rows in packing.spans(start, start + count, total)
        for draw in span
        for example in rows
    ]
    assert sorted(covered) == [(draw, example) for draw in range(start, start + count) for example in range(total)]
    spans = list(packing.spans(start, start + count, total))
    assert len(spans) == packing.passes(count, total)
    assert all(len(span) <= draws and len(rows) <= examples for span, rows in spans)


@given(rows=st.integers(1, 300), examples=st.integers(1, 300))
def test_a_pass_never_holds_more_rows_than_asked(rows: int, examples: int) -> None:
    packing = of_rows(rows, examples)
    assert 1 <= packing.rows <= rows
    assert packing.examples <= examples
    assert packing.draws == 1 or packing.examples == examples  # several draws only where all examples fit
    if packing.examples < examples:  # equal shares
        assert packing.passes(1, examples) == -(-examples // rows)


@given(draws=st.integers(1, 64), examples=st.integers(1, 64))
def test_halving_ends_at_one_row(draws: int, examples: int) -> None:
    packing = Packing(draws, examples)
    steps = 0
    while packing.rows > 1:
        smaller = packing.halved()
        assert smaller.rows < packing.rows
        packing, steps = smaller, steps + 1
    assert steps <= 20
    with pytest.raises(al.InputError, match="memory"):
        packing.halved()


@given(examples=st.integers(1, 2000), length=st.one_of(st.none(), st.integers(1, 4000)))
def test_a_choice_on_a_cpu_is_bounded(examples: int, length: int | None) -> None:
    packing = choose(examples, length, torch.device("cpu"))
    assert 1 <= packing.rows <= 256
    assert packing.examples <= examples
    assert packing.rows * (length or 16) <= max(1024, 8 * (length or 16))


def test_rows_below_one_are_refused() -> None:
    with pytest.raises(al.InputError, match="an integer from 1"):
        of_rows(0, 3)
