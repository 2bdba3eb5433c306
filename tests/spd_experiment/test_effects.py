"""The effects of all ablations in one mode, sample by sample, against models on gates that are made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from torch import Tensor

from ablationlens.diagnostics.clean import MEASURES
from ablationlens.spd import PGD, Deterministic, Stochastic
from ablationlens.spd.modes import Mode
from ablationlens.spd_experiment.asked import Asked
from ablationlens.spd_experiment.bench import Bench
from ablationlens.spd_experiment.effects import Effects
from ablationlens.spd_experiment.slices import Restricted
from tests import models
from tests.conftest import Host
from tests.spd.small import COUNT, PLACES, decomposed, logits_under
from tests.spd_experiment.by_hand import Out, kl, off, run
from tests.spd_experiment.test_compared import by_formula

Q, V, O, MLP = PLACES  # noqa: E741
PART, FREED = "L0.attn.v rank_one 1", ["L1.attn.o rank_one 0", "L0.attn.v rank_one 3"]


class Known(Mode):
    """Two samples whose sources anybody can make again."""

    samples = 2  # type: ignore[assignment]

    def sources(self, adapter: Any, data: Any, importances: Mapping[Any, Tensor], sample: int) -> Mapping[Any, Tensor]:
        return known_sources(importances, sample)


def known_sources(importances: Mapping[Any, Tensor], sample: int) -> dict[Any, Tensor]:
    generator = torch.Generator().manual_seed(sample)
    return {where: torch.rand(*one.shape[:-1], COUNT + 1, generator=generator) for where, one in importances.items()}


def bench_of(host: Host, ablate: Any, free: Any = None, **options: Any) -> Bench:
    own = decomposed(host)
    given: Any = {"positions": None, "rows": None, "patterns": None, "layers": None, "gaps": "whole"} | options
    return Bench(host.adapter, own, host.data(3), Asked(host.adapter, own, ablate, free), **given)


def gates_by_hand(importances: Mapping[Any, Tensor], sources: Mapping[Any, Tensor], freed: Any = ()) -> Any:
    """ci + (1 - ci) s, where ci of what is freed is 0; the remainder's gate is its source."""
    found = {}
    for where, lower in importances.items():
        own, source = lower.double().clone(), sources[where].double()
        for at, index in freed:
            if at == where:
                own[..., index] = 0
        parts = own + (1 - own) * source[..., :-1]
        found[where] = (parts, source[..., -1:].expand(*parts.shape[:-1], 1))
    return found


# -- measures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [None, 2])
def test_sums_of_measures_become_means_and_samples_stay(rows: int | None, torch_gpt2: Host) -> None:
    inputs, decomposition = torch_gpt2.inputs(3), decomposed(torch_gpt2)
    ablate = {"part": PART, "head": "L0.head 3", "none": None}
    bench = bench_of(torch_gpt2, ablate, {"freed": FREED}, rows=rows, gaps="modules")
    found = Effects(bench, "known", Known(decomposition), reoptimise=False)
    labels = torch.cat([inputs[:, 1:], torch.full((3, 1), -100)], 1).numpy()
    target = models.logits_of(torch_gpt2.reference, inputs)
    before, after = [], []
    for sample in range(2):
        found.measure(sample)
        sources = known_sources(bench.importances, sample)
        gates = gates_by_hand(bench.importances, sources)
        freed = gates_by_hand(bench.importances, sources, [(O, 0), (V, 3)])
        kept, head = (run(torch_gpt2.reference, decomposition, gates, inputs, out)[0] for out in (None, Out([(0, 3)])))
        part, without = (
            logits_under(torch_gpt2.reference, decomposition, own, inputs) for own in (off(gates, V, 1), freed)
        )
        before.append(kept)
        after.append([part, head, kept, without])
        gaps = [kept]
        for at in PLACES:
            ones = {where: tuple(torch.ones_like(one) for one in own) for where, own in gates.items()}
            gaps.append(logits_under(torch_gpt2.reference, decomposition, {**ones, at: gates[at]}, inputs))
        for number, one in enumerate(gaps):
            expected = np.nanmean(by_formula(target, one, labels), axis=-1)
            np.testing.assert_allclose(found.gaps[:, number, sample], expected, atol=3e-5)
    each = np.array(
        [[by_formula(kept, one, labels) for one in arms] for kept, arms in zip(before, after, strict=True)]
    )  # [sample, arm, measure, example, position]
    np.testing.assert_allclose(found.samples, np.nanmean(each, axis=-1).transpose(2, 1, 0, 3), atol=3e-5)
    np.testing.assert_allclose(found.values, each.sum(0).swapaxes(0, 1), atol=5e-5)
    assert np.isnan(found.means).all()
    found.finish()
    np.testing.assert_allclose(found.values, each.mean(0).swapaxes(0, 1), atol=3e-5)
    p = torch.stack(before).double().softmax(-1).mean(0).numpy()
    for number in range(4):
        q = torch.stack([arms[number] for arms in after]).double().softmax(-1).mean(0).numpy()
        np.testing.assert_allclose(found.means[number], rel_entr(p, q).sum(-1), atol=2e-5)
    changed = np.abs(found.values[0]).max((1, 2))
    assert (changed[[0, 1, 3]] > 1e-3).all()
    assert changed[2] == 0
    assert not found.traces
    assert not found.reoptimised


