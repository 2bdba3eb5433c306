"""How a module stores its matrix."""

from __future__ import annotations

import nnsight
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import ablationlens as al
from ablationlens.adapters.orientation import bias, gives_new, matrix, orientation


def test_linear_and_conv1d_multiply_by_their_matrix() -> None:
    x = torch.randn(3, 5)
    for module in (nn.Linear(5, 7), Conv1D(7, 5), nn.Linear(5, 7, bias=False)):
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        how = orientation(module)
        assert how is not None
        assert (how.operation, how.rows, how.columns, how.feature_axis) == ("linear", 7, 5, -1)
        assert matrix(module).shape == (7, 5)
        added = bias(module)
        expected = x @ matrix(module).T + (0 if added is None else added)
        assert torch.allclose(module(x), expected, atol=1e-6)
        assert matrix(module).data_ptr() == module.weight.data_ptr()  # a view, not a copy


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Conv1d(3, 6, 2), torch.randn(2, 3, 9)),
        (nn.Conv2d(3, 6, 2), torch.randn(2, 3, 9, 9)),
        (nn.Conv3d(3, 6, 2), torch.randn(2, 3, 5, 5, 5)),
    ],
)
def test_convolutions_have_their_channels_on_axis_1(module: nn.Module, x: torch.Tensor) -> None:
    how = orientation(module)
    assert how is not None
    assert (how.operation, how.rows, how.columns) == ("convolution", 6, 3)
    assert module(x).shape[how.feature_axis] == how.rows
    assert x.shape[how.feature_axis] == how.columns
    with pytest.raises(al.AdapterError):
        matrix(module)


@pytest.mark.parametrize("module", [nn.ReLU(), nn.LayerNorm(4), nn.Embedding(4, 4), nn.Conv2d(4, 4, 3, groups=2)])
def test_other_modules_cannot_be_cut(module: nn.Module) -> None:
    assert orientation(module) is None


def test_what_a_forward_of_the_users_own_gives_may_be_somebody_elses() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Named(nn.Linear):
        pass

    own = [nn.Linear(3, 3), Named(3, 3), nn.Conv2d(3, 3, 1), nn.Embedding(3, 3), Conv1D(3, 3)]
    assert all(gives_new(module) for module in own)
    assert not gives_new(Own(3, 3))
    assert not gives_new(nn.ReLU())
    nnsight.NNsight(own[0])  # which puts a forward of its own into a module
    assert "forward" in vars(own[0])
    assert gives_new(own[0])
    own[1].forward = lambda x: x
    assert not gives_new(own[1])
