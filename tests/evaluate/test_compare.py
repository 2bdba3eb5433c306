"""Agreement of attributions: against SciPy and scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics.pairwise import cosine_similarity

import ablationlens as al
from ablationlens.evaluate import compare
from ablationlens.evaluate.compare import overlap
from tests.conftest import Host
from tests.evaluate.games import game, scales, weighted


@pytest.fixture
def model() -> al.MaskedModel:
    return game(np.ones(12))


DATA = scales(1, 2, 3)


def random(seed: int, examples: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((examples, 12))


def test_measures_are_scipys_and_scikit_learns(model: al.MaskedModel) -> None:
    a, b = random(0), random(1)
    b[:, :4] += 2 * a[:, :4]
    found = compare({"a": weighted(model, DATA, a), "b": weighted(model, DATA, b)}, top=(3, 6))
    assert found.frame["a"].tolist() == ["a"] * 3
    assert found.frame["b"].tolist() == ["b"] * 3
    for i, row in found.frame.iterrows():
        assert abs(row["spearman"] - stats.spearmanr(a[i], b[i]).statistic) < 1e-12
        assert abs(row["pearson"] - stats.pearsonr(a[i], b[i]).statistic) < 1e-12
        assert abs(row["cosine"] - cosine_similarity(a[i][None], b[i][None])[0, 0]) < 1e-12
        for k in (3, 6):
            for end, change in (("", np.abs), ("_signed", np.asarray)):
                best = [set(np.argsort(-change(values[i]))[:k]) for values in (a, b)]
                assert row[f"top_{k}{end}"] == pytest.approx(len(best[0] & best[1]) / k)
    assert len({found.frame.loc[i, "top_3"] for i in range(3)} | {found.frame.loc[0, "top_3_signed"]}) > 1


def test_the_signed_top_holds_only_what_raises_the_output(model: al.MaskedModel) -> None:
    """A harmful component is the strongest in both: the absolute tops share it, the signed tops do not have it."""
    a, b = np.zeros(12), np.zeros(12)
    a[:3], b[[0, 4, 5]] = [-9, 2, 1], [-9, 2, 1]
    a[6:], b[6:] = -0.5, -0.5
    row = compare({"a": weighted(model, DATA, a), "b": weighted(model, DATA, b)}, top=2).frame.iloc[0]
    assert row["top_2"] == 0.5
    assert row["top_2_signed"] == 0.0


def test_ties_are_broken_as_if_at_random() -> None:
    """Lasso's zeros must not agree because the registry lists them in one order."""
    a, b = np.zeros(100), np.zeros(100)
    a[0], b[1] = 1, 1
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        tops = []
        for values in (a, b):
            shuffled = rng.permutation(100)
            tops.append(set(shuffled[np.argsort(-values[shuffled], kind="stable")][:10]))
        hits.append(len(tops[0] & tops[1]) / 10)
    assert abs(overlap(a, b, 10) - np.mean(hits)) < 4 * np.std(hits) / np.sqrt(2000)
    assert overlap(a, b, 10) < 0.2


@given(seed=st.integers(0, 10**6), k=st.integers(1, 11), zeros=st.integers(0, 11))
@settings(max_examples=60, deadline=None)
def test_overlap_is_a_symmetrical_share(seed: int, k: int, zeros: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal(12), rng.standard_normal(12)
    a[:zeros] = 0
    assert overlap(a, b, k) == pytest.approx(overlap(b, a, k))
    assert -1e-12 <= overlap(a, b, k) <= 1 + 1e-12
    assert overlap(b, b, k) == pytest.approx(1)


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-12, 1e12))
@settings(max_examples=30, deadline=None)
def test_agreement_does_not_depend_on_scale(seed: int, scale: float) -> None:
    model = game(np.ones(12))
    a, b = random(seed), random(seed + 1)
    own = compare({"a": weighted(model, DATA, a), "b": weighted(model, DATA, b)}, top=4).frame
    scaled = compare({"a": weighted(model, DATA, a), "b": weighted(model, DATA, scale * b)}, top=4).frame
    columns = ["spearman", "pearson", "cosine", "top_4", "top_4_signed"]
    np.testing.assert_allclose(own[columns], scaled[columns], atol=1e-9)


def test_weights_that_are_not_finite_or_do_not_vary(model: al.MaskedModel) -> None:
    a, b = random(0), random(1)
    a[0, 5], b[0, 7] = np.nan, np.inf
    b[1] = 3.0
    a[2] = np.nan
    found = compare({"a": weighted(model, DATA, a), "b": weighted(model, DATA, b)}, top=3)
    kept = [i for i in range(12) if i not in (5, 7)]
    assert found.frame["spearman"][0] == pytest.approx(stats.spearmanr(a[0, kept], b[0, kept]).statistic)
    assert found.frame.loc[1:, list(found.measures)].isna().all(axis=None)
    table = found.table("spearman")
    assert table["undefined"].tolist() == [2]
    assert np.isnan(table["low"][0])  # one example has no interval