def test_the_kl_of_means_of_one_sample_is_its_kl(torch_gpt2: Host) -> None:
    found = Effects(
        bench_of(torch_gpt2, {"part": PART}), "one", Deterministic(decomposed(torch_gpt2)), reoptimise=False
    )
    found.measure(0)
    found.finish()
    assert np.array_equal(found.means, found.values[MEASURES.index("kl")].astype(np.float32))


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patterns", ["first", "mean", None])
def test_patterns_are_of_the_baseline_and_then_of_every_arm_in_order(patterns: Any, torch_gpt2: Host) -> None:
    inputs, decomposition = torch_gpt2.inputs(3), decomposed(torch_gpt2)
    ablate = {"part": PART, "head": "L0.head 3", "other": "L0.attn.q rank_one 2"}
    bench = bench_of(torch_gpt2, ablate, {"freed": FREED}, patterns=patterns)
    found = Effects(bench, "known", Known(decomposition), reoptimise=False)
    expected = []
    for sample in range(2):
        found.measure(sample)
        sources = known_sources(bench.importances, sample)
        gates = gates_by_hand(bench.importances, sources)
        arms = [
            (gates, None),
            (off(gates, V, 1), None),
            (gates, Out([(0, 3)])),
            (off(gates, Q, 2), None),
            (gates_by_hand(bench.importances, sources, [(O, 0), (V, 3)]), None),
        ]
        expected.append(
            torch.stack([run(torch_gpt2.reference, decomposition, one, inputs, out)[1] for one, out in arms])
        )
    found.finish()
    if patterns is None:
        assert found.patterns is None
        return
    wanted = expected[0] if patterns == "first" else torch.stack(expected).mean(0)
    assert found.patterns is not None
    np.testing.assert_allclose(found.patterns.values, wanted.numpy(), atol=1e-5)
    assert models.distance(expected[0], expected[1]) > 1e-2
    assert min(models.distance(one, wanted[0]) for one in wanted[1:]) > 1e-4


# -- gates -------------------------------------------------------------------------------------------------------------


def test_what_a_random_mode_frees_has_its_source_as_its_gate_and_nothing_else_moves(torch_gpt2: Host) -> None:
    mode = Stochastic(decomposed(torch_gpt2), 2, seed=4)
    bench = bench_of(torch_gpt2, {"part": PART}, {"freed": FREED}, positions=(0, -1))
    found = Effects(bench, "stochastic", mode, reoptimise=True)
    assert found.other.keys() == {"freed"}  # only an adversary goes on
    for sample, freed in enumerate(found.other["freed"]):
        sources = mode.sources(torch_gpt2.adapter, bench.data, bench.importances, sample)
        for where, own in freed.items():
            expected = found.gates[sample][where].parts.clone()
            for at, index in ((O, 0), (V, 3)):
                if at == where:
                    expected[:, [0, 6], index] = sources[where][:, [0, 6], index]
            assert torch.equal(own.parts, expected)
            assert torch.equal(own.remainder, found.gates[sample][where].remainder)


