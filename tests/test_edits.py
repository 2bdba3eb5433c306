"""The equation, as pure tensor functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablationlens.edits import Coded, Lerp, LowRank, coded, lerp, low_rank
from tests.models import close

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_place", [False, True])
@given(seed=st.integers(0, 10_000), size=st.floats(1e-3, 1e4))
@settings(max_examples=15, deadline=None)
def test_lerp_is_exact_at_both_ends(dtype: torch.dtype, in_place: bool, seed: int, size: float) -> None:
    out = (size * randn(3, 5, 7, seed=seed)).to(dtype)
    stand_in = (randn(7, seed=seed + 1) / size).to(dtype)
    off = (torch.rand(3, 1, 7, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    before = out.clone()
    edited = lerp(out, Lerp(off, stand_in), in_place=in_place)
    expected = torch.where(off.bool().expand_as(before), stand_in.expand_as(before), before)
    assert edited.dtype == dtype
    assert torch.equal(edited, expected)
    assert (edited is out) == in_place
    assert in_place or torch.equal(out, before)


def test_lerp_between_the_ends_is_the_equation() -> None:
    out, stand_in, mask = (
        randn(4, 6, dtype=torch.float64),
        randn(6, seed=1, dtype=torch.float64),
        torch.rand(4, 6).double(),
    )
    expected = out + (1 - mask) * (stand_in - out)
    assert torch.allclose(lerp(out, Lerp(1 - mask, stand_in)), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_remainder", [False, True])
def test_low_rank_is_bit_equal_where_everything_is_kept(dtype: torch.dtype, with_remainder: bool) -> None:
    read, out = randn(2, 3, 5, dtype=dtype), randn(2, 3, 8, seed=1, dtype=dtype)
    edit = LowRank(
        V=randn(5, 4, seed=2, dtype=dtype),
        U=randn(4, 8, seed=3, dtype=dtype),
        off=torch.zeros(2, 1, 4),
        off_remainder=torch.zeros(2, 1, 1) if with_remainder else None,
        read_stand_in=torch.zeros(5),
        write_stand_in=randn(8, seed=4) if with_remainder else None,
        features=slice(0, 8),
    )
    assert torch.equal(low_rank(out, read, edit), out)


@pytest.mark.parametrize("with_remainder", [False, True])
@pytest.mark.parametrize("with_v", [False, True])
@pytest.mark.parametrize("features", [slice(0, 8), slice(3, 11), slice(4, 12)])
def test_low_rank_is_the_dense_formula(with_remainder: bool, with_v: bool, features: slice) -> None:
    """write += decode((1 - mask) * (replacement - encode(read))), with the remainder as one more dense matrix."""
    f64 = torch.float64
    read, x0 = randn(2, 3, 5, dtype=f64), randn(5, seed=9, dtype=f64)
    W, bias = randn(8, 5, seed=1, dtype=f64), randn(8, seed=5, dtype=f64)
    V = randn(5, 4, seed=2, dtype=f64) if with_v else torch.eye(5, dtype=f64)
    U = randn(V.shape[1], 8, seed=3, dtype=f64)
    size = 8 if features == slice(0, 8) else 12
    whole = randn(2, 3, size, seed=6, dtype=f64)
    whole[..., features] = read @ W.T + bias
    parts = torch.rand(2, 1, V.shape[1], dtype=f64)
    rest = torch.rand(2, 1, 1, dtype=f64) if with_remainder else torch.ones(2, 1, 1, dtype=f64)
    expected = whole.clone()
    for row in range(2):
        for c in range(V.shape[1]):
            part = torch.outer(U[c], V[:, c])
            expected[row][..., features] += (1 - parts[row, 0, c]) * (x0 - read[row]) @ part.T
        remainder = W - (V @ U).T
        expected[row][..., features] += (1 - rest[row, 0, 0]) * (x0 - read[row]) @ remainder.T
    edit = LowRank(
        V=V if with_v else None,
        U=U,
        off=1 - parts,
        off_remainder=1 - rest if with_remainder else None,
        read_stand_in=x0,
        write_stand_in=W @ x0 + bias if with_remainder else None,
        features=features,
    )
    before = whole.clone()
    assert torch.allclose(low_rank(whole, read, edit), expected, atol=1e-10)
    assert torch.equal(whole, before)


@pytest.mark.parametrize("features", [slice(0, 8), slice(3, 11), torch.tensor([7, 0, 3, 9, 1, 2, 10, 5])])
@pytest.mark.parametrize("with_remainder", [False, True])
@pytest.mark.parametrize("with_v", [False, True])
def test_low_rank_in_place_is_the_same_and_leaves_what_it_reads(
    features: slice | torch.Tensor, with_remainder: bool, with_v: bool
) -> None:
    read, whole = randn(2, 3, 5), randn(2, 3, 8 if features == slice(0, 8) else 12, seed=1)
    edit = LowRank(
        V=randn(5, 4, seed=2) if with_v else None,
        U=randn(4 if with_v else 5, 8, seed=3),
        off=torch.rand(2, 1, 4 if with_v else 5),
        off_remainder=torch.rand(2, 1, 1) if with_remainder else None,
        read_stand_in=None,
        write_stand_in=randn(8, seed=4) if with_remainder else None,
        features=features,
    )
    before = read.clone(), whole.clone()
    expected = low_rank(whole, read, edit)
    assert torch.equal(whole, before[1])
    assert torch.equal(low_rank(whole, read, edit._replace(read_stand_in=torch.zeros(5))), expected)
    for watched in ("off", "U"):  # where a graph is built, what is fresh may still be in it
        with_graph = edit._replace(**{watched: getattr(edit, watched).clone().requires_grad_()})
        got = low_rank(whole.clone(), read, with_graph, in_place=True)
        assert close(got, expected)
        assert got.requires_grad
        got.sum().backward()
    assert close(low_rank(whole, read, edit, in_place=True), expected)
    assert torch.equal(read, before[0])


@pytest.mark.parametrize("with_graph", [False, True])
def test_autocast_rounds_products_and_not_what_they_are_added_to(with_graph: bool) -> None:
    """An embedding gives float32 under autocast: with all kept it is what it was, to the last bit."""
    tokens, out = torch.tensor([[0, 2], [1, 1]]), randn(2, 2, 8)
    off = torch.zeros(2, 1, 4, requires_grad=with_graph)
    edit = LowRank(randn(3, 4, seed=1), randn(4, 8, seed=2), off, None, None, None, slice(0, 8))
    with torch.autocast("cpu", torch.bfloat16):
        got = low_rank(out, tokens, edit)
    assert got.dtype == out.dtype
    assert got.requires_grad == with_graph
    assert torch.equal(got, out)


def test_edits_are_differentiable_in_gate_and_stand_in() -> None:
    f64 = torch.float64
    out, read = randn(2, 3, 4, dtype=f64), randn(2, 3, 5, seed=1, dtype=f64)
    off = torch.rand(2, 1, 4, dtype=f64, requires_grad=True)
    stand_in = randn(4, seed=2, dtype=f64).requires_grad_()
    assert torch.autograd.gradcheck(lambda o, s: lerp(out, Lerp(o, s)), (off, stand_in))
    V, U = randn(5, 4, seed=3, dtype=f64), randn(4, 4, seed=4, dtype=f64)
    rest = torch.rand(2, 1, 1, dtype=f64, requires_grad=True)
    x0 = randn(5, seed=5, dtype=f64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda o, r, x, w: low_rank(out, read, LowRank(V, U, o, r, x, w, slice(0, 4))), (off, rest, x0, stand_in)
    )


def test_gates_in_float32_do_not_widen_a_half_precision_activation() -> None:
    out = randn(2, 4, dtype=torch.bfloat16)
    edited = lerp(out, Lerp(torch.full((2, 4), 0.5), torch.zeros(4)))
    assert edited.dtype == torch.bfloat16
    assert close(edited.float(), out.float() / 2, 1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("code_dtype", [torch.float32, torch.float64])
def test_coded_is_bit_equal_where_everything_is_kept(dtype: torch.dtype, code_dtype: torch.dtype) -> None:
    out, W = randn(2, 3, 5, dtype=dtype), randn(5, 7, seed=1, dtype=code_dtype)
    edit = Coded(lambda x: (x.to(W) @ W).relu(), lambda codes: codes @ W.T, torch.zeros(2, 1, 7), randn(7, seed=2))
    edited = coded(out, out, edit)
    assert edited.dtype == dtype
    assert torch.equal(edited, out)


def test_coded_is_the_equation() -> None:
    """write += decode((1 - mask) * (replacement - encode(read))), one code after the other."""
    f64 = torch.float64
    out, read = randn(2, 3, 4, dtype=f64), randn(2, 3, 5, seed=1, dtype=f64)
    W, D, stand_in = (randn(*shape, seed=seed, dtype=f64) for seed, shape in enumerate([(5, 7), (7, 4), (2, 3, 7)], 2))
    mask = torch.rand(2, 1, 7, dtype=f64)
    codes = torch.tanh(read @ W)
    expected = out.clone()
    for row in range(2):
        for code in range(7):
            difference = stand_in[row, :, code] - codes[row, :, code]
            expected[row] += (1 - mask[row, 0, code]) * difference[:, None] * D[code]
    before = out.clone()
    edit = Coded(lambda x: torch.tanh(x @ W), lambda codes: codes @ D, 1 - mask, stand_in)
    assert torch.allclose(coded(out, read, edit), expected, atol=1e-12)
    assert torch.equal(out, before)


def test_coded_is_differentiable_in_gate_stand_in_and_activation() -> None:
    f64 = torch.float64
    W, D = randn(5, 7, dtype=f64), randn(7, 4, seed=1, dtype=f64)
    off = torch.rand(2, 1, 7, dtype=f64, requires_grad=True)
    stand_in, read, out = (
        randn(*shape, seed=seed, dtype=f64).requires_grad_()
        for seed, shape in enumerate([(7,), (2, 3, 5), (2, 3, 4)], 2)
    )
    assert torch.autograd.gradcheck(
        lambda o, s, r, x: coded(x, r, Coded(lambda y: torch.tanh(y @ W), lambda c: c @ D, o, s)),
        (off, stand_in, read, out),
    )
