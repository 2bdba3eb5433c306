"""Taps, bases and components."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.sites import Codes, Coordinates, Grouped, Location, Projected, RankOne, Tap, cutting_from_json
from tests import own_sites


@given(features=st.integers(1, 200), block=st.integers(1, 50))
def test_groups_of_coordinates_cover_every_feature_once(features: int, block: int) -> None:
    basis = Coordinates(features, block)
    groups = [range(j * block, min((j + 1) * block, features)) for j in range(basis.components)]
    assert [feature for group in groups for feature in group] == list(range(features))
    assert all(len(group) for group in groups)
    assert cutting_from_json(basis.to_json()) == basis


def test_bases_survive_json() -> None:
    V, U = torch.randn(5, 2), torch.randn(2, 7)
    for basis in (Coordinates(6, 2), Grouped(9, ((0, 4), (2,))), Projected(9), RankOne(V, U)):
        assert cutting_from_json(basis.to_json()) == basis
        assert hash(cutting_from_json(basis.to_json())) == hash(basis)
    with pytest.raises(al.InputError, match="unknown basis"):
        cutting_from_json({"basis": "fourier"})


def test_rank_one_has_the_remainder_as_its_last_component() -> None:
    basis = RankOne(torch.randn(5, 2), torch.randn(2, 7))
    assert basis.components == 3
    assert RankOne(basis.V.clone(), basis.U.clone()) == basis
    assert RankOne(basis.V, basis.U + 1e-6) != basis
    assert RankOne(basis.V.double(), basis.U) != basis
    for V, U in [((5, 2), (3, 7)), ((5,), (2, 7)), ((5, 2, 1), (2, 7))]:
        with pytest.raises((al.InputError, TypeError)):  # a wrong rank is also what jaxtyping refuses in the tests
            RankOne(torch.randn(V), torch.randn(U))


def test_taps_say_where_they_are() -> None:
    assert str(Tap(3, "attn.q", "out")) == "L3.attn.q.out"
    assert sorted([Tap(1, "a", "in"), Tap(0, "b", "out")])[0].layer == 0
    here = Location((("torch", "a"),), -1)
    assert Tap(0, "a", "out", here) != Tap(0, "a", "out")


def test_taps_survive_json_with_their_addresses() -> None:
    here = Location((("torch", "model.layers.3"), ("transformer_lens", "blocks.3.hook_out")), 2)
    for tap in (Tap(3, "attn.q", "out"), Tap(3, "mine", "in", here)):
        assert Tap.from_json(tap.to_json()) == tap
    assert Tap(3, "attn.q", "out").to_json() == [3, "attn.q", "out"]  # as before there were sites of one's own


def test_groups_hold_what_they_were_given() -> None:
    basis = Grouped(9, ((0, 4), (2,)))
    assert basis.components == 2
    assert [basis.members(index) for index in range(2)] == [(0, 4), (2,)]
    codes = Codes(own_sites.autoencoder(), basis)
    assert (codes.components, codes.members(0)) == (2, (0, 4))
    assert Codes(own_sites.autoencoder(), basis) == codes
    assert hash(Codes(own_sites.autoencoder(), basis)) == hash(codes)
    assert Codes(own_sites.autoencoder(1), basis) != codes
