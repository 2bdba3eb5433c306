"""The study of domains: weights that are known, SciPy's tests, and correlations of means made one by one."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.cluster import hierarchy

import ablationlens as al
from ablationlens.diagnostics.domains import Domains, domains
from tests.conftest import Host
from tests.diagnostics.known_domains import CODE, COMMON, COMPONENTS, PROSE, around, linear, mixtures, study, three
from tests.evaluate.games import game, scales, weighted
from tests.evaluate.studies.known import rows_run

WEIGHTS = np.stack([COMMON, CODE, PROSE], axis=1)
DATA = {"code": mixtures(6, 1), "prose": mixtures(5, 2)}


# -- attributing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [al.path_gradient, al.coar])
def test_every_domain_has_the_weights_that_it_should(method: Callable[..., al.Attribution]) -> None:
    found = domains(linear(WEIGHTS), DATA, alpha=0.2, method=method, draws=160, held_out=20)
    for name, batch in DATA.items():
        expected = batch.inputs["input"].numpy() @ WEIGHTS.T
        np.testing.assert_allclose(found.attributions[name].weights, expected, atol=0.02)
    assert found.names == ("code", "prose")
    assert repr(found) == "Domains(code (6), prose (5); 40 components)"


def test_domains_share_their_masks_and_do_not_change_one_another() -> None:
    """With interactions the weights depend on the masks: each domain has those of a call of its own with the seed."""
    model = game(np.ones(COMPONENTS), np.triu(np.ones((COMPONENTS,) * 2), 1))
    data = {"a": scales(1, 2), "b": scales(1, 3, 4)}
    found = domains(model, data, alpha=0.2, method=al.coar, draws=60, seed=3, held_out=0)
    masks = [one.provenance["masks"] for one in found.attributions.values()]
    assert masks[0] == masks[1]
    assert masks[0]["seed"] == 3
    for name, batch in data.items():
        alone = al.coar(model, batch, alpha=0.2, draws=60, seed=3)
        np.testing.assert_allclose(found.attributions[name].weights, alone.weights, atol=1e-5)
    first, second = (one.weights.values[0] for one in found.attributions.values())
    np.testing.assert_allclose(first, second, atol=1e-5)  # the same example, whatever its domain


def test_texts_of_different_length_are_attributed(torch_gpt2: Host) -> None:
    short, long = torch_gpt2.inputs(3)[:, :4], torch_gpt2.inputs(2, seed=1)
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"), output=al.Margin())
    found = domains(model, {"short": al.batch(short), "long": al.batch(long)}, alpha=0.3, draws=10, held_out=5)
    assert [one.weights.shape[0] for one in found.attributions.values()] == [3, 2]
    assert found.held_out is not None


def test_what_it_costs_is_what_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = linear(WEIGHTS)
    run = rows_run(model, monkeypatch)
    cost = domains(model, DATA, alpha=0.2, draws=20, held_out=7).provenance["cost"]
    assert cost["forward_rows"] == sum(run) == 11 * (3 * 20 + 1 + 7)


@pytest.mark.parametrize(("method", "draws"), [(al.coar, 160), (functools.partial(al.coar, solver="ridge"), 160)])
def test_a_regression_has_four_draws_for_each_component(method: Callable[..., al.Attribution], draws: int) -> None:
    found = domains(linear(WEIGHTS), DATA, alpha=0.2, method=method, held_out=0)
    assert found.provenance["draws"] == draws
    assert found.attributions["code"].provenance["draws"] == draws
    assert found.held_out is None


def test_masks_that_differ_are_said() -> None:
    def early(model: al.MaskedModel, data: al.Batch) -> al.Attribution:
        return weighted(model, data, np.ones(COMPONENTS), masks={"draws": len(data)})

    notes = domains(linear(WEIGHTS), DATA, alpha=0.2, method=early, held_out=0).provenance["notes"]
    assert len(notes) == 1
    assert "not attributed with the same masks" in notes[0]


# -- averages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["layer", ["layer", "module"], "kind"])
def test_averages_are_those_of_xarray(torch_gpt2: Host, group: str | list[str]) -> None:
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("row"), output=al.Margin())
    data = {"a": torch_gpt2.data(5), "b": torch_gpt2.data(3, seed=1)}
    rng = np.random.default_rng(0)
    found = Domains(
        {name: weighted(model, one, rng.standard_normal((len(one), len(model.registry)))) for name, one in data.items()}
    )
    frame = found.by(group)
    columns = [group] if isinstance(group, str) else group
    assert len(frame) == 2 * len(model.registry.frame().drop_duplicates(columns))
    for _, row in frame.iterrows():
        weights = found.attributions[row["domain"]].weights
        for column in columns:
            weights = weights[:, weights[column].values == row[column]]
        assert row["components"] == weights.shape[1]
        assert row["weight"] == pytest.approx(float(weights.mean()))
        assert row["error"] == pytest.approx(stats.sem(weights.mean("component")))
        assert row["size"] == pytest.approx(float(abs(weights.mean("example")).mean()))


def test_what_is_not_finite_is_left_out() -> None:
    weights = three()
    weights["python"][0, 0] = np.nan
    weights["cpp"][:, 1] = np.inf
    found = study(weights)
    rest = {name: one[:, 2:] for name, one in weights.items()}
    pd.testing.assert_frame_equal(found.similarity().table(), study(rest).similarity().table())
    table = found.by("kind").set_index("domain")
    assert table["weight"]["cpp"] == pytest.approx(np.delete(weights["cpp"], 1, axis=1).mean())
    assert np.isfinite(table[["weight", "error", "size"]]).all().all()
    t = found.differences("python", "prose", None).set_index("index")["t"]
    assert np.isnan(t[0])
    assert t.drop(0).notna().all()


# -- similarity -------------------------------------------------------------------------------------------------------


def plain(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    return float(np.corrcoef(a, b)[0, 1] if kind == "pearson" else a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("kind", ["pearson", "cosine"])
def test_similarity_is_that_of_the_means(kind: str) -> None:
    weights = three(examples=8)
    found = study(weights).similarity(kind)  # type: ignore[arg-type]
    for a, b in itertools.permutations(weights, 2):
        expected = plain(weights[a].mean(0), weights[b].mean(0), kind)
        assert float(found.arrays["similarity"].sel(domain=a, other=b)) == pytest.approx(expected)
    table = found.table().query("domain != other")
    assert ((table["low"] < table["similarity"]) & (table["similarity"] < table["high"])).all()
    assert len(found.table()) == 6


@pytest.mark.parametrize("kind", ["pearson", "cosine"])
def test_the_diagonal_is_every_split_in_halves_stepped_up(kind: str) -> None:
    weights = three(examples=8)
    found = study(weights).similarity(kind)  # type: ignore[arg-type]
    for name, one in weights.items():
        splits = itertools.combinations(range(8), 4)
        halves = [plain(one[list(s)].mean(0), np.delete(one, list(s), axis=0).mean(0), kind) for s in splits]
        half = float(found.halves.sel(domain=name))
        assert half == pytest.approx(np.mean(halves), abs=0.01)
        diagonal = float(found.arrays["similarity"].sel(domain=name, other=name))
        assert diagonal == pytest.approx(2 * half / (1 + half))  # Spearman-Brown


def test_the_diagonal_is_cronbachs_alpha() -> None:
    one = three(examples=7)["prose"]
    one = one - one.mean(axis=1, keepdims=True)
    alpha = 7 / 6 * (1 - one.var(axis=1).sum() / one.sum(axis=0).var())  # texts are items, components are persons
    found = study(three(examples=7)).similarity().arrays["similarity"]
    assert float(found.sel(domain="prose", other="prose")) == pytest.approx(alpha)


def test_an_interval_is_as_wide_as_the_scatter_of_fresh_samples() -> None:
    """Twins in a resample must not count as agreement, nor resampled means lie below the one that was measured."""
    samples = [study(three(examples=10, seed=seed)).similarity().arrays for seed in range(60)]
    for a, b in (("python", "cpp"), ("python", "python")):
        each = {key: np.array([float(one[key].sel(domain=a, other=b)) for one in samples]) for key in samples[0]}
        width = float((each["high"] - each["low"]).mean() / 3.92)
        assert width == pytest.approx(each["similarity"].std(), rel=0.4)
        middle = float((each["high"] + each["low"]).mean() / 2)
        assert middle == pytest.approx(each["similarity"].mean(), abs=0.3 * width + 0.02)


def test_corrected_for_attenuation_it_is_that_of_the_true_means() -> None:
    mean = {"a": COMMON + CODE, "b": COMMON + PROSE}
    found = [
        study({name: around(one, 10, 2.0, 100 * seed + i) for i, (name, one) in enumerate(mean.items())})
        for seed in range(40)
    ]
    arrays = [one.similarity().arrays.sel(domain="a", other="b") for one in found]
    true = np.corrcoef(*mean.values())[0, 1]
    assert np.mean([float(one["corrected"]) for one in arrays]) == pytest.approx(true, abs=0.04)
    assert np.mean([float(one["similarity"]) for one in arrays]) < true - 0.04
    inside = [float(one["corrected_low"]) < true < float(one["corrected_high"]) for one in arrays]
    assert np.mean(inside) > 0.8


@given(scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
@settings(max_examples=8, deadline=None)
def test_scale_and_level_of_a_domain_do_not_change_a_correlation(scale: float, shift: float) -> None:
    weights = three(examples=4)
    moved = {**weights, "cpp": scale * weights["cpp"] + shift}
    for one, other in zip(
        study(weights).similarity().arrays.values(), study(moved).similarity().arrays.values(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_order_is_that_of_a_dendrogram() -> None:
    """Python, prose and C++ were given in this order; Python and C++ belong together."""
    found = study(three(noise=0.2)).similarity()
    assert {found.order[1], found.order[0]} == {"python", "cpp"} or {found.order[1], found.order[2]} == {
        "python",
        "cpp",
    }
    similar = found.arrays["similarity"].values
    distances = [1 - similar[0, 1], 1 - similar[0, 2], 1 - similar[1, 2]]
    expected = hierarchy.linkage(distances, "average")
    np.testing.assert_allclose(found.linkage[:, 2:], expected[:, 2:])
    assert found.matrix().index.tolist() == found.matrix().columns.tolist() == list(found.order)
    assert found.matrix().loc["python", "cpp"] == similar[0, 2]
    assert "python" in repr(found)


def test_two_domains_are_closer_to_each_other_than_to_a_third() -> None:
    weights = three(examples=16, noise=0.5)
    found = study(weights).closer("python", "cpp", than="prose")
    r = np.corrcoef([weights[name].mean(0) for name in ("python", "cpp", "prose")])
    assert found.difference == pytest.approx(r[0, 1] - max(r[0, 2], r[1, 2]))
    assert (found.between, *found.others) == pytest.approx((r[0, 1], r[0, 2], r[1, 2]))
    assert 0 < found.low < found.difference < found.high
    assert "closer by" in str(found)
    assert study(weights).closer("python", "prose", than="cpp").high < 0
    corrected = study(weights).closer("python", "cpp", than="prose", corrected=True)
    assert corrected.corrected
    assert corrected.between > found.between


def test_a_claim_of_being_closer_is_rarely_made_where_there_is_nothing() -> None:
    same = [study({name: around(COMMON, 8, 1.0, 10 * s + i) for i, name in enumerate("abc")}) for s in range(40)]
    assert np.mean([one.closer("a", "b", than="c").low > 0 for one in same]) <= 0.1


def test_a_similarity_is_never_above_one() -> None:
    """Not even of two resamples with the same twins, where domains are one and the same."""
    table = study({name: around(COMMON, 3, 1.0, 0) for name in "ab"}).similarity().table().query("domain != other")
    assert (table[["similarity", "high"]] <= 1 + 1e-9).all().all()
    assert (table["corrected_high"] > 1).all()  # which may be


# -- differences ------------------------------------------------------------------------------------------------------


def test_differences_are_welchs_t() -> None:
    weights = {"a": around(COMMON, 6, 0.5, 1), "b": around(COMMON + CODE, 9, 2.0, 2)}
    frame = study(weights).differences("a", "b", None)
    assert frame.attrs == {"first": "a", "second": "b"}
    assert frame["t"].abs().is_monotonic_decreasing
    for _, row in frame.iterrows():
        one, other = weights["a"][:, row["index"]], weights["b"][:, row["index"]]
        expected = stats.ttest_ind(one, other, equal_var=False)
        assert row["t"] == pytest.approx(expected.statistic)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert row["df"] == pytest.approx(expected.df)
        assert (row["first"], row["second"]) == pytest.approx((one.mean(), other.mean()))
        assert row["difference"] == pytest.approx(one.mean() - other.mean())
    np.testing.assert_allclose(frame["q"], stats.false_discovery_control(frame["p"]))


def test_the_parts_that_only_one_domain_uses_are_found() -> None:
    weights = np.stack([COMMON, COMMON], axis=1)
    weights[[3, 17, 29], 1] += [2.0, -2.0, 3.0]
    data = {"python": mixtures(12, 0, 2), "prose": mixtures(12, 1, 2)}
    found = domains(linear(weights), data, alpha=0.2, draws=200, held_out=0).differences("python", "prose", 3)
    assert set(found["index"]) == {3, 17, 29}
    assert (found["q"] < 0.01).all()
    signs = found.set_index("index")["difference"]
    assert (signs[3] < 0, signs[17] > 0, signs[29] < 0) == (True, True, True)


def test_weights_that_never_vary_have_no_t() -> None:
    weights = {"a": np.zeros((3, 2)), "b": np.array([[0.0, 1], [0, 1], [0, 1]])}
    t = study(weights).differences("a", "b").set_index("index")["t"]
    assert np.isnan(t[0])
    assert t[1] == -np.inf


# -- held out ---------------------------------------------------------------------------------------------------------


def test_held_out_correlations_are_those_of_evaluate() -> None:
    model = game(COMMON, np.triu(0.3 * np.random.default_rng(2).standard_normal((COMPONENTS,) * 2), 1))
    data = {"a": scales(1, 2, -1), "b": scales(1.5, 0.5)}
    found = domains(model, data, alpha=0.2, method=al.coar, draws=200, held_out=40, seed=1)
    table = found.held_out
    assert table is not None
    assert table["weights"].tolist() == 2 * ["each example", "mean of a", "mean of b"]
    for name, batch in data.items():
        own = found.attributions[name].weights.values
        bias = found.attributions[name].bias.values
        for other in data:
            mean = found.attributions[other].weights.values
            carried = [np.delete(mean, i, axis=0).mean(0) if other == name else mean.mean(0) for i in range(len(batch))]
            for key, weights in (("each example", own), (f"mean of {other}", np.array(carried))):
                # the same masks as found itself, whose provenance says which ones were fitted on
                given = weighted(model, batch, weights, bias, masks=found.attributions[name].provenance["masks"])
                expected = al.evaluate(model, batch, given, alphas=[0.2], draws=40, seed=1).table()
                (row,) = table[(table["domain"] == name) & (table["weights"] == key)].to_dict("records")
                assert row["pearson"] == pytest.approx(expected["pearson"][0], abs=1e-6)
                assert row["low"] <= row["pearson"] <= row["high"]


# -- one example, files, bad input ------------------------------------------------------------------------------------


def test_one_example_has_no_interval() -> None:
    data = {"one": mixtures(1, 0), **DATA}
    found = domains(linear(WEIGHTS), data, alpha=0.2, draws=40, held_out=10)
    assert found.provenance["notes"] == ["domain 'one' has one example: it has no intervals, and no Welch t"]
    frame = found.by("layer").set_index("domain")
    assert np.isnan(frame["error"]["one"])
    assert np.isfinite(frame["error"]["code"])
    arrays = found.similarity().arrays
    pair = arrays.sel(domain="one", other="code")
    means = [found.attributions[name].weights.mean("example") for name in ("one", "code")]
    assert float(pair["similarity"]) == pytest.approx(np.corrcoef(*means)[0, 1])
    own = arrays.sel(domain="one", other="one")
    for nothing in (pair["low"], pair["high"], pair["corrected"], own["similarity"], own["low"]):
        assert np.isnan(float(nothing))
    assert np.isfinite(float(arrays["low"].sel(domain="code", other="prose")))
    assert np.isnan(found.closer("one", "code", than="prose").low)
    with pytest.raises(al.InputError, match="'one' has one example, which has no interval"):
        found.differences("code", "one")
    assert found.held_out is not None
    assert found.held_out.query("domain == 'one'")["weights"].tolist() == [
        "each example",
        "mean of code",
        "mean of prose",
    ]


@pytest.mark.parametrize("held_out", [0, 12])
def test_a_study_survives_a_round_trip(held_out: int, tmp_path: Path) -> None:
    found = domains(linear(WEIGHTS), DATA, alpha=0.2, draws=40, held_out=held_out)
    back = Domains.load(found.save(tmp_path / "domains.safetensors"))
    assert back.names == found.names
    assert back.provenance == json.loads(json.dumps(found.provenance))
    for name, one in found.attributions.items():
        other = back.attributions[name]
        np.testing.assert_array_equal(one.weights, other.weights)
        np.testing.assert_array_equal(one.bias, other.bias)
        assert one.errors is not None
        assert other.errors is not None
        np.testing.assert_array_equal(one.errors, other.errors)
        assert other.weights["example"].values.tolist() == one.weights["example"].values.tolist()
    if held_out:
        assert found.held_out is not None
        assert back.held_out is not None
        pd.testing.assert_frame_equal(found.held_out, back.held_out)
    else:
        assert back.held_out is None
    pd.testing.assert_frame_equal(back.similarity().table(), found.similarity().table())


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    path = al.path_gradient(linear(WEIGHTS), DATA["code"], alpha=0.2, draws=5).save(tmp_path / "one.safetensors")
    with pytest.raises(al.StoreError, match="does not hold a study of domains"):
        Domains.load(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": {}}, r"at least 2, data=\{'python': python_batch.*got none"),
        ({"data": {"code": DATA["code"]}}, "at least 2.*got 'code'"),
        ({"data": DATA["code"]}, "batches by name.*got Batch"),
        ({"data": {**DATA, "empty": DATA["code"].take([])}}, r"data\['empty'\] has no examples"),
        ({"data": {**DATA, "texts": ["print()"]}}, r"data\['texts'\] is a Batch.*got list"),
        ({"data": {**DATA, 3: DATA["code"]}}, "name of a domain is a word.*got 3"),
        ({"held_out": 2}, "held_out is the number of masks.*at least 3, .* or 0 for no test; got 2"),
        ({"held_out": -5}, "held_out is the number.*got -5"),
        ({"draws": 0}, "at least 1"),
        ({"alpha": 1e-4}, "ablates 0.00 of 40"),
        ({"method": "coar"}, "method is a function such as al.path_gradient"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], match: str) -> None:
    wanted = {"data": DATA, "alpha": 0.2, "draws": 10, **options}
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        domains(linear(WEIGHTS), **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda s: s.differences("python", "perl"), "no domain 'perl': the domains are 'python', 'prose', 'cpp'"),
        (lambda s: s.differences("python", "python"), "two domains are compared.*'python' twice"),
        (lambda s: s.differences("python", "cpp", 0), "number of components"),
        (lambda s: s.closer("python", "cpp", than="cpp"), "three different domains"),
        (lambda s: s.closer("python", "c", than="cpp"), "no domain 'c'"),
        (lambda s: s.similarity("spearman"), "kind='pearson' or kind='cosine'"),
        (lambda s: s.by("component"), "layer, module, kind, index; got 'component'"),
        (lambda s: s.by([]), "grouped by one or several"),
    ],
)
def test_what_cannot_be_asked_is_refused(ask: Callable[[Domains], object], match: str) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{match}|Type-check error"):
        ask(study(three()))


# -- examples that are lost -------------------------------------------------------------------------------------------


def test_an_example_without_finite_weights_is_left_out_and_counted() -> None:
    weights = three()
    lost = np.full((1, COMPONENTS), np.nan)
    spoiled = {name: np.vstack([one, lost]) if name == "code" else one for name, one in weights.items()}
    spoiled = spoiled if "code" in weights else {name: np.vstack([one, lost]) for name, one in weights.items()}
    clean, found = study(weights), study(spoiled)
    first, second = clean.names[:2]
    np.testing.assert_allclose(found.similarity().arrays["similarity"], clean.similarity().arrays["similarity"])
    np.testing.assert_allclose(found.differences(first, second)["t"], clean.differences(first, second)["t"])
    np.testing.assert_allclose(found.by("layer")["weight"], clean.by("layer")["weight"])


def test_a_run_says_which_examples_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    spoiled = DATA["code"].inputs["input"].clone()
    spoiled[2] = torch.nan
    data = {"code": al.batch(spoiled), "prose": DATA["prose"]}
    found = domains(linear(WEIGHTS), data, alpha=0.2, method=al.path_gradient, draws=80, held_out=10)
    assert "domain 'code': 1 of 6 examples have no finite weight; left out" in caplog.text
    assert np.isfinite(found.similarity().arrays["similarity"]).all()
    assert found.held_out is not None
    carried = found.held_out[(found.held_out["domain"] == "prose") & (found.held_out["weights"] == "mean of code")]
    assert np.isfinite(carried["pearson"]).all()
    every = {"code": al.batch(torch.full_like(spoiled, torch.nan)), "prose": DATA["prose"]}
    with pytest.raises(al.InputError, match="no example of domain 'code' has a finite weight"):
        domains(linear(WEIGHTS), every, alpha=0.2, draws=40, held_out=0)
