"""Routing: which modules are gated where."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from scipy import stats

import ablationlens as al
from ablationlens.spd.forward import Gates
from ablationlens.spd.routing import check_routing, random_subsets, routed

WHERE = ((0, "attn.q"), (0, "attn.v"), (1, "mlp.out"))


def gates(rows: tuple[int, ...] = (3, 4)) -> dict[tuple[int, str], Gates]:
    return {where: Gates(torch.full((*rows, 5), 0.25), torch.full((*rows, 1), 0.5)) for where in WHERE}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_is_one_pass_of_every_module() -> None:
    (only,) = routed(gates(), "all", generator())
    assert tuple(only) == WHERE
    assert all(bool((one.parts == 0.25).all() and (one.remainder == 0.5).all()) for one in only.values())


def test_layerwise_is_a_pass_for_each_module_alone() -> None:
    assert [tuple(one) for one in routed(gates(), "layerwise", generator())] == [(where,) for where in WHERE]


def test_a_module_that_is_not_chosen_at_a_position_is_wholly_kept_there() -> None:
    (only,) = routed(gates((40, 10)), "subset", generator())
    kept = torch.stack([(one.parts == 1).all(-1) for one in only.values()])
    gated = torch.stack([(one.parts == 0.25).all(-1) & (one.remainder == 0.5)[..., 0] for one in only.values()])
    assert bool((kept ^ gated).all())
    for chosen, one in zip(kept, only.values(), strict=True):
        assert bool((one.remainder[chosen] == 1).all())
    assert bool((gated.sum(0) >= 1).all())


def test_subsets_have_a_uniform_size_and_every_set_of_a_size_is_as_likely() -> None:
    chosen = random_subsets(3, torch.Size([6000]), generator(1))
    sizes = chosen.sum(0)
    assert stats.chisquare([int((sizes == size).sum()) for size in (1, 2, 3)]).pvalue > 1e-3
    counts = Counter(tuple(one) for one in chosen.T.tolist())
    for size in (1, 2):
        sets = [one for one in product((False, True), repeat=3) if sum(one) == size]
        assert stats.chisquare([counts[one] for one in sets]).pvalue > 1e-3
    assert (False, False, False) not in counts


def test_subsets_are_of_the_generator_alone() -> None:
    first, second, other = (random_subsets(4, torch.Size([5, 6]), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_bad_input() -> None:
    with pytest.raises(al.InputError, match="routing is one of all, layerwise, subset; got 'half'"):
        check_routing("half")
    uneven = gates() | {(1, "mlp.out"): gates((3,))[1, "mlp.out"]}
    with pytest.raises(al.InputError, match=r"L0.attn.q runs on \[3, 4\] rows and L1.mlp.out on \[3\].*'layerwise'"):
        list(routed(uneven, "subset", generator()))
