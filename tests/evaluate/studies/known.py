"""What the tests of studies share: methods whose weights are known, true outputs one by one, a count of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import ablationlens as al
from ablationlens.evaluate import held_out_masks
from ablationlens.masks.designs import random_design
from ablationlens.results import Attribution
from tests.evaluate.games import game, weighted
from tests.passes import before_each_pass

COMPONENTS = 40


def effects(seed: int = 0) -> np.ndarray:
    """One for each component."""
    return np.random.default_rng(seed).standard_normal(COMPONENTS)


def additive() -> al.MaskedModel:
    """A function without interactions: a prediction by its effects is exact."""
    return game(effects(), constant=2.0)


def interacting() -> al.MaskedModel:
    """A function of which about half the variance is interaction."""
    return game(effects(), np.triu(0.5 * np.random.default_rng(9).standard_normal((COMPONENTS,) * 2), 1))


def given(weights: Callable[..., np.ndarray]) -> Callable[..., Attribution]:
    """A method that returns ``weights(alpha, draws, seed)``, [component], for every example."""

    def method(model: al.MaskedModel, data: al.Batch, *, alpha: float, draws: int, seed: int) -> Attribution:
        return weighted(model, data, weights(alpha, draws, seed))

    return method


def noisy(alpha: float, draws: int, seed: int) -> np.ndarray:
    """The effects with an error that falls with the draws and is another for each alpha and seed."""
    error = np.random.default_rng([round(1000 * alpha), draws, seed]).standard_normal(COMPONENTS)
    return effects() + 4 * error / np.sqrt(draws)


def held_out(
    model: al.MaskedModel, data: al.Batch, alpha: float, draws: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Masks [draw, component] that no fit has seen, and the output [draw, example] of one mask after another."""
    design = random_design("bernoulli", len(model.registry), alpha, draws, seed, "evaluate")
    masks = held_out_masks(design, {}).masks(0, draws)
    rows = [model(torch.tensor(mask[None]).float(), data).detach().double().numpy() for mask in masks]
    return masks, np.stack(rows)


def scipys(masks: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """SciPy's correlation of each example with what the weights [component] or [example, component] predict."""
    predicted = masks @ np.broadcast_to(weights, (outputs.shape[1], masks.shape[1])).T
    return np.array([stats.pearsonr(y, p).statistic for y, p in zip(outputs.T, predicted.T, strict=True)])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rows_where(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def rows_run(model: al.MaskedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the rows of every pass of the model from now on, 3 for each row that has a gradient."""
    run: list[int] = []
    before_each_pass(
        model.adapter, monkeypatch, lambda batch: run.append(len(batch) * (3 if torch.is_grad_enabled() else 1))
    )
    return run
