"""PGD: what its search finds, against modules computed component by component, and what that costs."""

from __future__ import annotations

import copy
import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.spd import PGD, Decomposition, Deterministic, Stochastic
from ablationlens.spd.forward import Gates
from ablationlens.spd.modes import Mode
from tests import models
from tests.conftest import Host, host_of
from tests.passes import before_each_pass
from tests.spd.small import COUNT, decomposed, logits_under


def model_of(host: Host, base: Mode) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, base.decomposition.registry(host.adapter), output=al.KL(), base=base)


def divergence(host: Host, decomposition: Decomposition, gates: Any, count: int) -> Tensor:
    """The mean divergence from the model over all positions, [example], by modules computed by hand."""
    inputs = host.inputs(count)
    both = models.logits_of(host.reference, inputs), logits_under(host.reference, decomposition, gates, inputs)
    clean, masked = (torch.distributions.Categorical(logits=one) for one in both)
    return torch.distributions.kl_divergence(clean, masked).mean(1)


def test_spd_requirement_13_the_worst_is_at_least_as_bad_as_where_the_search_began(gpt2: Host) -> None:
    decomposition, data = decomposed(gpt2), gpt2.data(4)
    found = PGD(decomposition, 4, 0.1, seed=2).search(gpt2.adapter, data)
    assert found.trace.shape == (5, 4)
    assert torch.equal(found.loss, found.trace.max(0).values)
    assert bool((found.loss >= found.trace[0]).all())
    assert bool((found.loss > found.trace[0]).any())
    gates = Stochastic(decomposition, seed=2).module_gates(gpt2.adapter, data)
    assert torch.allclose(found.trace[0], divergence(gpt2, decomposition, gates, 4), atol=1e-5)
    ones = PGD(decomposition, 1, 0.1, starts="ones").search(gpt2.adapter, data)
    assert float(ones.trace[0].abs().max()) < 1e-6


