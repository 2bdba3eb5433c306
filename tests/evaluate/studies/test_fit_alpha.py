"""The alpha of the fit: a method whose weights at each alpha are known, and SciPy on masks that are run one by one."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens import studies
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted
from tests.evaluate.studies.known import (
    additive,
    effects,
    given,
    held_out,
    interacting,
    noisy,
    rows_run,
    rows_where,
    scipys,
)

FITTED, TESTED = [0.3, 0.05], [0.1, 0.3, 0.2]


def small_study(**options: object) -> studies.FitAlpha:
    settings = {"fit_alphas": FITTED, "alphas": TESTED, "method": given(noisy), "fit_draws": 9, "draws": 30, **options}
    return studies.fit_alpha(interacting(), scales(1, -2, 0.5), **settings)  # type: ignore[arg-type]


def test_every_fit_is_tested_at_every_alpha() -> None:
    study = small_study(seed=3)
    table, model, data = study.table(), interacting(), scales(1, -2, 0.5)
    assert table[["fit_alpha", "alpha"]].to_numpy().tolist() == [[f, t] for t in TESTED for f in FITTED]
    for alpha in TESTED:
        masks, outputs = held_out(model, data, alpha, 30, seed=3)
        for fit in FITTED:
            expected = scipys(masks, outputs, noisy(fit, 9, 3))
            rows = rows_where(study.frame, fit_alpha=fit, alpha=alpha)
            np.testing.assert_allclose(rows["pearson"], expected, atol=1e-5)
            assert rows["example"].tolist() == list(data.names())
            (row,) = rows_where(table, fit_alpha=fit, alpha=alpha).to_dict("records")
            assert row["pearson"] == pytest.approx(expected.mean(), abs=1e-5)
            assert row["low"] <= row["pearson"] <= row["high"]
    assert np.unique(table["pearson"]).size == len(FITTED) * len(TESTED)
    assert table.columns.tolist() == [
        "fit_alpha",
        "alpha",
        "pearson",
        "low",
        "high",
        "spearman",
        "r2",
        "slope",
        "undefined",
    ]


def test_effects_without_interactions_are_the_same_at_every_alpha() -> None:
    table = studies.fit_alpha(additive(), scales(1, 2), fit_alphas=[0.1, 0.4], fit_draws=600, draws=60).table()
    assert (table["pearson"] > 0.99).all()
    np.testing.assert_allclose(table["slope"], 1, atol=0.1)


def test_where_components_interact_the_alpha_of_the_fit_matters() -> None:
    """f is a sum of s (m_i m_j - (m_i + m_j) / 2) over pairs: at alpha the best weights are (0.5 - alpha) s.

    At alpha = 0.1 they reach a correlation of 0.88; at 0.5 they are 0, and a fit there finds nothing but noise.
    """
    pairs = np.kron(np.eye(20), [[0, 1], [0, 0]])
    sizes = np.repeat(np.linspace(-1, 1, 20), 2)
    model = game(-0.5 * sizes, pairs * sizes[:, None])
    method = functools.partial(al.coar, draws=3000, solver="least_squares")
    study = studies.fit_alpha(model, scales(1), fit_alphas=[0.1, 0.5], method=method, draws=200)
    found = study.table().set_index(["fit_alpha", "alpha"])["pearson"]
    assert found[0.1, 0.1] > 0.8
    assert found[0.5, 0.1] < found[0.1, 0.1] - 0.2


def test_by_default_the_alphas_of_the_paper_that_ablate_something() -> None:
    settings = {"method": given(lambda *_: effects()), "draws": 5}
    study = studies.fit_alpha(additive(), scales(1), **settings)  # type: ignore[arg-type]
    assert study.table()["fit_alpha"].unique().tolist() == [0.02, 0.05, 0.1]
    few = game([1.0, 2.0, 3.0, 4.0, 5.0])
    named = {"method": given(lambda *_: np.arange(1.0, 6.0)), "draws": 20}
    assert studies.fit_alpha(few, scales(1), **named).provenance["fit_alphas"] == [0.1]  # type: ignore[arg-type]


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = additive()
    run = rows_run(model, monkeypatch)
    study = studies.fit_alpha(model, scales(1, 2), fit_alphas=[0.1, 0.3], alphas=[0.2], fit_draws=20, draws=7)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 2 * (3 * 20 + 1) * 2 + 7 * 2


def test_the_seed_decides() -> None:
    one, same, other = (small_study(method=al.path_gradient, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    pd.testing.assert_frame_equal(one.table(), same.table())
    assert (one.frame["pearson"] - other.frame["pearson"]).abs().max() > 1e-3


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = small_study()
    back = studies.FitAlpha.load(study.save(tmp_path / "study.safetensors"))
    pd.testing.assert_frame_equal(back.frame, study.frame)
    pd.testing.assert_frame_equal(back.table(), study.table())
    assert back.provenance == json.loads(json.dumps(study.provenance))


def test_it_works_on_a_model(small: Host) -> None:
    model = al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))
    study = studies.fit_alpha(model, small.data(3), fit_alphas=[0.1], alphas=[0.1], fit_draws=300, draws=60)
    assert study.table()["pearson"][0] > 0.7
    assert study.provenance["method"] == "path gradient"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fit_alphas": []}, r"fit_alphas are different numbers.*fit_alphas=\[0.02, 0.05\]"),
        ({"fit_alphas": [0.1, 0.1]}, "fit_alphas are different numbers"),
        ({"alphas": [0.1, 0.1]}, "alphas are different numbers"),
        ({"alphas": [0.1, 1e-4]}, "alpha=0.0001 ablates 0.00 of 40 components"),
        ({"draws": 2}, "draws is the number of masks for each alpha, at least 3"),
        ({"method": al.leave_one_out}, "varies alpha, and the method leave_one_out takes none"),
        ({"method": functools.partial(al.coar, alpha=0.1)}, "varies alpha, and the method coar has alpha=0.1 set"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    fits: list[float] = []

    def method(model: al.MaskedModel, data: al.Batch, *, alpha: float) -> al.Attribution:
        fits.append(alpha)
        return weighted(model, data, effects())

    with pytest.raises(al.InputError, match=match):
        small_study(**{"method": method, **options})
    assert not fits  # refused before anything is run
