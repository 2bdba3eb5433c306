"""A comparison: tables and matrices of its rows, by hand and by SciPy; and what files give back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ablationlens as al
from ablationlens.evaluate import Comparison, compare
from tests.evaluate.games import game, scales, weighted

DATA = scales(1, 2, 3)
SPEARMAN: dict[tuple[str, str], list[float]] = {
    ("a", "b"): [0.1, 0.5, math.nan, 0.4],
    ("a", "c"): [math.nan] * 4,
    ("b", "c"): [0.9, -0.3, 0.2, 0.7],
    ("b", "b"): [1.0, 0.8, 0.9, 0.7],
}
"""Of three methods, of which the second has a second seed; NaN where one of the two does not vary."""


@pytest.fixture
def model() -> al.MaskedModel:
    return game(np.ones(12))


@pytest.fixture
def found() -> Comparison:
    rows: list[dict[str, Any]] = []
    for (a, b), values in SPEARMAN.items():
        others = {name: value for value, name in enumerate(("pearson", "cosine", "top_3", "top_3_signed"))}
        rows += [{"a": a, "b": b, "example": str(i), "spearman": x, **others} for i, x in enumerate(values)]
    return Comparison(pd.DataFrame(rows), ("a", "b", "c"), (3,), 12)


def random(seed: int, examples: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((examples, 12))


def test_a_matrix_is_symmetric_with_the_second_seeds_on_its_diagonal(found: Comparison) -> None:
    nan = math.nan
    expected = [[nan, 1 / 3, nan], [1 / 3, 0.85, 0.375], [nan, 0.375, nan]]
    np.testing.assert_allclose(found.matrix("spearman"), expected, atol=1e-12)
    assert list(found.matrix().index) == list(found.matrix().columns) == ["a", "b", "c"]
    pd.testing.assert_frame_equal(found.matrix(), found.matrix("spearman"))
    assert "0.375" in repr(found)
    with pytest.raises(
        al.InputError, match="no measure 'kendall': use one of 'spearman', 'pearson', 'cosine', 'top_3'"
    ):
        found.matrix("kendall")


def test_a_table_has_means_intervals_ceilings_and_chance(found: Comparison) -> None:
    table = found.table("spearman").set_index(["a", "b"])
    assert list(table.index) == list(SPEARMAN)
    assert table["undefined"].tolist() == [1, 4, 0, 0]
    np.testing.assert_allclose(table["mean"], [1 / 3, math.nan, 0.375, 0.85], atol=1e-12)
    np.testing.assert_allclose(table["ceiling_a"], [math.nan, math.nan, 0.85, 0.85])
    np.testing.assert_allclose(table["ceiling_b"], [0.85, math.nan, math.nan, 0.85])
    values = np.array(SPEARMAN["b", "c"])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    low, high = (table.loc[("b", "c"), name] for name in ("low", "high"))
    assert abs(low - theirs.low) < 0.1
    assert abs(high - theirs.high) < 0.1
    assert low < 0.375 < high
    chance = found.table().groupby("measure", sort=False)["chance"].first()
    assert chance.index.tolist() == ["spearman", "pearson", "cosine", "top_3", "top_3_signed"]
    np.testing.assert_allclose(chance, [0, 0, math.nan, 0.25, 0.25])


def test_a_comparison_survives_a_round_trip(model: al.MaskedModel, tmp_path: Path) -> None:
    pair = {"a": weighted(model, DATA, random(0), alpha=0.1), "b": weighted(model, DATA, random(1), alpha=0.2)}
    found = compare(pair, ceiling={"a": weighted(model, DATA, random(2))})
    back = Comparison.load(found.save(tmp_path / "comparison.safetensors"))
    pd.testing.assert_frame_equal(back.table(), found.table())
    pd.testing.assert_frame_equal(back.matrix("cosine"), found.matrix("cosine"))
    assert back.provenance == json.loads(json.dumps(found.provenance))
    other = tmp_path / "other"
    other.write_bytes(b"no arrays")
    with pytest.raises(al.StoreError, match="a comparison"):
        Comparison.load(other)
    with pytest.raises(al.StoreError, match="does not hold a comparison"):
        Comparison.load(pair["a"].save(tmp_path / "attribution"))
