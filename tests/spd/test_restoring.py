"""Importance functions from the tensors of a file: the same function again, or what is wrong with the file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.spd.functions import FUNCTIONS, importance_function
from ablationlens.spd.restoring import restored

HIDDEN = {"mlp": (5,), "vector_mlp": (5, 3), "shared_mlp": ()}
State = dict[str, Tensor]


def state_of(kind: str, components: int = 4, width: int = 6) -> State:
    torch.manual_seed(0)
    state = importance_function(kind, components, width, HIDDEN[kind]).state_dict()
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_same_function_with_the_weights_of_the_file(kind: str, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in state_of(kind).items()}
    torch.manual_seed(0)
    original = importance_function(kind, 4, 6, HIDDEN[kind]).to(dtype)
    found = restored(kind, 4, 6, HIDDEN[kind], state)
    assert type(found) is FUNCTIONS[kind]
    assert found.hidden == HIDDEN[kind]
    assert {one.dtype for one in found.parameters()} == {dtype}
    assert {str(one.device) for one in found.parameters()} == {"cpu"}
    read = torch.randn(3, 7, 4 if found.reads_codes else 6).to(dtype)
    assert torch.equal(found(read), original(read))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_no_random_numbers_are_drawn(kind: str) -> None:
    state = state_of(kind)
    before = torch.get_rng_state()
    restored(kind, 4, 6, HIDDEN[kind], state)
    assert torch.equal(torch.get_rng_state(), before)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {key: change(value) if key == name else value for key, value in state.items()}


def entry(value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return change


LAST = "layers.4.b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without(LAST),
            r"the key 0/layers\.4\.b is missing: an importance function 'vector_mlp' of hidden widths \[5, 3\] for 4 "
            "components has it",
        ),
        (lambda state: {**state, "layers.6.W": state[LAST]}, r"the key 0/layers\.6\.W is one too many: .* has none"),
        (
            changed(LAST, lambda value: value[:3]),
            r"0/layers\.4\.b has shape \[3, 1\]: an importance .* for 4 components and 6 input .* has \[4, 1\] there",
        ),
        (changed(LAST, lambda value: value.T), r"0/layers\.4\.b has shape \[1, 4\]"),
        (changed(LAST, Tensor.double), r"0/layers\.4\.b is torch.float64: the weights of a function are of one float"),
        (changed(LAST, Tensor.int), r"0/layers\.4\.b is torch.int32: the weights of a function are of one float type"),
        (lambda state: {name: one.int() for name, one in state.items()}, r"0/layers\.0\.W is torch.int32"),
        (changed(LAST, entry(torch.nan)), r"0/layers\.4\.b holds NaN or infinity"),
        (changed("layers.0.W", entry(-torch.inf)), r"0/layers\.0\.W holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_named_as_in_the_file(change: Callable[[State], State], message: str) -> None:
    state = state_of("vector_mlp")
    wrong = change(state)
    with pytest.raises(al.StoreError, match=f"^{message}"):
        restored("vector_mlp", 4, 6, HIDDEN["vector_mlp"], wrong, "0/")
    restored("vector_mlp", 4, 6, HIDDEN["vector_mlp"], state, "0/")


def test_a_function_that_there_is_not() -> None:
    with pytest.raises(al.UnknownNameError, match="no importance function 'linear': there are mlp, vector_mlp"):
        restored("linear", 4, 6, (), {})
    with pytest.raises(al.InputError, match="an importance function 'mlp' needs a hidden layer"):
        restored("mlp", 4, 6, (), {})
