"""Held-out loss and the unigram baseline, against models whose loss is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ablationlens.zoo.measure import held_out_losses, log_unigram


class Uniform(nn.Module):
    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))


def test_the_unigram_model_is_a_smoothed_distribution() -> None:
    unigram = log_unigram(np.array([7, 0, 1, 0]))
    assert unigram.exp().tolist() == pytest.approx([8 / 12, 1 / 12, 2 / 12, 1 / 12])


def test_losses_leave_out_the_first_token() -> None:
    ids = torch.tensor([[3, 0, 0], [3, 0, 2]])
    unigram = torch.tensor([0.5, 0.125, 0.25, 0.125]).log()
    losses = held_out_losses(Uniform(), ids, unigram)
    assert losses["model"] == pytest.approx(np.log(4), abs=1e-4)
    assert losses["unigram"] == pytest.approx((3 * np.log(2) + np.log(4)) / 4, abs=1e-4)
    assert "unigram_of_domain" not in losses
