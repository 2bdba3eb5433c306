"""Sources and the gates that they make of importances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ablationlens as al
from ablationlens.spd.sources import check_sampling, gates_of, random_sources

Q, MLP = (0, "attn.q"), (1, "mlp.out")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gates_by_hand() -> None:
    lower = {Q: torch.tensor([[0.0, 1.0, 0.5, 0.25]])}
    sources = {Q: torch.tensor([[0.3, 0.3, 0.5, 1.0, 0.7]])}
    found = gates_of(lower, sources)[Q]
    assert torch.allclose(found.parts, torch.tensor([[0.3, 1.0, 0.75, 1.0]]))
    assert torch.equal(found.remainder, torch.tensor([[0.7]]))
    without = gates_of(lower, sources, remainder=False)[Q]
    assert torch.equal(without.parts, found.parts)
    assert torch.equal(without.remainder, torch.zeros(1, 1))


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_spd_requirement_07_gates_lie_between_importance_and_1(importance: float, source: float) -> None:
    lower = torch.tensor([importance], dtype=torch.float64)
    gate = float(gates_of({Q: lower}, {Q: torch.tensor([source, 0.0], dtype=torch.float64)})[Q].parts)
    assert importance - 1e-15 <= gate <= 1 + 1e-15
    assert gate == 1 if importance == 1 else True
    assert gate == source if importance == 0 else True


def test_continuous_sources_are_uniform_and_independent_between_modules() -> None:
    lower = {Q: torch.zeros(50, 6, 7), MLP: torch.zeros(50, 6, 7)}
    found = random_sources(lower, "continuous", generator())
    assert found[Q].shape == (50, 6, 8)
    for one in found.values():
        assert stats.kstest(one.flatten().numpy(), "uniform").pvalue > 1e-3
    both = torch.stack([found[Q].flatten(), found[MLP].flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.08


def test_binomial_sources_are_0_or_1_but_for_the_remainder() -> None:
    one = random_sources({Q: torch.zeros(50, 6, 7)}, "binomial", generator())[Q]
    parts = one[..., :-1]
    assert set(parts.unique().tolist()) == {0.0, 1.0}
    assert stats.binomtest(int(parts.sum()), parts.numel()).pvalue > 1e-3
    assert stats.kstest(one[..., -1].flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("sampling", ["continuous", "binomial"])
def test_spd_requirement_08_the_same_seed_gives_the_same_sources(sampling: str) -> None:
    lower = {Q: torch.zeros(3, 4), MLP: torch.zeros(3, 2, dtype=torch.float64)}
    first, second, other = (random_sources(lower, sampling, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[where], second[where]) for where in lower)
    assert not torch.equal(first[Q], other[Q])
    assert first[MLP].dtype == torch.float64


def test_bad_input() -> None:
    with pytest.raises(al.InputError, match="sampling is 'continuous' or 'binomial'; got 'gaussian'"):
        check_sampling("gaussian")
