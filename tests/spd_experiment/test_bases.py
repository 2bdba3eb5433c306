"""One sample of a mode as a base: models of components and of heads that run on the same gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.spd.forward import Gates
from ablationlens.spd_experiment.bases import Given, taken
from ablationlens.spd_experiment.slices import Restricted, Slice, Split, slice_of
from tests import models
from tests.conftest import Host
from tests.spd.small import COUNT, PLACES, decomposed, logits_under
from tests.spd_experiment.by_hand import Out, off, run

Q = PLACES[0]


def split_of(host: Host, *slices: Slice) -> Split:
    return Split(host.adapter, decomposed(host), slices)


def one_slice(host: Host) -> Slice:
    own = decomposed(host)
    return slice_of(Restricted("L0.attn.q rank_one 2", 1), own, own.registry(host.adapter), host.adapter)


def random_gates(*rows: int) -> dict[Any, Gates]:
    generator = torch.Generator().manual_seed(1)
    return {
        where: Gates(torch.rand(*rows, COUNT, generator=generator), torch.rand(*rows, 1, generator=generator))
        for where in PLACES
    }


@pytest.mark.parametrize("sliced", [False, True])
def test_components_and_heads_run_on_the_gates_that_are_given(sliced: bool, gpt2: Host) -> None:
    split = split_of(gpt2, one_slice(gpt2)) if sliced else split_of(gpt2)
    gates, data, inputs = random_gates(3, 7), gpt2.data(3), gpt2.inputs(3)
    by_parts, by_heads = (
        al.MaskedModel(gpt2.adapter, registry, base=Given(gates, split, {}), output=al.Logit(2))
        for registry in (split.registry, gpt2.adapter.registry("head"))
    )
    expected = logits_under(gpt2.reference, decomposed(gpt2), gates, inputs)
    for model in (by_parts, by_heads):
        assert models.close(model.logits(model.mask(), data), expected)
    without = logits_under(gpt2.reference, decomposed(gpt2), off(gates, Q, 2), inputs)
    assert models.close(by_parts.logits(by_parts.mask(split.columns(Q, 2)), data), without)
    silent, _ = run(gpt2.reference, decomposed(gpt2), gates, inputs, Out([(1, 3)]))
    assert models.close(by_heads.logits(by_heads.mask("L1.head 3"), data), silent)
    assert min(models.distance(one, expected) for one in (without, silent)) > 1e-3


def test_components_are_behind_heads_and_before_themselves(torch_gpt2: Host) -> None:
    split = split_of(torch_gpt2, one_slice(torch_gpt2))
    base = Given(random_gates(3, 7), split, {})
    assert base.behind(torch_gpt2.adapter, split.registry) is None
    assert base.behind(torch_gpt2.adapter, torch_gpt2.adapter.registry("head")) is split.registry


def test_it_is_one_sample_that_says_how_its_gates_were_made(torch_gpt2: Host) -> None:
    split, described = split_of(torch_gpt2), {"base": "Stochastic", "seed": 4}
    gates = random_gates(2, 7)
    base = Given(gates, split, described)
    found = base.gates(torch_gpt2.adapter, split.registry, torch_gpt2.data(2))
    assert base.samples == 1
    assert torch.equal(found, split.laid_out(gates)[None])
    told = base.describe()
    assert told == described
    told["seed"] = 5
    assert base.describe() == {"base": "Stochastic", "seed": 4}  # a copy


def test_gates_of_some_examples() -> None:
    gates = random_gates(4, 7)
    found = taken(gates, torch.tensor([2, 0]))
    for where, (parts, remainder) in gates.items():
        assert torch.equal(found[where].parts, torch.stack([parts[2], parts[0]]))
        assert torch.equal(found[where].remainder, torch.stack([remainder[2], remainder[0]]))