def test_spd_requirement_12_the_best_found_does_not_fall_with_more_steps(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(4)
    losses = [PGD(decomposition, steps, 1.0).search(torch_gpt2.adapter, data) for steps in (1, 2, 5)]
    for fewer, more in pairwise(losses):
        assert bool((more.loss >= fewer.loss - 1e-6).all())
    assert any(bool((one.loss > one.trace[-1]).any()) for one in losses)  # the last step is not the best everywhere


def test_spd_requirement_14_the_worst_of_several_starts_is_at_least_each(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(4)
    starts = ("ones", "zeros", "random", "random")
    together = PGD(decomposition, 2, 0.2, starts=starts).search(torch_gpt2.adapter, data)
    for start in ("ones", "zeros", "random"):
        alone = PGD(decomposition, 2, 0.2, starts=start).search(torch_gpt2.adapter, data)
        assert bool((together.loss >= alone.loss - 1e-6).all())
        better = together.loss > alone.loss + 1e-6
        assert bool(better.any())
    assert torch.equal(together.loss, together.trace.max(0).values)


def test_spd_requirement_14_sources_of_each_row_that_begin_as_the_worst_shared_ones_are_no_better(
    torch_gpt2: Host,
) -> None:
    """What all rows share is one choice of what each may have of its own."""
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(4)
    shared = PGD(decomposition, 5, 0.2, scope="shared").search(torch_gpt2.adapter, data)
    own = PGD(decomposition, 3, 0.2).search(torch_gpt2.adapter, data, begin=shared.sources)
    assert torch.allclose(own.trace[0], shared.loss, atol=1e-5)
    assert bool((own.loss >= own.trace[0]).all())
    assert float(own.loss.sum()) > float(shared.loss.sum()) + 1e-3
    assert own.sources[0, "attn.q"].shape == (4, 7, COUNT + 1)


def test_spd_requirement_16_the_loss_that_is_reported_is_that_of_the_gates(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(4)
    base = PGD(decomposition, 3, 0.2)
    found = base.search(torch_gpt2.adapter, data)
    gates = base.module_gates(torch_gpt2.adapter, data)
    assert all(bool(((own.parts >= 0) & (own.parts <= 1)).all()) for own in gates.values())
    assert torch.allclose(found.loss, divergence(torch_gpt2, decomposition, gates, 4), atol=1e-5)
    logits = logits_under(torch_gpt2.reference, decomposition, gates, torch_gpt2.inputs(4))
    deterministic = model_of(torch_gpt2, Deterministic(decomposition))
    assert models.distance(deterministic.logits(deterministic.mask(), data), logits) > 1e-3


def test_spd_requirement_11_gates_stay_above_importances_at_every_iterate(torch_gpt2: Host) -> None:
    decomposition, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    importances = decomposition.importances(torch_gpt2.adapter, data)
    for steps in (1, 2, 3):
        for where, own in PGD(decomposition, steps, 1.0).module_gates(torch_gpt2.adapter, data).items():
            assert bool((own.parts >= importances[where]).all())
            assert bool((own.parts <= 1).all())


def test_spd_requirement_28_searching_leaves_no_gradients_in_any_context(gpt2: Host) -> None:
    decomposition, data = decomposed(gpt2), gpt2.data(2)
    with torch.no_grad():
        outside = PGD(decomposition, 2).search(gpt2.adapter, data).loss
    with torch.inference_mode():
        inside = PGD(decomposition, 2).search(gpt2.adapter, data).loss
    assert torch.equal(outside, inside)
    assert all(parameter.grad is None for parameter in decomposition.parameters())
    assert all(parameter.grad is None for parameter in models.module_in(gpt2.adapter.model).parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_spd_requirement_28_small_dtypes_have_gates_and_divergences_in_float32(dtype: torch.dtype) -> None:
    host = host_of("torch", "llama")
    adapter = al.adapt(copy.deepcopy(host.reference).to(dtype))
    decomposition, data = decomposed(host), host.data(3)
    base = PGD(decomposition, 3, 0.2)
    with torch.no_grad():
        found = base.search(adapter, data)
    assert found.loss.dtype == found.trace.dtype == torch.float32
    assert all(one.dtype == torch.float32 for one in found.sources.values())
    assert all(own.parts.dtype == torch.float32 for own in base.module_gates(adapter, data).values())
    assert bool((found.loss > found.trace[0] + 1e-2).all())
    model = al.MaskedModel(adapter, decomposition.registry(adapter), output=al.KL(), base=base)
    logits = model.logits(model.mask(), data)
    assert logits.dtype == dtype
    clean = models.logits_of(adapter.model, host.inputs(3))
    kl = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=one.double()) for one in (clean, logits))
    ).mean(1)
    assert torch.allclose(found.loss.double(), kl, rtol=1e-5)  # in bfloat16 it would be 1e-2 off
    assert all(parameter.grad is None for parameter in [*adapter.model.parameters(), *decomposition.parameters()])


# -- importances and sources that are given ---------------------------------------------------------------------------


def test_importances_of_one_row_are_those_of_all_rows(torch_gpt2: Host) -> None:
    d, data = decomposed(torch_gpt2), torch_gpt2.data(3)
    single = {where: torch.full((1, 1, COUNT), 0.25) for where in d.places}
    every = {where: one.expand(3, 7, -1) for where, one in single.items()}
    for scope in ("example", "shared"):
        base = PGD(d, 2, scope=scope)  # type: ignore[arg-type]
        ours, theirs = (base.search(torch_gpt2.adapter, data, one) for one in (single, every))
        assert torch.equal(ours.trace, theirs.trace)
        assert all(torch.equal(ours.sources[where], theirs.sources[where]) for where in d.places)


def test_spd_requirement_22_what_is_given_to_a_search_is_held_against_the_modules(torch_gpt2: Host) -> None:
    """Seven examples of seven positions: [example, C] would be spread over them as [position, C]."""
    d, data, adapter = decomposed(torch_gpt2), torch_gpt2.data(7), torch_gpt2.adapter
    known, base = d.importances(adapter, data), PGD(d, 1)
    flat = {where: one[:, 0] for where, one in known.items()}
    with pytest.raises(al.InputError, match=r"of L0.attn.q are \[examples, 7, 6\], or \[1, 1, 6\] .*; got \[7, 6\]"):
        base.search(adapter, data, flat)
    ones = {where: torch.ones(7, 7, COUNT + 1) for where in d.places}
    for begin, message in [
        ({where: one[:, 0] for where, one in ones.items()}, r"sources of L0.attn.q are \[7, 7, 7\]"),
        (
            {where: 5 * one for where, one in ones.items()},
            "sources are numbers from 0 to 1; .* from 5 to 5",
        ),
        (
            {where: one[..., :-1] for where, one in ones.items()},
            r"are \[7, 7, 7\], .*; got \[7, 7, 6\]",
        ),
    ]:
        with pytest.raises(al.InputError, match=message):
            base.search(adapter, data, known, begin=begin)
    for wrong, message in [
        ({(0, "attn.q"): known[0, "attn.q"]}, r"importances are of every module .* there are none of L0.attn.v"),
        ({where: 3 * one - 1 for where, one in known.items()}, "are numbers from 0 to 1; those of L0.attn.q go from -"),
        (
            {where: one * torch.nan for where, one in known.items()},
            "are numbers from 0 to 1; .* go from nan to nan",
        ),
        ({where: one[:2] for where, one in known.items()}, r"a tensor of 7 examples, .*; got \[2, 7, 6\]"),
        ({where: one[:, :5] for where, one in known.items()}, r"are \[examples, 7, 6\], .*; got \[7, 5, 6\]"),
        ({where: one[..., :2] for where, one in known.items()}, r"got \[7, 7, 2\]"),
    ]:
        with pytest.raises(al.InputError, match=message):
            base.search(adapter, data, wrong)
    with pytest.raises(al.InputError, match=r"a tensor of 2 examples, .*; got \[7, 7, 6\]"):
        base.search(adapter, torch_gpt2.data(2), known)


def test_what_may_move_is_said_of_sources_that_are_given(torch_gpt2: Host) -> None:
    d, data = decomposed(torch_gpt2), torch_gpt2.data(2)
    moving = {where: torch.ones(1, 1, COUNT + 1, dtype=torch.bool) for where in d.places}
    with pytest.raises(al.InputError, match=r"give begin=\.\.\. too, or leave moving out"):
        PGD(d, 1).search(torch_gpt2.adapter, data, moving=moving)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: PGD(d, 0), "steps is a whole number from 1; got 0"),
        (lambda d: PGD(d, 3, 0.0), "step_size is from 0 to 1"),
        (lambda d: PGD(d, starts="middle"), "random, ones, zeros"),
        (lambda d: PGD(d, scope="batch"), "'example' or 'shared'"),
        (lambda d: PGD(d, output="accuracy"), "'kl'"),
        (lambda d: PGD(d, seed="a"), "seed is a whole number"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, message: str, torch_gpt2: Host) -> None:
    with pytest.raises((al.InputError, TypeError), match=f"{message}|type"):  # beartype may be first
        call(decomposed(torch_gpt2))


