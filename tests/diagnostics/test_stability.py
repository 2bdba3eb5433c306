"""Stability: weights made of parts whose variances are known, and correlations of halves made one by one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import ablationlens as al
from ablationlens.diagnostics.stability import AGREEMENTS, SHARES, Stability, stability
from tests.evaluate.games import game, scales, weighted
from tests.evaluate.studies.known import rows_run

COMPONENTS = 400
MODEL = game(np.ones(COMPONENTS))
EIGHT = scales(*range(1, 9))


def made(common: float, masks: float, texts: float, rest: float) -> Any:
    """A method whose weights are made of parts of these sizes; masks and rest shrink with the root of draws / 100."""

    def method(model: al.MaskedModel, data: al.Batch, *, draws: int, seed: int) -> al.Attribution:
        shrink = (draws / 100) ** -0.5
        rows: list[np.ndarray] = []
        for x in data.inputs["input"][:, 0].tolist():
            keys = [(common, [0]), (masks * shrink, [1, draws, seed]), (texts, [2, int(x)])]
            parts = [*keys, (rest * shrink, [3, draws, seed, int(x)])]
            rows.append(
                np.sum([size * np.random.default_rng(key).standard_normal(COMPONENTS) for size, key in parts], 0)
            )
        return weighted(model, data, np.stack(rows))

    return method


def values(study: Stability, draws: int = 100) -> dict[str, float]:
    table = pd.concat(
        [study.table().rename(columns={"comparison": "what"}), study.shares().rename(columns={"source": "what"})]
    )
    table = table[table["draws"] == draws]
    return dict(zip(table["what"], table["value"], strict=True))


def test_agreements_are_those_of_halves() -> None:
    method = made(1, 0.7, 1.5, 1.0)
    study = stability(MODEL, EIGHT, alpha=0.2, method=method, draws=100, times=(1,), seed=4)
    fits = [method(MODEL, EIGHT, draws=100, seed=seed).weights.values for seed in (4, 5)]
    found: dict[str, list[float]] = {name: [] for name in AGREEMENTS}
    for chosen in itertools.combinations(range(8), 4):
        first, second = list(chosen), [i for i in range(8) if i not in chosen]

        def r(one: int, half: list[int], two: int, other: list[int]) -> float:
            return float(np.corrcoef(fits[one][half].mean(0), fits[two][other].mean(0))[0, 1])

        found[AGREEMENTS[0]] += [r(seed, first, seed, second) for seed in (0, 1)]
        found[AGREEMENTS[1]] += [r(0, first, 1, second)]
        found[AGREEMENTS[2]] += [r(0, first, 1, first)]
    got = values(study)
    for name, each in found.items():
        assert got[name] == pytest.approx(np.mean(each), abs=0.01)
    table = study.table()
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    assert ((table["lowest"] <= table["value"]) & (table["value"] <= table["highest"])).all()
    assert table["examples"].unique().tolist() == [4]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((1, 0, 0, 0), (1, 0, 0, 0)),
        ((1, 1, 0, 0), (0.5, 0.5, 0, 0)),
        ((1, 0, 2, 0), (0.5, 0, 0.5, 0)),  # a mean over 4 texts has a quarter of their variance
        ((1, 1, 2, 2), (0.25, 0.25, 0.25, 0.25)),
    ],
    ids=["constant", "masks", "texts", "all"],
)
def test_shares_are_those_of_the_parts(parts: tuple[float, ...], expected: tuple[float, ...]) -> None:
    study = stability(MODEL, EIGHT, alpha=0.2, method=made(*parts), draws=100, times=(1,), seeds=3)
    got = values(study)
    assert [got[name] for name in SHARES] == pytest.approx(expected, abs=0.09)
    assert sum(got[name] for name in SHARES) == pytest.approx(1)


def test_more_draws_lower_the_share_of_masks() -> None:
    study = stability(MODEL, EIGHT, alpha=0.2, method=made(1, 1, 0, 0), draws=100, times=(1, 4))
    assert values(study, 100)["masks"] == pytest.approx(0.5, abs=0.08)
    assert values(study, 400)["masks"] == pytest.approx(0.2, abs=0.08)


def test_without_variation_between_texts_halves_agree_with_the_same_masks_only() -> None:
    """Interactions, so that the weights depend on the masks; every example is the same."""
    model = game(np.random.default_rng(0).standard_normal(20), np.triu(np.ones((20, 20)), 1))
    same = stability(model, scales(1, 1, 1, 1), alpha=0.3, method=al.coar, draws=60, times=(1,))
    got = values(same, 60)
    assert got[AGREEMENTS[0]] == pytest.approx(1, abs=1e-4)
    assert got[AGREEMENTS[1]] == pytest.approx(got[AGREEMENTS[2]], abs=1e-4)
    assert got[AGREEMENTS[1]] < 0.98


def test_intervals_are_as_wide_as_the_scatter_of_fresh_texts() -> None:
    studies = [
        stability(MODEL, scales(*range(20 * i, 20 * i + 8)), alpha=0.2, method=made(1, 0, 3, 0), draws=9, times=(1,))
        for i in range(40)
    ]
    rows = pd.concat([one.table().query("comparison == @AGREEMENTS[0]") for one in studies])
    width = float((rows["high"] - rows["low"]).mean() / 3.92)
    assert width == pytest.approx(rows["value"].std(), rel=0.5)


def test_data_sets_by_name_are_looked_at_one_by_one() -> None:
    data = {"a": EIGHT, "b": scales(11, 12, 13, 14, 15)}
    both = stability(MODEL, data, alpha=0.2, method=made(1, 1, 1, 1), draws=100)
    alone = stability(MODEL, {"b": data["b"]}, alpha=0.2, method=made(1, 1, 1, 1), draws=100)
    table = both.table()
    pd.testing.assert_frame_equal(table[table["data"] == "b"].reset_index(drop=True), alone.table())
    assert table.groupby("data")["examples"].first().to_dict() == {"a": 4, "b": 2}


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = game(np.arange(1.0, 21.0))
    run = rows_run(model, monkeypatch)
    study = stability(model, EIGHT, alpha=0.2, method=al.coar, draws=10, times=(1, 3), seeds=3)
    assert study.provenance["cost"]["forward_rows"] == sum(run) == 8 * 3 * (11 + 31)


def test_a_study_survives_a_round_trip(tmp_path: Path) -> None:
    study = stability(MODEL, EIGHT, alpha=0.2, method=made(1, 1, 1, 1), draws=100)
    back = Stability.load(study.save(tmp_path / "stability.safetensors"))
    pd.testing.assert_frame_equal(back.table(), study.table())
    pd.testing.assert_frame_equal(back.shares(), study.shares())
    assert back.provenance == json.loads(json.dumps(study.provenance))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": scales(1, 2, 3)}, r"data\['data'\] has 3 examples; this study needs at least 4"),
        ({"data": {}}, "at least 1.*got none"),
        ({"data": {"a": EIGHT, "b": scales(1)}}, r"data\['b'\] has 1 example; this study needs at least 4"),
        ({"seeds": 1}, "at least 2; got 1"),
        ({"times": ()}, "different numbers"),
        ({"times": (0, 1)}, "whole multiples"),
        ({"draws": 0}, "at least 1"),
        ({"method": al.leave_one_out}, "varies draws, and the method leave_one_out takes none"),
        ({"kind": "spearman"}, "kind='pearson' or kind='cosine'"),
        ({"alpha": 1e-4}, "ablates 0.0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    wanted = {"data": EIGHT, "alpha": 0.2, "draws": 10, **options}
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        stability(MODEL, **wanted)  # type: ignore[arg-type]
