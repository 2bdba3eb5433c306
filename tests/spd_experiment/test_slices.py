"""Components restricted to a head: which features those are, and what the columns of a split add up to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.spd import Decomposition
from ablationlens.spd.forward import Gates
from ablationlens.spd_experiment.slices import Restricted, Slice, Split, slice_of
from tests import models
from tests.conftest import Host, host_of
from tests.spd.small import COUNT, PLACES, decomposed, decomposed_at
from tests.spd.test_fused import fused
from tests.spd_experiment.by_hand import SIZE

Q, V, O, MLP = PLACES  # noqa: E741
PART = "L0.attn.q rank_one 2"
ATTENTION = tuple((1, f"attn.{name}") for name in "qkvo")


def cut(host: Host, what: Restricted, decomposition: Decomposition | None = None) -> Slice:
    own = decomposed(host) if decomposition is None else decomposition
    return slice_of(what, own, own.registry(host.adapter), host.adapter)


def unchecked(component: Any, head: Any) -> Restricted:
    """A restricted component as it is where no types are checked."""
    found = Restricted(PART, 0)
    object.__setattr__(found, "component", component)
    object.__setattr__(found, "head", head)
    return found


# -- what a restricted component is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "name"), [("torch", "gpt2"), ("transformer_lens", "llama"), ("nnsight", "gpt2")])
@pytest.mark.parametrize("own", "qkvo")
def test_the_features_of_a_head_are_its_rows_and_those_of_the_output_projection_its_columns(
    held: str, name: str, own: str
) -> None:
    """Each head of a key or value that query heads share has one slice."""
    host = host_of(held, name)
    decomposition = decomposed_at(host, ATTENTION)
    weight, _ = models.part(host.reference, 1, f"attn.{own}")
    count = weight.shape[1 if own == "o" else 0] // SIZE
    assert count == (models.HEADS // 2 if name == "llama" and own in "kv" else models.HEADS)
    for head in range(count):
        found = cut(host, Restricted(f"L1.attn.{own} rank_one 4", head), decomposition)
        features = tuple(range(head * SIZE, (head + 1) * SIZE))
        assert found == Slice((1, f"attn.{own}"), 4, features, "in" if own == "o" else "out", head)
    with pytest.raises(al.UnknownNameError, match=f"no head {count} in L1.attn.{own}: it has {count} .*heads, 0 to"):
        cut(host, Restricted(f"L1.attn.{own} rank_one 4", count), decomposition)


@pytest.mark.parametrize("projection", ["q", "k", "v"])
def test_a_fused_matrix_has_the_features_of_a_head_once_for_each_projection(projection: Any, torch_gpt2: Host) -> None:
    found = cut(torch_gpt2, Restricted("L0.attn.qkv rank_one 3", 2, projection), fused(torch_gpt2))
    begin = "qkv".index(projection) * models.WIDTH + 2 * SIZE
    assert found == Slice((0, "attn.qkv"), 3, tuple(range(begin, begin + SIZE)), "out", 2, projection)
    assert str(found) == f"L0.attn.qkv rank_one 3 in head 2, {projection}"


def test_components_go_by_name_or_as_themselves_and_heads_are_integers_of_any_kind(torch_gpt2: Host) -> None:
    registry = decomposed(torch_gpt2).registry(torch_gpt2.adapter)
    component = registry[registry.column(PART)]
    expected = cut(torch_gpt2, Restricted(PART, 1))
    for what in (Restricted(component, 1), Restricted(PART, 1, "q"), unchecked(PART, np.int64(1))):
        assert cut(torch_gpt2, what) == expected
    assert type(cut(torch_gpt2, unchecked(PART, np.int64(1))).head) is int  # which JSON knows
    assert str(Restricted(component, 1)) == str(Restricted(PART, 1)) == str(expected) == f"{PART} in head 1"
    assert str(Restricted("L0.attn.qkv rank_one 2", 3, "v")) == "L0.attn.qkv rank_one 2 in head 3, v"


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (Restricted(PART, 4), al.UnknownNameError, "no head 4 in L0.attn.q: it has 4 heads, 0 to 3"),
        (Restricted(PART, -1), al.UnknownNameError, "no head -1"),
        (Restricted(PART, True), al.UnknownNameError, "no head True"),
        (Restricted("L0.attn.q rank_one 9", 1), al.UnknownNameError, "L0.attn.q rank_one"),
        (Restricted("L1.attn.q rank_one 0", 1), al.UnknownNameError, "no component 'L1.attn.q rank_one 0'"),
        (Restricted("L0.attn.q remainder", 1), al.InputError, "'L0.attn.q remainder' is a remainder and no rank-one"),
        (Restricted("L1.mlp.out rank_one 0", 1), al.InputError, "'L1.mlp.out rank_one 0' cannot be restricted"),
        (Restricted(PART, 1, "k"), al.InputError, "'L0.attn.q rank_one 2' is of q alone: leave projection='k' out"),
    ],
)  # fmt: skip
def test_bad_input(what: Restricted, error: type[Exception], message: str, torch_gpt2: Host) -> None:
    with pytest.raises(error, match=message):
        cut(torch_gpt2, what)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (
            Restricted("L0.attn.qkv rank_one 2", 1),
            al.InputError,
            r"say which, al.spd.Restricted\('L0.attn.qkv rank_one 2', head=1, projection='q'\); got None",
        ),
        (
            Restricted("L0.attn.qkv rank_one 2", 4, "k"),
            al.UnknownNameError,
            "no head 4 in L0.attn.qkv: it has 4 key/value heads, 0 to 3",
        ),
        (Restricted("L1.mlp.out rank_one 2", 1, "q"), al.InputError, "only components of attn.q"),
    ],
)
def test_bad_input_of_fused_matrices(what: Restricted, error: type[Exception], message: str, torch_gpt2: Host) -> None:
    with pytest.raises(error, match=message):
        cut(torch_gpt2, what, fused(torch_gpt2))


def test_a_component_goes_by_its_name_and_not_by_its_column(torch_gpt2: Host) -> None:
    with pytest.raises(al.InputError, match=r"al.spd.Restricted\('L1.attn.q rank_one 5', head=2\); got 2"):
        cut(torch_gpt2, unchecked(2, 1))


def test_spd_requirement_24_slices_of_keys_and_values_count_key_value_heads() -> None:
    llama = host_of("torch", "llama")
    with pytest.raises(al.UnknownNameError, match="no head 2 in L0.attn.v: it has 2 key/value heads, 0 to 1"):
        cut(llama, Restricted("L0.attn.v rank_one 0", 2))


def test_a_model_without_attention_has_no_slices(small: Host) -> None:
    decomposition = decomposed(small)
    name = decomposition.registry(small.adapter).names[0]
    with pytest.raises(al.InputError, match="cannot be restricted to a head"):
        cut(small, Restricted(name, 0))


# -- what a split adds up to -------------------------------------------------------------------------------------------


def slices_of(host: Host, asked: list[tuple[Any, int, int]]) -> list[Slice]:
    return [cut(host, Restricted(f"L{layer}.{name} rank_one {at}", head)) for (layer, name), at, head in asked]


def matrix_at(split: Split, column: int) -> torch.Tensor:
    """What a column of the registry is, [out, in], from the factors that it holds."""
    component = split.registry[column]
    basis: Any = component.site.basis
    return torch.outer(basis.U[component.index], basis.V[:, component.index])


ASKED = st.lists(
    st.tuples(st.sampled_from([Q, V, O]), st.integers(0, COUNT - 1), st.integers(0, models.HEADS - 1)), max_size=7
)


@settings(max_examples=25, deadline=None)
@given(asked=ASKED)
def test_columns_of_a_component_add_up_to_it_and_that_of_a_slice_is_the_block_of_its_head(asked: Any) -> None:
    host = host_of("torch", "gpt2")
    decomposition, slices = decomposed(host), slices_of(host, asked)
    split = Split(host.adapter, decomposition, slices)
    assert len(split.registry) == len(PLACES) * (COUNT + 1) + len(set(slices))
    seen: list[int] = []
    for where, part in decomposition.items():
        for index in range(COUNT):
            columns = split.columns(where, index)
            whole = torch.outer(part.U[index], part.V[:, index])
            assert torch.equal(torch.stack([matrix_at(split, column) for column in columns]).sum(0), whole)
            own = {one for one in slices if (one.where, one.index) == (where, index)}
            assert sorted(split.column(one) for one in own) == sorted(columns[1:])
            seen += columns
            for one in own:
                block = torch.zeros_like(whole)
                at = list(one.features)
                if where == O:
                    block[:, at] = whole[:, at]
                else:
                    block[at] = whole[at]
                assert torch.equal(matrix_at(split, split.column(one)), block)
        (last,) = split.columns(where, COUNT)
        assert split.registry.names[last] == f"L{where[0]}.{where[1]} remainder"
        seen.append(last)
    assert sorted(seen) == list(range(len(split.registry)))


@settings(max_examples=25, deadline=None)
@given(asked=ASKED, positions=st.booleans())
def test_gates_are_laid_out_by_column_slices_with_those_of_their_components(asked: Any, *, positions: bool) -> None:
    host = host_of("torch", "gpt2")
    slices = slices_of(host, asked)
    split, rows = Split(host.adapter, decomposed(host), slices), (3, 7) if positions else (3,)
    generator = torch.Generator().manual_seed(1)
    gates = {
        where: Gates(torch.rand(*rows, COUNT, generator=generator), torch.rand(*rows, 1, generator=generator))
        for where in PLACES
    }
    gates[V] = Gates(gates[V].parts[:1], gates[V].remainder)  # the same for all examples
    laid = split.laid_out(gates)
    assert laid.shape == (*rows, len(split.registry))
    for where, (parts, remainder) in gates.items():
        for index in range(COUNT):
            for column in split.columns(where, index):
                assert torch.equal(laid[..., column], parts[..., index].expand(rows))
        (last,) = split.columns(where, COUNT)
        assert torch.equal(laid[..., last], remainder[..., 0])
    back = split.by_module(laid)
    for where, (parts, remainder) in gates.items():
        assert torch.equal(back[where].parts, parts.expand(*rows, COUNT))
        assert torch.equal(back[where].remainder, remainder)


def test_without_slices_a_split_is_the_decompositions_registry(torch_gpt2: Host) -> None:
    decomposition = decomposed(torch_gpt2)
    own = decomposition.registry(torch_gpt2.adapter)
    assert Split(torch_gpt2.adapter, decomposition).registry.fingerprint == own.fingerprint


def test_a_split_leaves_the_decomposition_as_it_was(torch_gpt2: Host) -> None:
    decomposition = decomposed(torch_gpt2)
    before = decomposition.fingerprint
    split = Split(torch_gpt2.adapter, decomposition, slices_of(torch_gpt2, [(Q, 2, 1), (O, 0, 3)]))
    assert decomposition.fingerprint == before
    for part in split.registry.parts:
        basis: Any = part.site.basis
        assert not basis.V.requires_grad
        assert not basis.U.requires_grad
