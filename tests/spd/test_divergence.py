"""Divergence of outputs, against torch.distributions and plain means."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

import ablationlens as al
from ablationlens.spd.divergence import check_divergence, diverged


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def padded() -> al.Batch:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
    return al.batch({"input_ids": torch.ones(3, 4, dtype=torch.long), "attention_mask": mask})


def test_spd_requirement_19_kl_is_that_of_torch_distributions_without_padding() -> None:
    batch, ours, theirs = padded(), 2 * randn(3, 4, 6), 2 * randn(3, 4, 6, seed=1)
    by_position = kl_divergence(Categorical(logits=theirs.double()), Categorical(logits=ours.double()))
    real = batch.attended
    assert real is not None
    expected = torch.stack([by_position[row][real[row]].mean() for row in range(3)])
    assert torch.allclose(diverged(ours, theirs, batch, "kl").double(), expected, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_spd_requirement_19_kl_is_0_of_the_same_and_never_below(seed: int, scale: float) -> None:
    logits = scale * randn(3, 4, 6, seed=seed)
    assert float(diverged(logits, logits + 3, padded(), "kl").abs().max()) < 1e-5
    assert float(diverged(logits, logits, padded(), "kl").abs().max()) == 0
    assert float(diverged(logits, scale * randn(3, 4, 6, seed=seed + 1), padded(), "kl").min()) > -1e-6


def test_mse_is_a_mean_over_features_and_real_positions() -> None:
    batch, ours, theirs = padded(), randn(3, 4, 6), randn(3, 4, 6, seed=1)
    real = batch.attended
    assert real is not None
    expected = torch.stack([((ours[row] - theirs[row]) ** 2)[real[row]].mean() for row in range(3)])
    assert torch.allclose(diverged(ours, theirs, batch, "mse"), expected, atol=1e-6)


@pytest.mark.parametrize("divergence", ["kl", "mse"])
def test_outputs_without_positions(divergence: str) -> None:
    batch, ours, theirs = al.batch(randn(3, 4)), randn(3, 6), randn(3, 6, seed=1)
    expected = {
        "kl": kl_divergence(Categorical(logits=theirs), Categorical(logits=ours)),
        "mse": (ours - theirs).square().mean(1),
    }[divergence]
    assert torch.allclose(diverged(ours, theirs, batch, divergence), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_small_dtypes_are_widened_and_float64_stays(dtype: torch.dtype) -> None:
    batch, ours, theirs = al.batch(randn(3, 4)), randn(3, 6).to(dtype), randn(3, 6, seed=1).to(dtype)
    found = diverged(ours, theirs, batch, "kl")
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = kl_divergence(Categorical(logits=theirs.double()), Categorical(logits=ours.double()))
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_entries_that_a_model_rules_out_count_for_nothing() -> None:
    """Logits of -inf: 0 log 0 = 0, in the divergence and in its gradient."""
    ours, theirs = randn(3, 6).requires_grad_(), randn(3, 6, seed=1)
    gone = torch.tensor([False, True, False, False, True, False])
    batch = al.batch(randn(3, 4))
    expected = kl_divergence(Categorical(logits=theirs[:, ~gone]), Categorical(logits=ours[:, ~gone]))
    found = diverged(ours.masked_fill(gone, -torch.inf), theirs.masked_fill(gone, -torch.inf), batch, "kl")
    assert torch.allclose(found, expected, atol=1e-6)
    slopes = [torch.autograd.grad(one.sum(), ours)[0] for one in (found, expected)]
    assert torch.allclose(*slopes, atol=1e-6)


def test_bad_input() -> None:
    with pytest.raises(al.InputError, match=r"output is 'kl' \(predictions\) or 'mse' \(numbers\); got 'js'"):
        check_divergence("js")
