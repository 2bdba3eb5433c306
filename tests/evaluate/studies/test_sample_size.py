"""The number of draws: a method whose weights at each number and seed are known, and SciPy on masks run one by one."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens import studies
from tests.evaluate.games import scales, weighted
from tests.evaluate.studies.known import (
    additive,
    cosine,
    effects,
    given,
    held_out,
    interacting,
    noisy,
    rows_run,
    rows_where,
    scipys,
)

SIZES = [40, 5, 12]


def small_study(**options: object) -> studies.SampleSize:
    settings = {"fit_draws": SIZES, "alpha": 0.2, "method": given(noisy), "draws": 30, **options}
    return studies.sample_size(interacting(), scales(1, -2, 0.5), **settings)  # type: ignore[arg-type]


def test_correlations_and_cosines_are_those_of_each_number_of_draws() -> None:
    study = small_study(seed=4)
    table = study.table()
    masks, outputs = held_out(interacting(), scales(1, -2, 0.5), 0.2, 30, seed=4)
    assert table["fit_draws"].tolist() == [5, 12, 40]
    for size in SIZES:
        expected = scipys(masks, outputs, noisy(0.2, size, 4))
        similar = cosine(noisy(0.2, size, 4), noisy(0.2, 40, 5))  # the full sample is of another seed
        rows = rows_where(study.frame, fit_draws=size)
        np.testing.assert_allclose(rows["pearson"], expected, atol=1e-5)
        np.testing.assert_allclose(rows["cosine"], similar, atol=1e-9)
        (row,) = rows_where(table, fit_draws=size).to_dict("records")
        assert row["pearson"] == pytest.approx(expected.mean(), abs=1e-5)
        assert row["cosine"] == pytest.approx(similar)
        assert row["low"] <= row["pearson"] <= row["high"]
    assert study.provenance["full_sample"] == {"draws": 40, "seed": 5}
    assert table["cosine"].tolist()[-1] < 0.999
    assert table.columns.tolist() == [
        "fit_draws",
        "pearson",
        "low",
        "high",
        "spearman",
        "cosine",
        "cosine_low",
        "cosine_high",
        "undefined",
    ]


def test_cosines_have_intervals_over_examples() -> None:
    """Weights that are the effects of one half of the examples and, nearly, their opposite for the other."""

    def method(model: al.MaskedModel, data: al.Batch, *, alpha: float, draws: int, seed: int) -> al.Attribution:
        error = 0.1 * np.random.default_rng([draws, seed]).standard_normal(40)
        sign = np.array([1, -1, 1, -1])[: len(data), None] if seed == 0 else 1.0
        return weighted(model, data, sign * effects() + error)

    table = studies.sample_size(
        additive(), scales(1, 1, 1, 1), fit_draws=[7], alpha=0.2, method=method, draws=9
    ).table()
    (row,) = table.to_dict("records")
    assert abs(row["cosine"]) < 0.1
    assert row["cosine_low"] < -0.9
    assert row["cosine_high"] > 0.9
    one = studies.sample_size(additive(), scales(1), fit_draws=[7], alpha=0.2, method=method, draws=9).table()
    assert np.isnan(one[["cosine_low", "cosine_high"]].to_numpy()).all()


def test_more_draws_are_better() -> None:
    method = functools.partial(al.coar, solver="least_squares")
    study = studies.sample_size(interacting(), scales(1, 2), fit_draws=[50, 2000], alpha=0.3, method=method, draws=100)
    few, many = study.table().to_dict("records")
    assert few["pearson"] < many["pearson"] - 0.1
    assert few["cosine"] < many["cosine"] - 0.1
    assert 0.97 < many["cosine"] < 1


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = additive()
    run = rows_run(model, monkeypatch)
    study = studies.sample_size(model, scales(1, 2), fit_draws=[20, 30], alpha=0.2, draws=7)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == (3 * (20 + 30 + 30) + 3 + 7) * 2


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = small_study()
    back = studies.SampleSize.load(study.save(tmp_path / "study.safetensors"))
    pd.testing.assert_frame_equal(back.frame, study.frame)
    pd.testing.assert_frame_equal(back.table(), study.table())
    assert back.provenance == json.loads(json.dumps(study.provenance))


def test_the_seed_decides() -> None:
    one, same, other = (small_study(method=al.path_gradient, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    assert (one.frame["pearson"] - other.frame["pearson"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fit_draws": [5, 5]}, r"fit_draws are different numbers.*fit_draws=\[50, 100, 200\]"),
        ({"fit_draws": [0, 5]}, "fit_draws are positive numbers of draws"),
        ({"draws": 2}, "at least 3"),
        ({"alpha": 1e-4}, "ablates 0.00 of 40"),
        ({"method": al.leave_one_out}, "varies draws, and the method leave_one_out takes none"),
        ({"method": functools.partial(al.coar, draws=50)}, "varies draws, and the method coar has draws=50 set"),
        ({"method": functools.partial(al.coar, seed=3)}, "varies seed, and the method coar has seed=3 set"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        small_study(**options)
