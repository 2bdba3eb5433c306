"""Importances and sources that are given: [example, position, C], or [1, 1, C] for all alike, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.spd import PGD, Stochastic
from ablationlens.spd.given import beside
from tests.conftest import Host, host_of
from tests.spd.small import COUNT, PLACES, decomposed

SQUARE = 7
"""As many examples as positions: an axis less would broadcast, and be taken for the other."""


def everywhere(value: float, *shape: int) -> dict[Any, Tensor]:
    return {where: torch.full(shape, value) for where in PLACES}


WRONG = [(SQUARE,), (SQUARE, 1), (1, SQUARE), (2, SQUARE), (SQUARE, 2), (1,), (), (1, 1, 1)]


@pytest.mark.parametrize("rows", WRONG, ids=str)
def test_spd_requirement_22_sources_are_of_every_row_or_the_same_for_all(
    rows: tuple[int, ...], torch_gpt2: Host
) -> None:
    mode = PGD(decomposed(torch_gpt2), 1)
    importances = everywhere(0.5, SQUARE, SQUARE, COUNT)
    expected = r"sources of L0.attn.q are \[7, 7, 7\], the remainder's last, or \[1, 1, 7\]"
    with pytest.raises((al.InputError, TypeError), match=f"{expected}|type"):  # beartype may be first
        mode.gates_with(importances, everywhere(0.5, *rows, COUNT + 1))
    with pytest.raises((al.InputError, TypeError), match="sources of L0.attn.q are|type"):
        mode.search(torch_gpt2.adapter, torch_gpt2.data(SQUARE), begin=everywhere(0.5, *rows, COUNT + 1))


@pytest.mark.parametrize("rows", WRONG, ids=str)
def test_spd_requirement_22_importances_are_of_every_row_or_the_same_for_all(
    rows: tuple[int, ...], torch_gpt2: Host
) -> None:
    mode, data = PGD(decomposed(torch_gpt2), 1), torch_gpt2.data(SQUARE)
    with pytest.raises((al.InputError, TypeError), match="importances of L0.attn.q are|type"):
        mode.search(torch_gpt2.adapter, data, everywhere(0.5, *rows, COUNT))


def test_spd_requirement_22_one_set_for_all_is_its_explicit_expansion(torch_gpt2: Host) -> None:
    mode, data = PGD(decomposed(torch_gpt2), 2, 0.2), torch_gpt2.data(SQUARE)
    generator = torch.Generator().manual_seed(0)
    alike = {where: torch.rand(1, 1, COUNT, generator=generator) for where in PLACES}
    begin = {where: torch.rand(1, 1, COUNT + 1, generator=generator) for where in PLACES}
    wide = [{at: one.expand(SQUARE, SQUARE, -1).clone() for at, one in held.items()} for held in (alike, begin)]
    first = mode.search(torch_gpt2.adapter, data, alike, begin=begin)
    second = mode.search(torch_gpt2.adapter, data, wide[0], begin=wide[1])
    assert torch.equal(first.trace, second.trace)
    assert all(torch.equal(first.sources[where], second.sources[where]) for where in PLACES)
    gates = [mode.gates_with(wide[0], one)[PLACES[0]].parts for one in (begin, wide[1])]
    assert torch.equal(*gates)
    assert first.sources[PLACES[0]].shape == (SQUARE, SQUARE, COUNT + 1)  # they part from one another
    assert not torch.equal(first.sources[PLACES[0]][0], first.sources[PLACES[0]][1])


def test_a_mode_of_ones_own_whose_sources_lack_the_positions_is_refused(torch_gpt2: Host) -> None:
    class ByExample(Stochastic):
        def sources(self, adapter: Any, data: Any, importances: Any, sample: int) -> Mapping[Any, Tensor]:
            return {where: one[:, 0] for where, one in super().sources(adapter, data, importances, sample).items()}

    decomposition = decomposed(torch_gpt2)
    model = al.MaskedModel(
        torch_gpt2.adapter, decomposition.registry(torch_gpt2.adapter), output=al.KL(), base=ByExample(decomposition)
    )
    with pytest.raises((al.InputError, TypeError), match=r"got \[7, 7\]|type"):
        model(model.mask(), torch_gpt2.data(SQUARE))


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_numbers_outside_0_to_1_are_refused(value: float, torch_gpt2: Host) -> None:
    mode, data = PGD(decomposed(torch_gpt2), 1), torch_gpt2.data(3)
    inside, outside = everywhere(0.5, 3, 7, COUNT), everywhere(0.5, 3, 7, COUNT)
    outside[1, "attn.o"][1, 2, 3] = value
    with pytest.raises(al.InputError, match=r"importances are numbers from 0 to 1; those of L1.attn.o go from"):
        mode.search(torch_gpt2.adapter, data, outside)
    with pytest.raises(al.InputError, match=r"importances are numbers from 0 to 1; those of L1.attn.o go from"):
        mode.gates_with(outside, everywhere(0.5, 3, 7, COUNT + 1))
    begin = everywhere(0.5, 3, 7, COUNT + 1)
    begin[0, "attn.v"][0, 0, 0] = value
    with pytest.raises(al.InputError, match=r"sources are numbers from 0 to 1; those of L0.attn.v go from"):
        mode.search(torch_gpt2.adapter, data, inside, begin=begin)


def test_importances_of_another_decomposition_are_refused(torch_gpt2: Host) -> None:
    mode, data = PGD(decomposed(torch_gpt2), 1), torch_gpt2.data(3)
    given = everywhere(0.5, 3, 7, COUNT)
    fewer = {where: one for where, one in given.items() if where != (1, "attn.o")}
    with pytest.raises(al.InputError, match=r"importances are of every module .* there are none of L1.attn.o"):
        mode.search(torch_gpt2.adapter, data, fewer)
    with pytest.raises(al.InputError, match=r"importances are of every module .* has no L5.attn.q"):
        mode.search(torch_gpt2.adapter, data, {**given, (5, "attn.q"): given[0, "attn.q"]})
    with pytest.raises(al.InputError, match=r"the importances of L0.attn.q are a tensor of 4 examples, or \[1, ...\]"):
        mode.search(torch_gpt2.adapter, torch_gpt2.data(4), given)


def test_sources_that_all_rows_share_stay_alike(torch_gpt2: Host) -> None:
    mode, data = PGD(decomposed(torch_gpt2), 1, scope="shared"), torch_gpt2.data(3)
    found = mode.search(torch_gpt2.adapter, data, begin=everywhere(0.5, 1, 1, COUNT + 1))
    assert found.sources[0, "attn.q"].shape == (1, 1, COUNT + 1)
    with pytest.raises(al.InputError, match=r"with a scope of 'shared' the sources of L0.attn.q are \[1, 1, 7\]"):
        mode.search(torch_gpt2.adapter, data, begin=everywhere(0.5, 3, 7, COUNT + 1))


def test_a_model_without_positions() -> None:
    host = host_of("torch", "mlp")
    mode, data = PGD(decomposed(host), 1, output="mse"), host.data(4)
    alike = {where: torch.full((1, COUNT), 0.5) for where in decomposed(host).places}
    wide = {where: one.expand(4, -1) for where, one in alike.items()}
    first, second = (mode.search(host.adapter, data, one) for one in (alike, wide))
    assert torch.equal(first.trace, second.trace)
    with pytest.raises((al.InputError, TypeError), match=r"\[examples, 6\], or \[1, 6\]|type"):
        mode.search(host.adapter, data, {where: one[:, None] for where, one in wide.items()})


def test_what_stands_beside_importances_has_their_rows_or_one_for_all() -> None:
    importances, index = torch.zeros(2, 5, 3), torch.tensor([1, 2])
    for shape in ((4, 5, 3), (4, 1, 3), (1, 5, 3), (1, 1, 3)):
        one = torch.rand(shape)
        assert torch.equal(beside(one, "moving", PLACES[0], 3, index, importances), one if shape[0] == 1 else one[1:3])
    for shape in ((4, 4, 3), (4, 5, 2), (5, 3), (4, 5, 1, 3)):
        with pytest.raises(al.InputError, match=r"moving of L0.attn.q are \[examples, 5, 3\], with 1 for"):
            beside(torch.rand(shape), "moving", PLACES[0], 3, index, importances)
