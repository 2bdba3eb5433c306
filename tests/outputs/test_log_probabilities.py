"""The cross-entropy and the Kullback-Leibler divergence."""

from __future__ import annotations

import pytest
import torch

from ablationlens.data import batch
from ablationlens.errors import InputError
from ablationlens.outputs import KL, CrossEntropy, Output, log_probabilities
from tests.outputs.examples import BATCHES, CLASSES, DENSE, INF, made, padded


def test_kl_of_equal_logits_is_zero_and_ruled_out_entries_count_for_nothing() -> None:
    data, logits = BATCHES["right"], made((3, 5, CLASSES)) * 20
    for direction in ("clean||ablated", "ablated||clean"):
        assert KL(direction)(logits, data, logits.clone()).abs().max() < 1e-7
    clean = made((3, 5, CLASSES), 1)
    ruled_out = torch.full((3, 5, 2), -INF)
    wide = torch.cat([logits, ruled_out], -1).requires_grad_()
    scores = KL()(wide, data, torch.cat([clean, ruled_out], -1))
    assert torch.allclose(scores, KL()(logits, data, clean), atol=1e-6)
    scores.sum().backward()
    assert wide.grad is not None and wide.grad.isfinite().all()
    # What the clean model thinks possible and the ablated one rules out is an infinite loss.
    assert KL()(torch.tensor([[0.0, -INF]]), batch(torch.rand(1, 2)), torch.tensor([[0.0, 0.0]])).item() == INF


@pytest.mark.parametrize("piece", [1, 2 * 4 * CLASSES, 3 * 4 * CLASSES])
@pytest.mark.parametrize("output", [CrossEntropy(), KL(), KL("ablated||clean")], ids=str)
def test_pieces_change_nothing(output: Output, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = padded([[1, 2, 3, 4, 5], [6, 5, 4], [3, 2], [4, 5, 6, 1], [2, 2]])
    logits, clean = made((5, 5, CLASSES)), made((5, 5, CLASSES), 1)
    with torch.no_grad():
        whole = output(logits, data, clean)
        monkeypatch.setattr(log_probabilities, "PIECE", piece)
        assert torch.equal(output(logits, data, clean), whole)
    assert torch.allclose(output(logits.requires_grad_(), data, clean), whole)


def test_a_direction_is_checked_when_a_kl_is_made() -> None:
    with pytest.raises(InputError, match=r"'clean\|\|ablated' or 'ablated\|\|clean', not 'forward'"):
        KL("forward")


def test_a_kl_without_the_unmodified_models_logits_is_refused() -> None:
    with pytest.raises(InputError, match="KL compares with the unmodified model"):
        KL()(made((2, 7)), DENSE)
