"""Examples of several domains: weights that are known for each, and outputs of masks run one by one."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens import studies
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

DOMAINS = {"near": scales(1, 1.5, -1), "far": scales(20, -30)}


def by_domain(model: al.MaskedModel, data: al.Batch, *, alpha: float, seed: int) -> al.Attribution:
    """Weights that say of which domain they are, and of which seed."""
    return weighted(model, data, noisy(alpha, 9, 10 * seed + len(data)))


def small_study(**options: object) -> studies.OutOfDistribution:
    settings = {"data": DOMAINS, "alpha": 0.2, "method": by_domain, "draws": 30, **options}
    return studies.out_of_distribution(interacting(), **settings)  # type: ignore[arg-type]


def test_each_domain_is_attributed_and_tested_by_itself() -> None:
    study = small_study(seed=2)
    table = study.table()
    assert table["domain"].tolist() == ["near", "far"]
    assert table["examples"].tolist() == [3, 2]
    for name, data in DOMAINS.items():
        masks, outputs = held_out(interacting(), data, 0.2, 30, seed=2)
        expected = scipys(masks, outputs, noisy(0.2, 9, 20 + len(data)))
        rows = rows_where(study.frame, domain=name)
        np.testing.assert_allclose(rows["pearson"], expected, atol=1e-5)
        assert rows["example"].tolist() == list(data.names())
        (row,) = rows_where(table, domain=name).to_dict("records")
        assert row["pearson"] == pytest.approx(expected.mean(), abs=1e-5)
        assert row["low"] <= row["pearson"] <= row["high"]
    assert {name: one["examples"] for name, one in study.provenance["data"].items()} == {"near": 3, "far": 2}
    prints = {one["fingerprint"] for one in study.provenance["data"].values()}
    assert prints == {data.fingerprint() for data in DOMAINS.values()}


def test_where_pairs_count_the_correlation_is_lower() -> None:
    """f = x a.m + x^2 m'Pm: for x = 0.1 nearly additive, for x = 10 nearly nothing but pairs of which half cancel."""
    size = np.repeat(np.linspace(-1, 1, 20), 2)
    model = game(0.5 * effects(), np.kron(np.eye(20), [[0, 1], [0, 0]]) * size[:, None])
    domains = {"small": scales(0.1, 0.12), "large": scales(10.0, 12.0)}
    method = functools.partial(al.coar, draws=2000, solver="least_squares")
    table = studies.out_of_distribution(model, domains, alpha=0.5, method=method, draws=300).table()
    small, large = table.set_index("domain")["pearson"].loc[["small", "large"]]
    assert small > 0.99
    assert large < small - 0.05


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = additive()
    run = rows_run(model, monkeypatch)
    study = studies.out_of_distribution(model, DOMAINS, alpha=0.2, fit_draws=20, draws=7)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 5 * (3 * 20 + 1 + 7)


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = small_study()
    back = studies.OutOfDistribution.load(study.save(tmp_path / "study.safetensors"))
    pd.testing.assert_frame_equal(back.frame, study.frame)
    pd.testing.assert_frame_equal(back.table(), study.table())
    assert back.provenance == json.loads(json.dumps(study.provenance))


def test_the_seed_decides() -> None:
    one, same, other = (small_study(method=al.path_gradient, fit_draws=20, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.frame, same.frame)
    assert (one.frame["pearson"] - other.frame["pearson"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": {}}, r"data go by name, data=\{'python': python_batch"),
        ({"data": {"near": [1.0]}}, r"data\['near'\] is a Batch.*got list"),
        ({"draws": 2}, "at least 3"),
        ({"alpha": 1e-4}, "ablates 0.00 of 40"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        small_study(**options)


def test_an_example_that_does_not_vary_is_counted() -> None:
    study = studies.out_of_distribution(
        additive(), {"flat": scales(0, 0), "a": scales(1)}, alpha=0.2, method=given(lambda *_: effects()), draws=9
    )
    flat, other = study.table().to_dict("records")
    assert (flat["undefined"], other["undefined"]) == (2, 0)
    assert np.isnan([flat["pearson"], flat["low"]]).all()
    assert other["pearson"] == pytest.approx(1)
    assert other["low"] <= other["high"]  # over draws