def test_an_adversary_moves_what_is_freed_from_the_gates_that_it_had(torch_gpt2: Host) -> None:
    mode = PGD(decomposed(torch_gpt2), 3, 0.3)
    bench = bench_of(torch_gpt2, {"part": PART}, {"freed": [*FREED, "L0.attn.q rank_one 2"]}, positions=(1, -1))
    found = Effects(bench, "pgd", mode, reoptimise=False)
    (freed,) = found.other["freed"]
    assert found.traces.keys() == {"pgd", "pgd: freed"}
    np.testing.assert_allclose(found.traces["pgd: freed"][0], found.traces["pgd"].max(0), atol=1e-5)
    moved = 0
    for where, (parts, remainder) in freed.items():
        may = torch.zeros_like(parts, dtype=torch.bool)
        for at, index in ((O, 0), (V, 3), (Q, 2)):
            if at == where:
                may[:, [1, 6], index] = True
        before = found.gates[0][where]
        torch.testing.assert_close(parts[~may], before.parts[~may], rtol=0, atol=1e-6)
        assert torch.equal(remainder, before.remainder)
        assert ((parts >= 0) & (parts <= 1)).all()
        moved += int((parts != before.parts)[may].sum())
    assert moved


def test_an_adversary_goes_on_where_whole_components_are_ablated_and_they_stay_out(torch_gpt2: Host) -> None:
    ablate = {
        "part": PART,
        "rest": "L1.mlp.out remainder",
        "head": "L0.head 0",
        "slice": Restricted("L0.attn.q rank_one 2", 1),
        "nothing": None,
    }
    bench, mode = bench_of(torch_gpt2, ablate), PGD(decomposed(torch_gpt2), 3, 0.3)
    found, shared = (Effects(bench, "pgd", mode, reoptimise=one) for one in (True, False))
    assert found.reoptimised == ["part", "rest"]
    assert found.other.keys() == {"part", "rest"}
    assert found.traces.keys() == {"pgd", "pgd: part", "pgd: rest"}
    assert not shared.other
    assert not shared.reoptimised
    (part,), (rest,) = found.other["part"], found.other["rest"]
    target, gates = models.logits_of(torch_gpt2.reference, torch_gpt2.inputs(3)), found.gates[0]
    for name, out in (("part", (V, 1)), ("rest", (MLP, -1))):  # an ascent begins at the ablated baseline
        begun = logits_under(torch_gpt2.reference, decomposed(torch_gpt2), off(gates, *out), torch_gpt2.inputs(3))
        np.testing.assert_allclose(found.traces[f"pgd: {name}"][0], kl(target, begun).mean(1), atol=1e-5)
    assert (part[V].parts[..., 1] == 0).all()
    assert (rest[MLP].remainder == 0).all()
    for again, (out, at) in ((part, (V, 1)), (rest, (MLP, COUNT))):
        for where, own in again.items():
            before, after = (torch.cat([*one], -1) for one in (found.gates[0][where], own))
            kept = [index for index in range(COUNT + 1) if (where, index) != (out, at)]
            assert not torch.equal(after[..., kept], before[..., kept])  # all others go on
            lower = torch.cat([bench.importances[where], torch.zeros_like(after[..., :1])], -1)
            assert (after >= lower - 1e-6)[..., kept].all()
            assert (after <= 1).all()


def test_sources_that_all_examples_share_make_gates_of_every_row(torch_gpt2: Host) -> None:
    mode = PGD(decomposed(torch_gpt2), 2, 0.2, scope="shared")
    bench = bench_of(torch_gpt2, {"part": PART})
    found = Effects(bench, "pgd", mode, reoptimise=True)
    expected = gates_by_hand(bench.importances, found.sources[0])
    for where, (parts, remainder) in expected.items():
        assert found.sources[0][where].shape == (1, 1, COUNT + 1)
        assert found.gates[0][where].parts.shape == (3, 7, COUNT)
        assert models.close(found.gates[0][where].parts.double(), parts, 1e-6)
        assert models.close(found.gates[0][where].remainder.double(), remainder, 1e-6)
    found.measure(0)
    found.finish()
    assert found.values[0].max() > 1e-3
