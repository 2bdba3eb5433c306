"""`batch`: what it gathers, and what only fits inputs with positions."""

from __future__ import annotations

import pytest
import torch

from ablationlens.data import Batch, batch
from ablationlens.errors import InputError
from tests.data.examples import RIGHT, TEXTS


def test_everything_given_arrives_in_the_batch() -> None:
    data = batch(TEXTS, tokenizer=RIGHT, labels=[1, 2, 3], positions=0)
    assert isinstance(data, Batch) and len(data) == 3
    assert data.texts == tuple(TEXTS) and data.tokenizer is RIGHT
    assert data.labels is not None and data.labels.tolist() == [1, 2, 3]
    assert data.scored is not None and data.scored[:, 0].all() and data.scored.sum() == 3
    classified = batch(torch.rand(2, 3), tokenizer=RIGHT, labels=[1, 0])
    assert classified.labels is not None and classified.labels.tolist() == [1, 0]
    assert classified.scored is None and classified.texts is None and classified.tokenizer is RIGHT


def test_inputs_without_positions_take_no_positions() -> None:
    with pytest.raises(InputError, match="no positions"):
        batch(torch.rand(2, 3), positions=0)
