"""Importance functions: against one einsum a layer in float64, for every kind, depth and number of components."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ablationlens as al
from ablationlens.spd import importance_function

KINDS = ("mlp", "vector_mlp", "shared_mlp")


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def by_hand(kind: str, state: dict[str, Tensor], read: Tensor) -> Tensor:
    """The function layer by layer: its parameters are at the even places, and between them is an exact GELU."""
    x = read.double()
    count = len(state) // 2
    if kind != "shared_mlp":  # [*rows, component, width]
        components = state["layers.0.W"].shape[0]
        x = x[..., None] if kind == "mlp" else x[..., None, :].expand(*x.shape[:-1], components, -1)
    for layer in range(count):
        W, b = (state[f"layers.{2 * layer}.{name}"].double() for name in "Wb")
        x = torch.einsum("...i,io->...o" if kind == "shared_mlp" else "...ci,cio->...co", x, W) + b
        x = x if layer == count - 1 else gelu(x)
    return x if kind == "shared_mlp" else x[..., 0]


def made(kind: str, components: int, width: int, hidden: Sequence[int]) -> al.spd.functions.ImportanceFunction:
    function = importance_function(kind, components, width, hidden)
    with torch.no_grad():
        for parameter in function.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return function


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=0, max_size=3),
    st.lists(st.integers(1, 3), min_size=0, max_size=3),
)
def test_every_kind_is_its_layers_one_after_the_other(
    kind: str, components: int, width: int, hidden: list[int], rows: list[int]
) -> None:
    if kind != "shared_mlp" and not hidden:
        hidden = [2]
    function = made(kind, components, width, hidden)
    read = torch.randn(*rows, components if kind == "mlp" else width, generator=torch.Generator().manual_seed(2))
    found = function(read)
    assert found.shape == (*rows, components)
    assert torch.allclose(found.double(), by_hand(kind, function.state_dict(), read), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_layout_of_parameters_are_those_of_checkpoints(kind: str) -> None:
    state = {name: tuple(value.shape) for name, value in importance_function(kind, 7, 5, (4, 3)).state_dict().items()}
    first = {"mlp": (7, 1, 4), "vector_mlp": (7, 5, 4), "shared_mlp": (5, 4)}[kind]
    lead = () if kind == "shared_mlp" else (7,)
    last = 7 if kind == "shared_mlp" else 1
    assert state == {
        "layers.0.W": first,
        "layers.0.b": (*lead, 4),
        "layers.2.W": (*lead, 4, 3),
        "layers.2.b": (*lead, 3),
        "layers.4.W": (*lead, 3, last),
        "layers.4.b": (*lead, last),
    }


def test_a_network_of_one_component_does_not_see_the_others() -> None:
    function = made("mlp", 5, 3, (4,))
    read = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    changed = read.clone()
    changed[:, 2] += 1
    different = (function(read) != function(changed)).any(0)
    assert different.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_at_the_start_are_neither_all_small_nor_large(kind: str) -> None:
    """Variances are kept: an input of variance 1 gives outputs of about that size (a GELU passes about half)."""
    torch.manual_seed(0)
    function = importance_function(kind, 200, 50, (60, 60))
    found = function(torch.randn(300, 200 if kind == "mlp" else 50))
    assert 0.3 < float(found.detach().std()) < 2.0


@pytest.mark.parametrize(
    ("kind", "hidden", "message"),
    [
        ("gru", (3,), "no importance function 'gru': there are mlp, vector_mlp, shared_mlp"),
        ("mlp", (), r"'mlp' needs a hidden layer, hidden=\(16,\)"),
        ("vector_mlp", (), "'vector_mlp' needs a hidden layer"),
        ("shared_mlp", (0,), r"whole numbers from 1, such as \(16,\); got \(0,\)"),
        ("mlp", (4, -2), "whole numbers from 1"),
    ],
)
def test_bad_input(kind: str, hidden: tuple[int, ...], message: str) -> None:
    with pytest.raises(al.InputError, match=message):
        importance_function(kind, 3, 3, hidden)
