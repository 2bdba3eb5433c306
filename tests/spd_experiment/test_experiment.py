"""The ablation experiment, against modules that are computed component by component, torch.distributions and SciPy."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon

import ablationlens as al
from ablationlens.diagnostics.clean import MEASURES
from ablationlens.spd import PGD, Deterministic, Stochastic
from ablationlens.spd_experiment import AblationExperiment, Restricted, Whole, ablation_experiment
from tests import models
from tests.conftest import Host, host_of
from tests.diagnostics.test_patterns import padded
from tests.spd.small import COUNT, PLACES, decomposed
from tests.spd_experiment.by_hand import SIZE, Out, kl, off, run

LANGUAGE = [("torch", "gpt2"), ("transformer_lens", "llama")]
Q, V, O, MLP = PLACES  # noqa: E741
ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]


@pytest.fixture(params=LANGUAGE, ids="-".join)
def held(request: pytest.FixtureRequest) -> Host:
    return host_of(*request.param)


def modes_of(decomposition: Any) -> dict[str, Any]:
    return {
        "target": Whole(decomposition),
        "reconstruction": Whole(decomposition, remainder="dropped"),
        "deterministic": Deterministic(decomposition),
        "stochastic": Stochastic(decomposition, 3, seed=4),
        "pgd": PGD(decomposition, 2, 0.2),
    }


def experiment(host: Host, ablate: Any, data: Any = None, **options: Any) -> AblationExperiment:
    decomposition = decomposed(host)
    options = {"modes": modes_of(decomposition), "gaps": "whole", "patterns": None} | options
    return ablation_experiment(host.adapter, decomposition, host.data(3) if data is None else data, ablate, **options)


def gates_of(mode: Any, host: Host, data: Any, sample: int = 0) -> Any:
    found = mode.module_gates(host.adapter, data, sample)
    return {where: (own.parts, own.remainder) for where, own in found.items()}


def by_hand(host: Host, gates: Any, out: Out | None = None, inputs: Any = None) -> Any:
    return run(host.reference, decomposed(host), gates, host.inputs(3) if inputs is None else inputs, out)


# -- effects -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("holder", "name"), [*LANGUAGE, ("nnsight", "llama"), ("transformer_lens", "gpt2")])
def test_spd_requirement_19_effects_are_divergences_of_predictions_of_all_items_and_positions(
    holder: str, name: str
) -> None:
    held = host_of(holder, name)
    data = held.data(3)
    ablate = {
        "head": "L0.head 3",
        "part": "L0.attn.q rank_one 2",
        "rest": "L1.mlp.out remainder",
        "two": ["L1.head 0", "L0.head 1"],
    }
    found = experiment(held, ablate)
    for name, mode in modes_of(decomposed(held)).items():
        expected = {key: np.zeros((len(MEASURES), 3, 7)) for key in ablate}
        for sample in range(mode.samples):
            gates = gates_of(mode, held, data, sample)
            before, _ = by_hand(held, gates)
            after = {
                "head": by_hand(held, gates, Out([(0, 3)]))[0],
                "part": by_hand(held, off(gates, Q, 2))[0],
                "rest": by_hand(held, off(gates, MLP, -1))[0],
                "two": by_hand(held, gates, Out([(1, 0), (0, 1)]))[0],
            }
            for key, logits in after.items():
                p, q = (one.double().softmax(-1).numpy() for one in (before, logits))
                expected[key][0] += kl(before, logits).numpy() / mode.samples
                expected[key][1] += kl(logits, before).numpy() / mode.samples
                expected[key][2] += jensenshannon(p, q, axis=-1) ** 2 / mode.samples
                expected[key][3] += (p.argmax(-1) != q.argmax(-1)) / mode.samples
        for key in ablate:
            at = found.values.sel(mode=name, ablation=key)
            for number, measure in enumerate(MEASURES[:4]):
                np.testing.assert_allclose(
                    at[measure].values, expected[key][number], atol=2e-5, err_msg=f"{name} {key}"
                )
    assert float(found.values["kl"].max()) > 1e-2


def test_spd_requirement_09_ablating_nothing_changes_exactly_nothing_in_any_mode(held: Host) -> None:
    found = experiment(held, {"nothing": None, "a head": "L0.head 0"}, free={"none freed": []}, patterns="first")
    for name in ("nothing", "none freed"):
        for measure in ("kl", "reverse_kl", "js", "top1_changed", "kl_of_means"):
            assert (found.values[measure].sel(ablation=name).values == 0).all()
        assert (found.pattern_change().sel(ablation=name).values == 0).all()
    labelled = found.values["log_probability_change"].sel(ablation="nothing").values
    assert (labelled[~np.isnan(labelled)] == 0).all()
    assert (found.values["kl"].sel(ablation="a head").values > 0).any(axis=(1, 2)).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_nothing_is_nothing_in_passes_of_any_size_and_effects_are_the_same(torch_gpt2: Host, rows: int) -> None:
    ablate = {"nothing": None, "head": "L0.head 3", "part": "L1.attn.o rank_one 0"}
    own = decomposed(torch_gpt2)
    options: Any = {"positions": [0, -1], "patterns": "first", "modes": [Deterministic(own), Stochastic(own, 2)]}
    whole, small = (experiment(torch_gpt2, ablate, rows=size, **options) for size in (None, rows))
    for name in MEASURES:
        np.testing.assert_allclose(small.values[name].values, whole.values[name].values, atol=2e-5)
    np.testing.assert_allclose(small.values["kl_of_means"].values, whole.values["kl_of_means"].values, atol=2e-5)
    assert (small.values["kl"].sel(ablation="nothing").values == 0).all()
    assert (small.pattern_change().sel(ablation="nothing").values == 0).all()


def test_spd_requirement_19_padding_is_no_part_of_anything(gpt2: Host) -> None:
    data = padded(ROWS, left=True)
    ablate = {"head": "L0.head 1", "part": "L0.attn.v rank_one 0"}
    modes = {"deterministic": Deterministic(decomposed(gpt2)), "target": Whole(decomposed(gpt2))}
    together = experiment(gpt2, ablate, data, modes=modes, patterns="first")
    assert data.attended is not None
    for example, row in enumerate(ROWS):
        alone = experiment(gpt2, ablate, al.batch(torch.tensor([row])), modes=modes, patterns="first")
        real = data.attended[example].numpy()
        for name in MEASURES:
            got = together.values[name].values[:, :, example]
            assert np.isnan(got[..., ~real]).all()
            np.testing.assert_allclose(got[..., real], alone.values[name].values[:, :, 0], atol=2e-5)
            single = alone.samples[name].values[..., 0]
            np.testing.assert_allclose(together.samples[name].values[..., example], single, atol=2e-5)
        assert together.patterns is not None
        assert alone.patterns is not None
        got = together.patterns.values[:, :, example][..., real, :][..., real]
        np.testing.assert_allclose(got, alone.patterns.values[:, :, 0], atol=1e-5)
    assert together.provenance["data"]["positions"] == sum(map(len, ROWS))
    assert not together.table().isna().drop(columns=[*together.table().filter(like="_se")]).to_numpy().any()


def test_spd_requirement_21_shares_of_changed_predictions_count_all_items_and_positions(torch_gpt2: Host) -> None:
    ablate = {"rest": "L1.mlp.out remainder"}
    modes = {"target": Whole(decomposed(torch_gpt2))}
    found = experiment(torch_gpt2, ablate, torch_gpt2.data(4), modes=modes)
    whole = [torch.ones(4, 7, COUNT), torch.ones(4, 7, 1)]
    gates: Any = {where: tuple(whole) for where in PLACES}
    inputs = torch_gpt2.inputs(4)
    before, after = (by_hand(torch_gpt2, one, None, inputs)[0] for one in (gates, off(gates, MLP, -1)))
    changed = int((before.argmax(-1) != after.argmax(-1)).sum())
    row = found.table().iloc[0]
    assert 0 < changed < 28
    assert row["top1_changed"] == pytest.approx(changed / 28)
    assert row["positions"] == 28
    each = [
        experiment(torch_gpt2, ablate, al.batch(inputs[one : one + 1]), modes=modes).table().iloc[0] for one in range(4)
    ]
    for name in ("kl", "js", "top1_changed"):
        assert row[name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-6)


# -- samples -----------------------------------------------------------------------------------------------------------


def test_spd_requirement_20_means_of_divergences_with_standard_errors_over_samples(held: Host) -> None:
    data = held.data(3)
    mode = Stochastic(decomposed(held), 4, seed=1)
    found = experiment(held, {"part": "L0.attn.v rank_one 1", "head": "L1.head 2"}, modes=[mode])
    logits = []
    for sample in range(4):
        gates = gates_of(mode, held, data, sample)
        arms = (gates, None), (off(gates, V, 1), None), (gates, Out([(1, 2)]))
        logits.append(torch.stack([by_hand(held, *arm)[0] for arm in arms]).double())
    before, part, head = torch.stack(logits, 1)
    for row, after in zip(found.table().to_dict("records"), (part, head), strict=True):
        each = kl(before, after).mean((1, 2))
        assert row["kl"] == pytest.approx(float(each.mean()), rel=1e-3)
        assert row["kl_se"] == pytest.approx(float(stats.sem(each.numpy())), rel=1e-3)
        p, q = (one.softmax(-1).mean(0) for one in (before, after))
        means = float(kl(p.log(), q.log()).mean())
        assert row["kl_of_means"] == pytest.approx(means, rel=1e-3)
        assert row["kl_of_means"] < 0.99 * row["kl"]
        of_logits = float(kl(before.mean(0), after.mean(0)).mean())
        assert row["kl_of_means"] != pytest.approx(of_logits, rel=1e-2)
    values = found.values["kl_of_means"].values[0, 0]
    np.testing.assert_allclose(values, kl(before.softmax(-1).mean(0).log(), part.softmax(-1).mean(0).log()), atol=2e-5)


def test_spd_requirement_20_one_sample_has_no_standard_error(torch_gpt2: Host) -> None:
    modes = [Stochastic(decomposed(torch_gpt2), 1), Deterministic(decomposed(torch_gpt2))]
    table = experiment(torch_gpt2, {"part": "L0.attn.q rank_one 0"}, modes=modes).table()
    for name in ("kl_se", "reverse_kl_se", "js_se", "top1_changed_se", "gap_kl_se"):
        assert [one is None for one in table[name]] == [True, True]
    assert (table["kl_of_means"] == table["kl"]).all()
    both = [Stochastic(decomposed(torch_gpt2), 2), Deterministic(decomposed(torch_gpt2))]
    mixed = experiment(torch_gpt2, {"part": "L0.attn.q rank_one 0"}, modes=both).table()
    assert mixed["kl_se"][0] > 0
    assert mixed["kl_se"][1] is None


# -- the baseline ------------------------------------------------------------------------------------------------------


def test_spd_requirement_06_the_baseline_is_named_and_its_gap_from_the_target_stands_beside_effects(held: Host) -> None:
    data = held.data(3)
    found = experiment(held, {"head": "L0.head 3"}, gaps="modules")
    target = models.logits_of(held.reference, held.inputs(3))
    table, gaps = found.table().set_index("mode"), found.gap_table().set_index(["mode", "module"])
    for name, mode in modes_of(decomposed(held)).items():
        gap = {"all modules": 0.0} | {f"L{layer}.{module}": 0.0 for layer, module in PLACES}
        for sample in range(mode.samples):
            gates = gates_of(mode, held, data, sample)
            whole = {at: tuple(torch.ones_like(one) for one in own) for at, own in gates.items()}
            gap["all modules"] += float(kl(target, by_hand(held, gates)[0]).mean()) / mode.samples
            for at in PLACES:
                logits, _ = by_hand(held, {**whole, at: gates[at]})
                gap[f"L{at[0]}.{at[1]}"] += float(kl(target, logits).mean()) / mode.samples
        for module, expected in gap.items():
            assert gaps.loc[(name, module), "kl"] == pytest.approx(expected, abs=2e-5)
        assert table.loc[name, "gap_kl"] == gaps.loc[(name, "all modules"), "kl"]
    assert table["baseline"].to_dict() == {
        "target": "target",
        "reconstruction": "reconstruction",
        "deterministic": "importances, without remainders",
        "stochastic": "stochastic, remainders masked too",
        "pgd": "adversarial, remainders masked too",
    }
    assert table.loc["target", "gap_kl"] == 0
    assert (table["gap_kl"].drop("target") > 1e-2).all()
    assert {name: one["baseline"] for name, one in found.provenance["modes"].items()} == table["baseline"].to_dict()
    assert [found.provenance["modes"][name]["remainder"] for name in ("reconstruction", "pgd")] == ["dropped", "source"]


# -- freeing -----------------------------------------------------------------------------------------------------------


def without_importance(host: Host, where: Any, index: int) -> Any:
    """The decomposition of the tests with a component that is never important."""
    own = copy.deepcopy(decomposed(host))
    function = own[where].function
    assert function is not None
    last: Any = list(function.layers)[-1]
    last.b.data[index] = -100.0
    return own


def test_spd_requirement_10_ablating_is_0_in_every_mode_and_freeing_leaves_the_gate_to_the_mode(held: Host) -> None:
    data = held.data(3)
    name = "L0.attn.v rank_one 1"
    found = experiment(held, {"ablated": name}, free={"freed": name})
    own = without_importance(held, V, 1)
    for mode, after in (
        ("deterministic", Deterministic(own)),
        ("stochastic", Stochastic(own, 3, seed=4)),
    ):
        freed, ablated = 0.0, 0.0
        base = modes_of(decomposed(held))[mode]
        for sample in range(base.samples):
            gates = gates_of(base, held, data, sample)
            before, _ = by_hand(held, gates)
            freed += kl(before, by_hand(held, gates_of(after, held, data, sample))[0]) / base.samples
            ablated += kl(before, by_hand(held, off(gates, V, 1))[0]) / base.samples
        at = found.values["kl"].sel(mode=mode)
        np.testing.assert_allclose(at.sel(ablation="freed").values, freed, atol=2e-5)
        np.testing.assert_allclose(at.sel(ablation="ablated").values, ablated, atol=2e-5)
    assert found.values["operation"].values.tolist() == ["ablate", "free"]
    effects = found.table().set_index(["mode", "ablation"])["kl"]
    assert effects["stochastic", "freed"] < effects["stochastic", "ablated"]
    assert effects["target", "freed"] == 0 < effects["target", "ablated"]


def test_spd_requirement_10_freeing_what_is_not_important_changes_nothing(torch_gpt2: Host) -> None:
    own = without_importance(torch_gpt2, V, 1)
    modes = {"deterministic": Deterministic(own), "stochastic": Stochastic(own, 2)}
    found = ablation_experiment(
        torch_gpt2.adapter,
        own,
        torch_gpt2.data(3),
        {"ablated": "L0.attn.v rank_one 1"},
        free={"freed": "L0.attn.v rank_one 1"},
        modes=modes,
        patterns=None,
    )
    assert (found.values["kl"].sel(ablation="freed").values == 0).all()
    assert (found.values["kl"].sel(ablation="ablated", mode="stochastic").values > 0).any()
    assert (found.values["kl"].sel(ablation="ablated", mode="deterministic").values == 0).all()


def test_spd_requirement_15_what_is_freed_begins_at_the_baselines_gates_and_gets_no_better(held: Host) -> None:
    data, decomposition = held.data(3), decomposed(held)
    mode = PGD(decomposition, 3, 0.1, seed=2)
    names = [f"L0.attn.v rank_one {index}" for index in range(COUNT)]
    found = experiment(held, {"x": names[0]}, free={"freed": names}, modes={"pgd": mode})
    before, after = found.traces["pgd"], found.traces["pgd: freed"]
    best = before.max(0)
    np.testing.assert_allclose(after[0], best, atol=1e-6)
    assert (after.max(0) >= best - 1e-6).all()
    assert (after.max(0) > best + 1e-4).any()
    gates = gates_of(mode, held, data)
    logits, _ = by_hand(held, gates)
    np.testing.assert_allclose(kl(models.logits_of(held.reference, held.inputs(3)), logits).mean(1), best, atol=1e-5)
    assert float(found.values["kl"].sel(ablation="freed").mean()) > 1e-4


def test_freeing_moves_the_sources_of_what_is_freed_alone(torch_gpt2: Host) -> None:
    """Freed at one position, components change nothing before it: no other source has moved."""
    mode = PGD(decomposed(torch_gpt2), 2, 0.3)
    names = [f"L1.attn.o rank_one {index}" for index in range(COUNT)]
    found = experiment(torch_gpt2, {"x": None}, free={"freed": names}, modes=[mode], positions=4)
    values = found.values["kl"].sel(ablation="freed").values[0]
    assert (values[:, :4] == 0).all()
    assert (values[:, 4] > 0).any()


# -- adversaries that go on --------------------------------------------------------------------------------------------


def test_spd_requirement_11_an_adversary_that_goes_on_never_brings_back_what_is_ablated(held: Host) -> None:
    data, decomposition = held.data(3), decomposed(held)
    mode = PGD(decomposition, 3, 0.1)
    ablate = {"part": "L0.attn.v rank_one 1", "head": "L0.head 0", "nothing": None}
    shared, again = (experiment(held, ablate, modes={"pgd": mode}, reoptimise=one) for one in (False, True))
    assert shared.traces.keys() == {"pgd"}
    assert again.traces.keys() == {"pgd", "pgd: part"}
    assert again.provenance["reoptimised"] == {"pgd": ["part"]}
    assert shared.provenance["reoptimised"] == {}
    gates = off(gates_of(mode, held, data), V, 1)
    target = models.logits_of(held.reference, held.inputs(3))
    begun = kl(target, by_hand(held, gates)[0]).mean(1)
    np.testing.assert_allclose(again.traces["pgd: part"][0], begun, atol=1e-5)
    assert (again.traces["pgd: part"].max(0) > begun.numpy() + 1e-4).any()
    kls = [one.values["kl"] for one in (shared, again)]
    for name in ("head", "nothing"):
        np.testing.assert_array_equal(*(one.sel(ablation=name).values for one in kls))
    assert np.abs(kls[0].sel(ablation="part").values - kls[1].sel(ablation="part").values).max() > 1e-4


def test_spd_requirement_11_what_is_ablated_stays_out_of_every_iterate(torch_gpt2: Host) -> None:
    """With all of a module ablated throughout, its sources matter to nothing and stay as they began."""
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(2)
    mode = PGD(decomposition, 3, 0.1)
    importances = decomposition.importances(torch_gpt2.adapter, data)
    begin = mode.search(torch_gpt2.adapter, data, importances).sources
    gate = al.spd.modes.Gates
    kept = {
        where: gate(torch.full((1, 1, COUNT), float(where != V)), torch.full((1, 1, 1), float(where != V)))
        for where in PLACES
    }
    after = mode.search(torch_gpt2.adapter, data, importances, begin=begin, kept=kept).sources
    assert torch.equal(after[V], begin[V])
    assert not torch.equal(after[MLP], begin[MLP])


# -- positions, heads and slices ---------------------------------------------------------------------------------------


def test_spd_requirement_17_positions_are_the_same_in_the_ascent_effects_and_patterns(held: Host) -> None:
    data, decomposition = held.data(3), decomposed(held)
    modes = {"stochastic": Stochastic(decomposition, 2), "pgd": PGD(decomposition, 2, 0.2)}
    ablate = {"head": "L0.head 3", "part": "L0.attn.q rank_one 2"}
    found = experiment(held, ablate, modes=modes, positions=[3, -1], patterns="first")
    at = [3, 6]
    for name, mode in modes.items():
        expected = {"head": 0.0, "part": 0.0}
        for sample in range(mode.samples):
            gates = gates_of(mode, held, data, sample)
            before, _ = by_hand(held, gates)
            arms = {
                "head": by_hand(held, gates, Out([(0, 3)], positions=at)),
                "part": by_hand(held, off(gates, Q, 2, at)),
            }
            for key, (logits, patterns) in arms.items():
                expected[key] = expected[key] + kl(before, logits) / mode.samples
                if sample == 0:
                    assert found.patterns is not None
                    got = found.patterns.sel(mode=name, ablation=key).values
                    np.testing.assert_allclose(got, patterns.numpy(), atol=1e-5)
        for key, value in expected.items():
            got = found.values["kl"].sel(mode=name, ablation=key).values
            np.testing.assert_allclose(got, value, atol=2e-5)
            assert (got[:, :3] == 0).all()
            assert (got[:, 3:] > 0).any()
    assert found.provenance["positions"] == [3, -1]
    again = experiment(held, {"part": "L0.attn.q rank_one 2"}, modes=[modes["pgd"]], positions=[3, -1], reoptimise=True)
    begun = off(gates_of(modes["pgd"], held, data), Q, 2, at)
    expected = kl(models.logits_of(held.reference, held.inputs(3)), by_hand(held, begun)[0]).mean(1)
    np.testing.assert_allclose(again.traces["PGD: part"][0], expected, atol=1e-5)


def test_spd_requirement_18_patterns_are_those_of_each_item_and_never_averaged_unasked(held: Host) -> None:
    data = held.data(3)
    ablate = {"head": "L0.head 3", "part": "L1.attn.o rank_one 2", "query": "L0.attn.q rank_one 2"}
    found = experiment(held, ablate, patterns="first")
    mean = experiment(held, ablate, patterns="mean", layers=[0])
    patterns = found.patterns
    assert patterns is not None
    assert mean.patterns is not None
    assert patterns.dims == ("mode", "ablation", "example", "layer", "head", "query", "key")
    assert patterns.shape == (5, 4, 3, 2, 4, 7, 7)
    assert patterns["ablation"].values.tolist() == ["baseline", *ablate]
    assert np.abs(patterns.sum("key").values - 1).max() < 1e-5
    assert (patterns.values[..., ~np.tri(7, dtype=bool)] == 0).all()
    for name, mode in modes_of(decomposed(held)).items():
        total: Any = 0.0
        for sample in range(mode.samples):
            gates = gates_of(mode, held, data, sample)
            arms = (gates, None), (gates, Out([(0, 3)])), (off(gates, O, 2), None), (off(gates, Q, 2), None)
            expected = torch.stack([by_hand(held, *arm)[1] for arm in arms]).numpy()
            if sample == 0:
                np.testing.assert_allclose(patterns.sel(mode=name).values, expected, atol=1e-5)
            total = total + expected / mode.samples
        np.testing.assert_allclose(mean.patterns.sel(mode=name).values, total[:, :, :1], atol=1e-5)
    change = found.pattern_change().sel(ablation="query", mode="target").values
    before, after = (patterns.sel(mode="target", ablation=one).values for one in ("baseline", "query"))
    np.testing.assert_allclose(change, np.abs(after - before).sum(-1).mean(-1) / 2, atol=1e-6)
    assert change[:, 0].max() > 1e-2


def test_spd_requirement_23_a_head_is_its_columns_of_the_output_projection(held: Host) -> None:
    registry = held.adapter.registry("head")
    ablate = {"first": "L0.head 3", "last": registry[registry.column("L1.head 1")]}
    found = experiment(held, ablate, modes={"target": Whole(decomposed(held))}, patterns="first")
    clean = models.logits_of(held.reference, held.inputs(3))
    for name, head in (("first", "L0.head 3"), ("last", "L1.head 1")):
        edited = models.edited(held.reference, [registry[registry.column(head)]])
        expected = kl(clean, models.logits_of(edited, held.inputs(3)))
        np.testing.assert_allclose(found.values["kl"].sel(mode="target", ablation=name).values, expected, atol=2e-5)
    change = found.pattern_change().isel(mode=0)
    assert (change.sel(ablation="first", layer=0).values == 0).all()  # ablated after the attention of its own layer
    assert (change.sel(ablation="first", layer=1).values > 1e-3).any()
    assert (change.sel(ablation="last").values == 0).all()


@pytest.mark.parametrize("where", [Q, V, O])
def test_spd_requirement_24_a_restricted_component_loses_the_slice_of_one_head_at_any_gate(
    held: Host, where: Any
) -> None:
    data, index = held.data(3), 2
    count = models.HEADS // 2 if held.name == "llama" and where == V else models.HEADS
    name = f"L{where[0]}.{where[1]} rank_one {index}"
    ablate: dict[str, Any] = {f"{head}": Restricted(name, head) for head in range(count)}
    ablate |= {"all": [Restricted(name, head) for head in range(count)], "whole": name}
    found = experiment(held, ablate, patterns="first")
    for mode_name, mode in modes_of(decomposed(held)).items():
        for head in range(count):
            features = slice(head * SIZE, (head + 1) * SIZE)
            expected: Any = 0.0
            for sample in range(mode.samples):
                gates = gates_of(mode, held, data, sample)
                logits, _ = by_hand(held, gates, Out(slices=[(where, index, features)]))
                expected = expected + kl(by_hand(held, gates)[0], logits) / mode.samples
            got = found.values["kl"].sel(mode=mode_name, ablation=f"{head}").values
            np.testing.assert_allclose(got, expected, atol=2e-5)
        whole, together = (found.values["kl"].sel(mode=mode_name, ablation=one).values for one in ("whole", "all"))
        np.testing.assert_allclose(whole, together, atol=1e-6)
    largest = (
        found.values["kl"].sel(ablation="whole", mode=["target", "stochastic", "pgd"]).max(("example", "position"))
    )
    assert float(largest.min()) > 1e-4
    if where == Q:  # the patterns of the other heads of its layer stay as they are, to the last bit
        for head in range(count):
            change = found.pattern_change().sel(ablation=f"{head}", layer=0)
            assert (change.sel(head=[one for one in range(count) if one != head]).values == 0).all()
            assert (change.sel(head=head).values > 0).any()


def test_a_component_is_whole_where_another_ablation_restricts_it(torch_gpt2: Host) -> None:
    name = "L0.attn.q rank_one 2"
    both = experiment(torch_gpt2, {"slice": Restricted(name, 1), "whole": name}, free={"freed": name})
    alone = experiment(torch_gpt2, {"whole": name}, free={"freed": name})
    for one in ("whole", "freed"):
        values = [found.values["kl"].sel(ablation=one).values for found in (both, alone)]
        np.testing.assert_allclose(*values, atol=1e-6)


# -- what it keeps and refuses -----------------------------------------------------------------------------------------


def test_spd_requirement_30_a_result_holds_what_is_needed_to_repeat_it(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    name = "L0.attn.q rank_one 2"
    ablate = {"part": name, "slice": Restricted(name, 1), "two": ["L0.head 1", "L1.head 0"]}
    modes = {"binomial": Stochastic(decomposition, 3, sampling="binomial", seed=7), "pgd": PGD(decomposition, 2, 0.3)}
    found = experiment(torch_gpt2, ablate, data, modes=modes, free={"freed": name}, positions=-1, patterns="first")
    kept = found.provenance
    assert kept["model"] == torch_gpt2.adapter.describe()
    assert kept["decomposition"] == {
        "fingerprint": decomposition.fingerprint,
        "sigmoid": "leaky_hard",
        "functions": {"L0.attn.q": "vector_mlp", "L0.attn.v": "vector_mlp", "L1.attn.o": "vector_mlp"}
        | {"L1.mlp.out": "vector_mlp"},
    }
    assert (kept["patterns"], kept["layers"], kept["gaps"]) == ("first", None, "whole")
    assert kept["modes"]["binomial"] == {
        **modes["binomial"].describe(),
        "baseline": "stochastic, remainders masked too",
    }
    wanted = {"n_samples": 3, "sampling": "binomial", "seed": 7, "remainder": "source"}
    assert wanted.items() <= kept["modes"]["binomial"].items()
    settings = {"steps": 2, "step_size": 0.3, "starts": ["random"], "scope": "example", "output": "kl", "seed": 0}
    assert settings.items() <= kept["modes"]["pgd"].items()
    assert kept["ablate"] == {"part": [name], "slice": [f"{name} in head 1"], "two": ["L0.head 1", "L1.head 0"]}
    assert kept["free"] == {"freed": [name]}
    assert kept["positions"] == [-1]
    assert kept["data"] == {"examples": 3, "fingerprint": data.fingerprint(), "positions": 21}
    assert found.traces["pgd"].shape == (3, 3)
    again = experiment(torch_gpt2, ablate, data, modes=modes, free={"freed": name}, positions=-1, patterns="first")
    assert found.values.identical(again.values)
    assert found.patterns is not None
    assert found.patterns.identical(again.patterns)


def test_the_default_modes_are_deterministic_stochastic_and_adversarial(torch_gpt2: Host) -> None:
    found = ablation_experiment(
        torch_gpt2.adapter, decomposed(torch_gpt2), torch_gpt2.data(1), {"head": "L0.head 0"}, layers=0
    )
    assert found.modes == ["deterministic", "stochastic", "PGD"]
    assert found.table()["samples"].tolist() == [1, 8, 1]
    assert found.gap_table()["module"].tolist()[:5] == ["all modules", *(f"L{at}.{name}" for at, name in PLACES)]
    assert found.patterns is not None
    assert found.patterns["layer"].values.tolist() == [0]


def test_a_model_without_positions(small: Host) -> None:
    decomposition, data = decomposed(small), small.data(4)
    name = decomposition.registry(small.adapter).names[1]
    modes = modes_of(decomposition)
    found = ablation_experiment(
        small.adapter,
        decomposition,
        data,
        {"part": name, "nothing": None},
        free={"freed": name},
        modes=modes,
        patterns=None,
    )
    assert found.values["kl"].shape == (5, 3, 4, 1)
    assert (found.values["kl"].sel(ablation="nothing").values == 0).all()
    assert float(found.values["kl"].sel(ablation="part").max()) > 1e-5


@pytest.mark.parametrize("examples", [1, 3])
def test_it_is_the_same_in_inference_mode(examples: int, torch_gpt2: Host) -> None:
    """Where an ascent needs gradients of what was made before it."""
    data = torch_gpt2.data(examples)
    options = {"free": {"f": "L0.attn.q rank_one 1"}, "modes": [PGD(decomposed(torch_gpt2), 2)], "reoptimise": True}
    ablate = {"c": "L0.attn.v rank_one 2", "h": "L0.head 1"}
    expected = experiment(torch_gpt2, ablate, data, **options)
    with torch.inference_mode():
        found = experiment(torch_gpt2, ablate, data, **options)
    assert found.values.identical(expected.values)
    assert all(np.array_equal(trace, found.traces[name]) for name, trace in expected.traces.items())


def test_the_model_is_left_as_it_was(held: Host) -> None:
    module = models.module_in(held.adapter.model)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    hooks = [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules()]
    decomposition = decomposed(held)
    fingerprint = decomposition.fingerprint
    name = "L0.attn.q rank_one 2"
    experiment(held, {"slice": Restricted(name, 1)}, free={"f": name}, reoptimise=True, patterns="first")
    assert all(torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())
    assert all(parameter.grad is None for parameter in [*module.parameters(), *decomposition.parameters()])
    assert hooks == [len(one._forward_hooks) + len(one._forward_pre_hooks) for one in module.modules()]
    assert decomposition.fingerprint == fingerprint


def call(host: Host, ablate: Any = None, **options: Any) -> Any:
    """The experiment as it is where no types are checked."""
    decomposition = options.pop("decomposition", decomposed(host))
    given: Any = {"modes": [Deterministic(decomposed(host))], "gaps": "whole", "patterns": None} | options
    adapter, data = given.pop("adapter", host.adapter), given.pop("data", host.data(3))
    ablate = {"part": PART} if ablate is None else ablate
    return inspect.unwrap(ablation_experiment)(adapter, decomposition, data, ablate, **given)


PART = "L0.attn.q rank_one 2"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda h: call(h, positions=[]), r"positions are integers, .*; got \[\]"),
        (lambda h: call(h, positions=[1.5]), r"positions are integers, .*; got \[1.5\]"),
        (lambda h: call(h, modes=[]), "there are no modes: leave modes out"),
        (lambda h: call(h, modes="pgd"), r"modes are instances, \[al.spd.Stochastic\(decomposition, 8\)\]; got 'pgd'"),
        (lambda h: call(h, modes=[Deterministic]), "mode 'Deterministic' is an instance such as"),
        (lambda h: call(h, modes=2 * [Stochastic(decomposed(h))]), "two modes are called stochastic: name them"),
        (lambda h: call(h, modes=[Deterministic(decomposed(h, seed=1))]), "'deterministic' is of another dec"),
        (lambda h: call(h, modes=[PGD(decomposed(h), reoptimise=True)]), "'PGD' has reoptimise=True, which is the"),
        (lambda h: call(h, modes=[PGD(decomposed(h), scope="shared")], free={"a": PART}), "scope='example'"),
        (lambda h: call(h, patterns="all"), "patterns are 'first', 'mean' or None; got 'all'"),
        (lambda h: call(h, gaps="none"), "gaps are of 'modules' or of the 'whole'; got 'none'"),
        (lambda h: call(h, reoptimise=1), "reoptimise is True or False; got 1"),
        (lambda h: call(h, adapter=h.reference), r"al.adapt\(model\); got GPT2LMHeadModel"),
        (lambda h: call(h, decomposition="run/1"), r"al.spd.load\(path\); got str"),
        (lambda h: call(h).pattern_change(), "patterns='first'"),
    ],
)  # fmt: skip
def test_bad_input(wrong: Any, message: str, torch_gpt2: Host) -> None:
    with pytest.raises(al.InputError, match=message):
        wrong(torch_gpt2)


def test_data_is_a_batch(torch_gpt2: Host) -> None:
    with pytest.raises((al.InputError, TypeError), match="the data is a Batch|Type-check error"):  # beartype is first
        call(torch_gpt2, data="x")


def test_the_experiment_is_found_among_the_names_of_spd() -> None:
    assert {"ablation_experiment", "AblationExperiment", "Restricted", "Whole"} <= set(dir(al.spd))
    with pytest.raises(AttributeError, match="no attribute 'ablation'"):
        al.spd.ablation  # noqa: B018