def test_the_ceiling_is_the_method_with_another_seed(model: al.MaskedModel) -> None:
    truth = random(0)
    noisy = [weighted(model, DATA, truth + 0.5 * random(seed), seed=seed) for seed in (1, 2)]
    exact = weighted(model, DATA, truth)
    found = compare({"noisy": noisy[0], "exact": exact}, top=3, ceiling={"noisy": noisy[1]})
    matrix = found.matrix("pearson")
    expected = np.mean([stats.pearsonr(*(one.weights.values[i] for one in noisy)).statistic for i in range(3)])
    assert matrix.loc["noisy", "noisy"] == pytest.approx(expected)
    assert np.isnan(matrix.loc["exact", "exact"])
    assert matrix.loc["noisy", "exact"] == matrix.loc["exact", "noisy"]
    table = found.table("pearson").set_index(["a", "b"])
    assert table.loc[("noisy", "exact"), "ceiling_a"] == pytest.approx(expected)
    assert np.isnan(table.loc[("noisy", "exact"), "ceiling_b"])
    assert table.loc[("noisy", "noisy"), "mean"] == pytest.approx(expected)
    alone = compare({"noisy": noisy[0]}, ceiling={"noisy": noisy[1]})
    assert alone.matrix("pearson").shape == (1, 1)
    assert "noisy" in repr(found)


def test_attenuation_bounds_the_correlation_of_noisy_estimates() -> None:
    """Two methods that measure the same thing with noise of their own: r = sqrt(ceiling_a ceiling_b), here about .6."""
    model, data = game(np.ones(4000)), scales(1)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(4000)
    a, a2, b, b2 = (truth + noise * rng.standard_normal(4000) for noise in (0.5, 0.5, 1.2, 1.2))
    named = {"a": weighted(model, data, a), "b": weighted(model, data, b)}
    found = compare(named, ceiling={"a": weighted(model, data, a2), "b": weighted(model, data, b2)})
    row = found.table("pearson").set_index(["a", "b"]).loc[("a", "b")]
    assert row["mean"] == pytest.approx(np.sqrt(row["ceiling_a"] * row["ceiling_b"]), abs=0.03)
    assert row["mean"] < 0.7


def test_the_table_has_intervals_and_chance() -> None:
    model, data = game(np.ones(12)), scales(*range(1, 9))
    a = random(0, 8)
    found = compare({"a": weighted(model, data, a), "b": weighted(model, data, a + random(1, 8))}, top=3)
    table = found.table()
    assert table.columns.tolist() == [
        *("a", "b", "measure", "mean", "low", "high", "ceiling_a", "ceiling_b", "chance", "undefined")
    ]
    assert table["measure"].tolist() == ["spearman", "pearson", "cosine", "top_3", "top_3_signed"]
    assert table["chance"].tolist()[3:] == [0.25, 0.25]
    for _, row in table.iterrows():
        values = found.frame[row["measure"]].to_numpy()
        assert row["mean"] == pytest.approx(values.mean())
        theirs = stats.bootstrap((values,), np.mean, method="percentile", random_state=0).confidence_interval
        spread = theirs.high - theirs.low
        assert abs(row["low"] - theirs.low) <= 0.3 * spread
        assert abs(row["high"] - theirs.high) <= 0.3 * spread


def test_tops_fit_the_registry(model: al.MaskedModel) -> None:
    pair = {"a": weighted(model, DATA, random(0)), "b": weighted(model, DATA, random(1))}
    assert compare(pair).tops == (3,)
    larger = game(np.ones(20))
    pair_of_20 = {"a": weighted(larger, DATA, np.arange(20)), "b": weighted(larger, DATA, np.arange(20) ** 2)}
    assert compare(pair_of_20).tops == (10,)
    for wrong in (0, 12, (), (3, 3)):
        with pytest.raises(al.InputError, match=r"top"):
            compare(pair, top=wrong)


def test_settings_that_differ_are_recorded(model: al.MaskedModel) -> None:
    made = {
        "a": weighted(model, DATA, random(0), ablation={"ablation": "Zero"}),
        "b": weighted(model, DATA, random(1), ablation={"ablation": "Mean"}),
    }
    assert compare(made).provenance["differ"] == ["ablation"]


def test_what_cannot_be_compared_is_refused(model: al.MaskedModel, small: Host) -> None:
    a, b = weighted(model, DATA, random(0), seed=4), weighted(model, DATA, random(1), seed=5)
    larger = game(np.ones(13))
    renamed = weighted(model, al.batch(DATA.inputs), random(1))
    renamed.weights["example"] = ["x", "y", "z"]
    for call, match in [
        (lambda: compare({}), "nothing to evaluate"),
        (lambda: compare({"a": a}), "at least two attributions"),
        (lambda: compare({"a": a, "b": weighted(larger, DATA, np.ones(13))}), "different registries.*12 and 13"),
        (lambda: compare({"a": a, "b": weighted(model, scales(1), random(1, 1))}), "3 and 1 examples"),
        (lambda: compare({"a": a, "b": renamed}), "other names"),
        (lambda: compare({"a": a, "b": b}, ceiling={"c": b}), "'c', but no first.*'a', 'b'"),
        (lambda: compare({"a": a, "b": b}, ceiling={"a": a}), "seed 4.*seed=5"),
        (lambda: compare({"a": a, "b": b}).matrix("kendall"), "no measure 'kendall'.*'spearman'"),
        (lambda: compare({"a": a, "b": b}).table("kendall"), "no measure 'kendall'.*'spearman'"),
    ]:
        with pytest.raises(al.InputError, match=match):
            call()
    rows = al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))
    loo, other = (al.leave_one_out(rows, small.data(3, seed=seed)) for seed in (0, 1))
    with pytest.raises(al.InputError, match="different data"):
        compare({"a": loo, "b": other})
