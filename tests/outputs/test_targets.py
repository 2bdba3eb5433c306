"""What a head may attend to, against loops over the real tokens and TransformerLens' head detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example as also
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens.head_detector import (
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
)

import ablationlens as al
from ablationlens.outputs.targets import check_target, mass, targets
from tests.outputs.examples import IMAGES, padded

NAMES = ("induction", "previous", "first", "current")


def naive(tokens: list[int], target: Any) -> np.ndarray:
    """Targets between the tokens of one text without padding."""
    size = len(tokens)
    wanted = np.zeros((size, size), bool)
    for query in range(size):
        for key in range(query + 1):
            at = target if isinstance(target, str) else target % size
            wanted[query, key] = {
                "previous": key == query - 1,
                "first": key == 0 and query > 0,
                "current": key == query,
                "induction": key >= 1 and key - 1 < query and tokens[key - 1] == tokens[query],
            }.get(target, key == at)
    return wanted


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[list[int]], Tensor, Tensor]:
    """Texts of few different tokens, and where their tokens stand among padding: left, right or anywhere."""
    rows = draw(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=7), min_size=1, max_size=3))
    length = max(map(len, rows)) + draw(st.integers(0, 2))
    side = draw(st.sampled_from(["left", "right", "anywhere"]))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for example, row in enumerate(rows):
        slots = {
            "left": list(range(length - len(row), length)),
            "right": list(range(len(row))),
            "anywhere": sorted(draw(st.permutations(range(length)))[: len(row)]),
        }[side]
        ids[example, slots], mask[example, slots] = torch.tensor(row), 1
    return rows, ids, mask


WITH_A_HOLE = ([[1, 2, 1, 1]], torch.tensor([[1, 1, 2, 1, 0, 1]]), torch.tensor([[1, 0, 1, 1, 0, 1]]))


@also(WITH_A_HOLE, "previous")
@also(WITH_A_HOLE, "induction")
@given(texts(), st.one_of(st.sampled_from(NAMES), st.integers(-2, 1)))
def test_targets_are_those_of_the_real_tokens(drawn: tuple[list[list[int]], Tensor, Tensor], target: Any) -> None:
    rows, ids, mask = drawn
    found = targets(al.batch(ids, attention_mask=mask), target)
    assert found.dtype == torch.bool
    for example, row in enumerate(rows):
        real = mask[example].bool()
        assert np.array_equal(found[example][real][:, real].numpy(), naive(row, target)), (row, target)
        assert int(found[example].sum()) == int(naive(row, target).sum())  # nothing from or to padding


@given(st.lists(st.integers(1, 4), min_size=3, max_size=12))
def test_they_are_those_of_transformer_lens(tokens: list[int]) -> None:
    ids = torch.tensor([tokens])
    data = al.batch(ids)
    assert torch.equal(targets(data, "previous")[0].float(), get_previous_token_head_detection_pattern(ids))
    assert torch.equal(targets(data, "induction")[0].float(), get_induction_head_detection_pattern(ids))


def test_positions_outside_an_example_are_refused() -> None:
    data = padded([[1, 2, 3, 4], [5, 6]], "left")
    assert targets(data, 1).any() and targets(data, -2).any()
    for target, example in ((2, 1), (4, 0), (-3, 1), (-5, 0)):
        with pytest.raises(al.InputError, match=f"position {target} of example {example}: it has"):
            targets(data, target)


def test_inputs_without_positions_or_tokens() -> None:
    with pytest.raises(al.InputError, match="between positions, and these inputs have none"):
        targets(al.batch(IMAGES), "previous")
    embedded = al.batch({"inputs_embeds": torch.rand(2, 4, 3)})
    assert int(targets(embedded, "previous").sum()) == 2 * 3
    with pytest.raises(al.InputError, match="hold none"):
        targets(embedded, "induction")


@pytest.mark.parametrize("target", ["next", None, 1.0, torch.tensor([1, 2]), np.array([0, 1]), torch.tensor(0.5)])
def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(al.InputError, match='a target is "induction", "previous", "first", "current", or a position'):
        check_target(target)


def test_targets_as_python_has_them() -> None:
    assert [check_target(target) for target in (*NAMES, -1)] == [*NAMES, -1]
    for target in (np.int64(3), torch.tensor(3)):
        assert (check_target(target), type(check_target(target))) == (3, int)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_mass_is_a_mean_over_the_queries_that_have_a_target(side: str, dtype: torch.dtype) -> None:
    rows = [[1, 2, 1, 2, 3], [4, 4, 5], [1, 2]]
    data = padded(rows, side)
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand(3, 2, 4, 5, 5, generator=generator).to(dtype)  # example, two more axes, query, key
    assert data.attended is not None
    pattern[~data.attended[:, None, None].expand(3, 2, 4, 5)] = torch.nan  # what a padded query attends to
    chosen = data.attended & (torch.arange(5) != 3)
    for queries in (None, chosen):
        got = mass(pattern, targets(data, "induction"), queries)
        assert got.shape == (3, 2, 4)
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        for example, row in enumerate(rows):
            real = data.attended[example].nonzero().flatten().tolist()
            wanted = naive(row, "induction")
            sums: list[Tensor] = []
            for query, at in enumerate(real):
                keys = [key for number, key in enumerate(real) if wanted[query, number]]
                if keys and (queries is None or bool(queries[example, at])):
                    sums.append(pattern[example, :, :, at, keys].double().sum(-1))
            if sums:
                assert torch.allclose(got[example].double(), torch.stack(sums).mean(0), atol=1e-6)
            else:
                assert all(math.isnan(value) for value in got[example].flatten().tolist())
    assert not bool(mass(pattern, targets(data, "induction"))[:2].isnan().any())