# -- chunks of examples, and what a search costs -----------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3])
def test_examples_of_several_passes_find_what_they_find_alone(
    rows: int, torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything that a search may be given: of each example, or the same for all."""
    d, data, adapter = decomposed(torch_gpt2), torch_gpt2.data(5), torch_gpt2.adapter
    generator = torch.Generator().manual_seed(0)
    known = d.importances(adapter, data)
    begin = {at: torch.rand(*one.shape[:-1], COUNT + 1, generator=generator) for at, one in known.items()}
    moving = {at: torch.rand(one.shape, generator=generator) > 0.3 for at, one in begin.items()}
    off = {at: (torch.rand(one.shape, generator=generator) > 0.2).float() for at, one in known.items()}
    kept = {at: Gates(one, torch.full((1, 1, 1), 0.5)) for at, one in off.items()}
    base = PGD(d, 2, 0.2)
    seen: set[int] = set()
    monkeypatch.setattr("ablationlens.packing.CPU_ROWS", (rows, rows))
    before_each_pass(adapter, monkeypatch, lambda batch: seen.add(len(batch)))
    found = base.search(adapter, data, known, begin=begin, moving=moving, kept=kept)
    assert len(seen) == 2
    assert max(seen) == rows
    for index in range(5):
        one = slice(index, index + 1)
        lower, first, free = ({at: value[one] for at, value in held.items()} for held in (known, begin, moving))
        own = {at: Gates(gates.parts[one], gates.remainder) for at, gates in kept.items()}
        alone = base.search(adapter, data.take([index]), lower, begin=first, moving=free, kept=own)
        assert torch.allclose(found.trace[:, one], alone.trace, atol=1e-5)
        same = [torch.isclose(found.sources[at][one], alone.sources[at], atol=1e-6).flatten() for at in d.places]
        assert float(torch.cat(same).float().mean()) > 0.97  # a query with one key has slopes of 0, rounded to any sign
    gates = {
        at: (off[at] * (lower + (1 - lower) * found.sources[at][..., :-1]), 0.5 * found.sources[at][..., -1:])
        for at, lower in known.items()
    }
    assert torch.allclose(found.loss, divergence(torch_gpt2, d, gates, 5), atol=1e-5)
    for at, free in moving.items():
        assert torch.equal(found.sources[at][~free], begin[at][~free])
        assert not torch.equal(found.sources[at][free], begin[at][free])


@pytest.mark.parametrize(
    ("options", "each"),
    [({}, 22), ({"scope": "shared"}, 22), ({"reoptimise": True, "reoptimise_steps": 2}, 30)],
    ids=["example", "shared", "reoptimised"],
)
def test_binding_costs_what_is_announced(
    options: Any, each: int, torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = PGD(decomposed(torch_gpt2), 3, starts=("random", "ones"), **options)
    model, data = model_of(torch_gpt2, base), torch_gpt2.data(3)
    forward, backward = list[int](), list[int]()
    before_each_pass(torch_gpt2.adapter, monkeypatch, lambda batch: forward.append(len(batch)))
    plain = torch.autograd.grad

    def grad(*given: Any, **how: Any) -> Any:
        backward.append(3)
        return plain(*given, **how)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    model.bind(data)
    rows = sum(forward) + 2 * sum(backward)
    assert rows == 3 * base.binding == 3 * each
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        model.sweep(model.mask(), data)
    assert f"; the gates of the base, found once before, cost {rows} forward rows" in caplog.text


def test_modes_without_a_search_say_nothing_of_their_gates(
    torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base, data = Stochastic(decomposed(torch_gpt2), 2), torch_gpt2.data(3)
    model, forward = model_of(torch_gpt2, base), list[int]()
    before_each_pass(torch_gpt2.adapter, monkeypatch, lambda batch: forward.append(len(batch)))
    model.bind(data)
    assert sum(forward) == 3 * base.binding
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        model.sweep(model.mask(), data)
    assert "found once" not in caplog.text
