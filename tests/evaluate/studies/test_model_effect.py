"""The model itself under ablation: a classifier whose logits are written down, masks made again, and SciPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ablationlens as al
from ablationlens import studies
from ablationlens.evaluate.studies.model_effect import weighted_pearson
from ablationlens.masks.designs import random_design
from tests.conftest import Host
from tests.evaluate.games import game, scales
from tests.evaluate.studies.known import rows_run, rows_where

ALPHAS = [0.1, 0.5]
DRAWS = 6


@pytest.fixture
def model(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"))


def labelled(host: Host, examples: int) -> al.Batch:
    """Examples with the classes 0, 1, 2, ..."""
    return al.batch(host.inputs(examples), labels=[i % 5 for i in range(examples)])


def masks_of(alpha: float, components: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    return random_design("bernoulli", components, alpha, draws, seed, "model effect").masks(0, draws)


def effect(model: al.MaskedModel, data: al.Batch, **options: object) -> studies.ModelEffect:
    return studies.model_effect(model, data, **{"alphas": ALPHAS, "draws": DRAWS, **options})  # type: ignore[arg-type]


def test_accuracy_and_outputs_are_those_of_masks_run_one_by_one(model: al.MaskedModel, small: Host) -> None:
    data = labelled(small, 8)
    study = effect(model, data, seed=3)
    assert data.labels is not None
    labels = data.labels.numpy()
    whole = small.reference(small.inputs(8)).detach()
    for alpha in (0.0, *ALPHAS):
        masks = np.ones((1, 33), bool) if alpha == 0 else masks_of(alpha, 33, seed=3)
        rows = rows_where(study.frame, alpha=alpha)
        logits = torch.stack([model.logits(torch.tensor(mask[None]).float(), data) for mask in masks])
        correct = (logits.argmax(-1).numpy() == labels).astype(float)
        outputs = np.stack([model.output(one, data).detach().numpy() for one in logits])
        np.testing.assert_array_equal(rows["correct"], correct.ravel())
        np.testing.assert_allclose(rows["output"], outputs.ravel(), atol=1e-4)
        np.testing.assert_allclose(rows["full"], np.tile(model.output(whole, data).numpy(), len(masks)), atol=1e-4)
        assert rows["draw"].tolist() == np.repeat(np.arange(len(masks)), 8).tolist()
        (row,) = rows_where(study.table(), alpha=alpha).to_dict("records")
        assert row["accuracy"] == pytest.approx(correct.mean())
        full = rows["full"].to_numpy()[:8]
        assert row["pearson"] == pytest.approx(np.mean([stats.pearsonr(full, y).statistic for y in outputs]), abs=1e-5)
        assert row["spearman"] == pytest.approx(np.mean([stats.spearmanr(full, y).statistic for y in outputs]))
        assert row["change"] == pytest.approx((outputs - full).mean(), abs=1e-4)
        assert row["low"] <= row["pearson"] + 1e-9
        assert row["pearson"] <= row["high"] + 1e-9
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
    assert study.table()["alpha"].tolist() == [0.0, *ALPHAS]
    assert study.table()["pearson"][0] == pytest.approx(1)
    assert 0 < study.table()["accuracy"][0] < 1  # so that a mistake would be seen


def test_accuracy_of_tokens_is_a_share_of_scored_positions(torch_gpt2: Host) -> None:
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"))
    tokens = torch_gpt2.inputs(4)
    with torch.no_grad():
        predicted = torch_gpt2.reference(tokens).logits[:, :-1].argmax(-1)
    labels = predicted.clone()
    labels[0, :3] = (labels[0, :3] + 1) % 50  # three of six wrong
    labels[1, 2] = -100  # not scored
    tokens_and_labels = al.batch(tokens, labels=torch.cat([labels, torch.full((4, 1), -100)], dim=1))
    study = effect(model, tokens_and_labels, alphas=[0.5], draws=2)
    assert rows_where(study.frame, alpha=0.0)["correct"].tolist() == pytest.approx([0.5, 1, 1, 1])
    assert study.table()["accuracy"][0] == pytest.approx(0.875)


def test_unlabelled_examples_have_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    model = game(np.arange(1.0, 11.0))
    run = rows_run(model, monkeypatch)
    study = effect(model, scales(1, 2, 3, 4))
    assert np.isnan(study.frame["correct"]).all()
    assert np.isnan(study.table()["accuracy"]).all()
    assert study.provenance["labelled"] is False
    assert study.provenance["cost"]["forward_rows"] == sum(run) == (2 * DRAWS + 1) * 4


def test_what_it_costs_is_what_it_runs(model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    run = rows_run(model, monkeypatch)
    study = effect(model, labelled(small, 4))
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 2 * (2 * DRAWS + 1) * 4
    assert study.provenance["labelled"] is True


def test_an_output_that_scales_with_the_example_follows_the_whole_model() -> None:
    """f = x a.m: across examples any ablation is a multiple of the whole, whose sign is that of what is left."""
    table = effect(game(np.arange(1.0, 11.0)), scales(1, 2, 3, 4)).table()
    np.testing.assert_allclose(table[["pearson", "low", "high", "spearman"]], 1, atol=1e-6)
    kept = np.stack([masks_of(alpha, 10) @ np.arange(1.0, 11.0) for alpha in ALPHAS]).mean(1)
    np.testing.assert_allclose(table["change"], [0, *((kept - 55) * 2.5)], atol=1e-3)


def test_what_does_not_vary_is_counted() -> None:
    """An ablation that leaves nothing of f = x a.m is 0 for all examples."""
    model = game([5.0] + [0.0] * 4)
    table = effect(model, scales(1, 2, 3), alphas=[0.5], draws=20).table()
    gone = int((~masks_of(0.5, 5, 20)[:, 0]).sum())
    assert 0 < gone < 20
    assert table["undefined"].tolist() == [0, gone]
    assert table["pearson"][1] == pytest.approx(1)
    two = effect(model, scales(1, 2), alphas=[0.5], draws=20).table()
    assert np.isnan(two[["pearson", "low", "high", "spearman"]].to_numpy()).all()
    assert two["undefined"].tolist() == [1, 20]


def test_a_single_example_has_an_interval_over_draws(model: al.MaskedModel, small: Host) -> None:
    table = effect(model, labelled(small, 5).take([1]), draws=40).table()
    row = table.iloc[2]
    assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
    assert np.isnan([table["accuracy_low"][0], row["pearson"]]).all()


@given(seed=st.integers(0, 2**32 - 1), examples=st.integers(3, 20), shift=st.floats(-1e4, 1e4))
@settings(max_examples=30, deadline=None)
def test_weighted_correlations_are_those_of_repeated_examples(seed: int, examples: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, examples)
    x = rng.standard_normal(examples) + shift
    y = 0.5 * x + rng.standard_normal((2, examples))
    if (counts > 0).sum() < 3:
        counts += 1
    found = weighted_pearson(counts[None] / counts.sum(), x, y)
    for draw in range(2):
        expected = stats.pearsonr(np.repeat(x, counts), np.repeat(y[draw], counts)).statistic
        assert found[0, draw] == pytest.approx(expected, abs=1e-6)


def test_pairs_that_are_not_finite_are_left_out() -> None:
    x, y = np.array([0.0, 1.0, 9.0, 3.0, 4.0]), np.array([[0.0, 3.0, np.nan, 1.0, 4.0], [2.0] * 5])
    found = weighted_pearson(np.full((1, 5), 0.2), x, y)
    kept = [0, 1, 3, 4]
    assert found[0, 0] == pytest.approx(stats.pearsonr(x[kept], y[0, kept]).statistic)
    assert np.isnan(found[0, 1])


def test_small_differences_are_no_rounding() -> None:
    """Of the two examples that count, one is a little above the other in both."""
    x = np.array([0.0, 0.05, 5.0, 6.0])
    assert weighted_pearson(np.array([[0.5, 0.5, 0, 0]]), x, x[None])[0, 0] == pytest.approx(1)


def test_targets_of_a_regression_are_no_classes(small: Host) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), output=al.SquaredError())
    study = effect(model, al.batch(small.inputs(4), labels=torch.zeros(4, 5)))
    assert study.provenance["labelled"] is False
    assert np.isnan(study.frame["correct"]).all()


def test_by_default_the_alphas_of_the_paper_that_ablate_something() -> None:
    study = studies.model_effect(game(np.ones(12)), scales(1, 2, 3), draws=2)
    assert study.provenance["alphas"] == [0.05, 0.1, 0.2, 0.5]


def test_a_study_survives_a_round_trip(model: al.MaskedModel, small: Host, tmp_path: Path) -> None:
    study = effect(model, labelled(small, 4))
    back = studies.ModelEffect.load(study.save(tmp_path / "study.safetensors"))
    pd.testing.assert_frame_equal(back.frame, study.frame)
    pd.testing.assert_frame_equal(back.table(), study.table())
    assert back.provenance == json.loads(json.dumps(study.provenance))


def test_the_seed_decides(model: al.MaskedModel, small: Host) -> None:
    data = labelled(small, 4)
    one, same, other = (effect(model, data, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    pd.testing.assert_frame_equal(one.table(), same.table())
    assert (one.frame["output"] - other.frame["output"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alphas": [0.1, 0.1]}, r"alphas are different numbers.*alphas=\[0.02, 0.05, 0.1\]"),
        ({"alphas": [0.1, 1e-4]}, "ablates 0.00 of 33"),
        ({"draws": 0}, "draws is the number of masks for each alpha, at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: al.MaskedModel, small: Host, options: dict[str, object], match: str
) -> None:
    with pytest.raises(al.InputError, match=match):
        effect(model, small.data(3), **options)
