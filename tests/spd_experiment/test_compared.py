"""Predictions of one model against those of another: every measure, against NumPy and SciPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr

import ablationlens as al
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.spd_experiment.compared import compared, kl_of, nothing, predictions
from tests import models
from tests.conftest import Host, host_of
from tests.diagnostics.test_patterns import padded

ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]


def by_formula(before: Any, after: Any, labels: Any) -> np.ndarray:
    """The measures of two sets of logits, [measure, ...], by what their names say; NaN without a label."""
    log_p, log_q = (log_softmax(np.asarray(one, dtype=np.float64), axis=-1) for one in (before, after))
    p, q = np.exp(log_p), np.exp(log_q)
    right = np.maximum(labels, 0)[..., None]
    of_p, of_q = (np.take_along_axis(one, right, -1) for one in (log_p, log_q))
    found = np.stack(
        [
            rel_entr(p, q).sum(-1),
            rel_entr(q, p).sum(-1),
            jensenshannon(p, q, axis=-1) ** 2,
            (p.argmax(-1) != q.argmax(-1)).astype(float),
            (of_q - of_p)[..., 0],
            ((log_q > of_q).sum(-1) - (log_p > of_p).sum(-1)).astype(float),
        ]
    )
    found[4:, labels == -100] = np.nan
    return found


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("left", [False, True])
def test_every_measure_at_real_positions_and_nan_at_padding(rows: int, left: bool, torch_gpt2: Host) -> None:
    data, other = padded(ROWS, left=left), models.gpt2(seed=1)
    first, second = (
        al.MaskedModel(one, one.registry("head"), output=nothing) for one in (torch_gpt2.adapter, al.adapt(other))
    )
    found = compared(predictions(first, data, rows), second, data, rows)
    assert found.shape == (len(MEASURES), 3, 5)
    for example, row in enumerate(ROWS):
        inputs = torch.tensor([row])
        logits = [models.logits_of(model, inputs)[0].numpy() for model in (torch_gpt2.reference, other)]
        expected = by_formula(*logits, np.array([*row[1:], -100]))
        assert data.attended is not None
        real = data.attended[example].numpy()
        np.testing.assert_allclose(found[:, example][:, real], expected, atol=2e-5)
        assert np.isnan(found[:, example][:, ~real]).all()
    assert np.nanmax(np.abs(found), axis=(1, 2)).min() > 1e-2  # every measure has something to measure


def test_a_model_without_positions_has_one() -> None:
    host, other = host_of("torch", "mlp"), models.mlp(seed=1)
    inputs = host.inputs(4)
    data = al.batch(inputs, labels=[0, 4, 2, 2])
    adapter = al.adapt(other, example=inputs[:1])
    first, second = (al.MaskedModel(one, one.registry("row"), output=nothing) for one in (host.adapter, adapter))
    found = compared(predictions(first, data, 3), second, data, 3)
    logits = [models.logits_of(model, inputs).numpy() for model in (host.reference, other)]
    np.testing.assert_allclose(found[..., 0], by_formula(*logits, np.array([0, 4, 2, 2])), atol=2e-5)


def test_a_model_differs_from_itself_by_exactly_nothing(torch_gpt2: Host) -> None:
    data, model = torch_gpt2.data(3), al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"), output=nothing)
    found = compared(predictions(model, data, 2), model, data, 2)
    assert (found[~np.isnan(found)] == 0).all()
    assert np.isnan(found).sum() == 2 * 3  # measures of the right class, at the last token


@pytest.mark.parametrize("shape", [(3, 7, 5), (4, 5)])
def test_kl_of_probabilities(shape: tuple[int, ...]) -> None:
    p, q = np.random.default_rng(0).dirichlet(np.ones(shape[-1]), (2, *shape[:-1]))
    p[0, ..., 1] = 0  # 0 log 0 is 0
    p /= p.sum(-1, keepdims=True)
    found = kl_of(torch.tensor(p), torch.tensor(q))
    np.testing.assert_allclose(found, rel_entr(p, q).sum(-1).reshape(shape[0], -1), rtol=1e-6)
    q[-1, ..., 2] = 0
    q /= q.sum(-1, keepdims=True)
    without = kl_of(torch.tensor(p), torch.tensor(q))
    assert np.isinf(without[-1]).all()
    assert np.isfinite(without[:-1]).all()
    assert (kl_of(torch.tensor(p), torch.tensor(p)) == 0).all()


def test_nothing_is_asked_of_logits() -> None:
    assert torch.equal(nothing(torch.randn(3, 7, 5)), torch.zeros(3))
