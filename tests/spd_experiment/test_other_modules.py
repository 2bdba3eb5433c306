"""The experiment on fused matrices, embeddings and identities before modules, against modules added up by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.spd import PGD, Decomposition, Deterministic, Part, Stochastic
from ablationlens.spd_experiment import Restricted, Whole, ablation_experiment
from tests import families, models
from tests.conftest import Host, host_of
from tests.spd.test_embeddings import embedded
from tests.spd.test_fused import fused
from tests.spd.test_inserted_identities import inserted
from tests.spd_experiment.by_hand import SIZE, Out, kl, off, run

CASES = [
    ("torch", "gpt2", fused, (0, "attn.qkv")),
    ("transformer_lens", "llama", embedded, (0, "embed")),
    ("torch", "gpt2", inserted, (0, "attn.qkv.pre_identity")),
    ("nnsight", "llama", inserted, (0, "attn.v.pre_identity")),
]


def modes_of(decomposition: Decomposition) -> dict[str, Any]:
    return {
        "target": Whole(decomposition),
        "deterministic": Deterministic(decomposition),
        "stochastic": Stochastic(decomposition, 2, seed=4),
        "pgd": PGD(decomposition, 2, 0.2),
    }


def gates_of(mode: Any, host: Host, data: Any, sample: int) -> Any:
    return {where: (own.parts, own.remainder) for where, own in mode.module_gates(host.adapter, data, sample).items()}


@pytest.mark.parametrize(("held", "name", "make", "where"), CASES, ids=lambda one: str(one).split(" at ")[0])
def test_effects_gaps_and_patterns(held: str, name: str, make: Any, where: tuple[int, str]) -> None:
    host = host_of(held, name)
    decomposition, data, inputs = make(host), host.data(3), host.inputs(3)
    own = f"L{where[0]}.{where[1]}"
    part, rest = f"{own} rank_one 2", f"{own} remainder"
    modes = modes_of(decomposition)
    ablate = {"part": part, "rest": rest, "head": "L1.head 1", "nothing": None}
    whole = ablation_experiment(host.adapter, decomposition, data, ablate, free={"freed": part}, modes=modes)
    there = ablation_experiment(
        host.adapter, decomposition, data, {"part": part}, modes=modes, positions=[3, -1], patterns=None, gaps="whole"
    )
    target = models.logits_of(host.reference, inputs)
    gaps = whole.gap_table().set_index(["mode", "module"])["kl"]
    for mode_name, mode in modes.items():
        expected: Any = dict.fromkeys(("part", "rest", "head", "part there", "gap", "gap of its own"), 0.0)
        for sample in range(mode.samples):
            gates = gates_of(mode, host, data, sample)
            ones = {at: tuple(torch.ones_like(one) for one in one) for at, one in gates.items()}
            before, patterns = run(host.reference, decomposition, gates, inputs)
            without, changed = run(host.reference, decomposition, off(gates, where, 2), inputs)
            arms = {
                "part": without,
                "rest": run(host.reference, decomposition, off(gates, where, -1), inputs)[0],
                "head": run(host.reference, decomposition, gates, inputs, Out([(1, 1)]))[0],
                "part there": run(host.reference, decomposition, off(gates, where, 2, [3, 6]), inputs)[0],
            }
            for key, logits in arms.items():
                expected[key] = expected[key] + kl(before, logits) / mode.samples
            single = run(host.reference, decomposition, {**ones, where: gates[where]}, inputs)[0]
            expected["gap"] += float(kl(target, before).mean()) / mode.samples
            expected["gap of its own"] += float(kl(target, single).mean()) / mode.samples
            if sample == 0:
                assert whole.patterns is not None
                for key, pattern in (("baseline", patterns), ("part", changed)):
                    got = whole.patterns.sel(mode=mode_name, ablation=key).values
                    np.testing.assert_allclose(got, pattern.numpy(), atol=1e-5)
        for key in ("part", "rest", "head"):
            got = whole.values["kl"].sel(mode=mode_name, ablation=key).values
            np.testing.assert_allclose(got, expected[key], atol=3e-5, err_msg=f"{mode_name} {key}")
        got = there.values["kl"].sel(mode=mode_name, ablation="part").values
        np.testing.assert_allclose(got, expected["part there"], atol=3e-5)
        assert (got[:, :3] == 0).all()
        assert gaps[mode_name, "all modules"] == pytest.approx(expected["gap"], abs=3e-5)
        assert gaps[mode_name, own] == pytest.approx(expected["gap of its own"], abs=3e-5)
    assert (whole.values["kl"].sel(ablation="nothing").values == 0).all()
    assert (whole.pattern_change().sel(ablation="nothing").values == 0).all()
    assert float(whole.values["kl"].sel(ablation="part", mode="target").max()) > 1e-2
    assert (whole.traces["pgd: freed"].max(0) >= whole.traces["pgd"].max(0) - 1e-6).all()


@pytest.mark.parametrize("projection", ["q", "k", "v"])
def test_spd_requirement_24_a_component_of_a_fused_matrix_loses_one_projection_of_one_head(projection: Any) -> None:
    host = host_of("torch", "gpt2")
    decomposition, data, where, index = fused(host), host.data(3), (0, "attn.qkv"), 2
    component = f"L0.attn.qkv rank_one {index}"
    begin = "qkv".index(projection) * models.WIDTH
    heads = {f"{head}": Restricted(component, head, projection) for head in range(models.HEADS)}
    every = [Restricted(component, head, one) for head in range(models.HEADS) for one in ("q", "k", "v")]
    modes = modes_of(decomposition)
    found = ablation_experiment(
        host.adapter, decomposition, data, {**heads, "all": every, "whole": component}, modes=modes, patterns="first"
    )
    for name, mode in modes.items():
        for head in range(models.HEADS):
            features, expected = slice(begin + head * SIZE, begin + (head + 1) * SIZE), 0.0
            for sample in range(mode.samples):
                gates = gates_of(mode, host, data, sample)
                before, _ = run(host.reference, decomposition, gates, host.inputs(3))
                out = Out(slices=[(where, index, features)])
                expected = expected + kl(before, run(host.reference, decomposition, gates, host.inputs(3), out)[0]) / (
                    mode.samples
                )
            got = found.values["kl"].sel(mode=name, ablation=f"{head}").values
            np.testing.assert_allclose(got, expected, atol=2e-5)
        together = (found.values["kl"].sel(mode=name, ablation=one).values for one in ("whole", "all"))
        np.testing.assert_allclose(*together, atol=1e-6)
    change = found.pattern_change().sel(ablation="1", layer=0)
    if projection == "v":
        assert (change.values == 0).all()
    else:
        assert (change.sel(head=[0, 2, 3]).values == 0).all()
        assert (change.sel(head=1).values > 0).any()
    assert found.provenance["ablate"]["1"] == [f"{component} in head 1, {projection}"]


@pytest.mark.parametrize("name", ["gpt_neox", "falcon"])
def test_heads_of_a_matrix_that_interleaves_its_projections(name: str) -> None:
    """By heads, or by groups of them: the rows of a head's keys are found where they are stored."""
    family, reference = families.FAMILIES[name], families.model_of(name)
    adapter = al.adapt(families.model_of(name))
    owner, _ = family.owner(reference, 0, "attn.qkv")
    rows, columns = families.matrix(owner).shape
    generator = torch.Generator().manual_seed(0)
    V, U = (torch.randn(shape, generator=generator) for shape in ((columns, 3), (3, rows)))
    decomposition, inputs = Decomposition({(0, "attn.qkv"): Part(V, U)}), family.batch()
    found = ablation_experiment(
        adapter,
        decomposition,
        al.batch(inputs),
        {"k": Restricted("L0.attn.qkv rank_one 1", family.groups - 1, "k")},
        modes=[Whole(decomposition)],
        patterns=None,
    )
    _, of_keys = family.owner(reference, 0, "attn.k")
    own = torch.arange(rows)[of_keys][-family.head :]  # of the last key/value head
    edited = models.untied(reference)
    with torch.no_grad():
        families.matrix(family.owner(edited, 0, "attn.qkv")[0])[own] -= torch.outer(U[1, own], V[:, 1])
    clean, without = (families.run(one, inputs) for one in (reference, edited))
    real = inputs["attention_mask"].bool() if "attention_mask" in inputs else torch.ones(clean.shape[:2]).bool()
    expected = kl(clean, without)[real]
    np.testing.assert_allclose(found.values["kl"].values[0, 0][real.numpy()], expected, atol=2e-5)
    assert float(expected.max()) > 1e-4
