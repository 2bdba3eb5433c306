"""Sweep: what a sweep keeps between passes, how it shrinks them, what it says before it starts."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.packing import Packing
from ablationlens.spd import Stochastic
from ablationlens.sweep import GivenMasks, Runs, Sweep
from tests.conftest import Host
from tests.passes import before_each_pass
from tests.spd.small import decomposed


@pytest.fixture
def model(small: Host) -> al.MaskedModel:
    return al.MaskedModel(small.adapter, small.registry("row"), output=al.Logit(1))


def sweep_of(model: al.MaskedModel, data: al.Batch, draws: int = 12, rows: int | None = None) -> Sweep:
    return Sweep(model, data, al.Bernoulli(len(model.registry), 0.3, draws), rows=rows)


def failing(host: Host, monkeypatch: pytest.MonkeyPatch, fails: Callable[[int, int], bool]) -> list[int]:
    """Let a pass run out of memory where `fails(call, rows)`; the rows of every pass, failed or not, are noted."""
    seen: list[int] = []

    def note(batch: al.Batch) -> None:
        seen.append(len(batch))
        if fails(len(seen), len(batch)):
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    before_each_pass(host.adapter, monkeypatch, note)
    return seen


def test_a_masked_model_is_what_a_sweep_needs(model: al.MaskedModel) -> None:
    assert isinstance(model, Runs)


def test_given_masks_are_a_source() -> None:
    values = torch.rand(5, 3)
    source = GivenMasks(values)
    assert (source.draws, source.components) == (5, 3)
    assert torch.equal(source.masks(1, 4), values[1:4])


def test_the_packing_is_given_chosen_or_recorded(model: al.MaskedModel, small: Host) -> None:
    data = small.data(3)
    assert sweep_of(model, data).packing.examples == 3
    assert sweep_of(model, data, rows=7).packing == Packing(2, 3)
    recorded = Sweep(model, data, al.Bernoulli(len(model.registry), 0.3, 12), rows=7, packing=Packing(1, 2))
    assert recorded.packing == Packing(1, 2)


def test_blocks_are_consecutive_draws_of_one_pass(model: al.MaskedModel, small: Host) -> None:
    assert list(sweep_of(model, small.data(3), rows=15).blocks(2, 14)) == [(2, 7), (7, 12), (12, 14)]


# --- halving ----------------------------------------------------------------------------------------------------------


def test_a_pass_is_halved_until_it_fits_and_stays_so(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = small.data(3)
    expected = sweep_of(model, data, rows=3).outputs(0, 12)
    seen = failing(small, monkeypatch, lambda _call, rows: rows > 9)
    sweep = sweep_of(model, data, rows=36)
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        got = sweep.outputs(0, 12)
    assert float((got - expected).abs().max()) < 1e-5
    assert sweep.packing == Packing(3, 3)
    assert seen == [36, 18, 9, 9, 9, 9]
    assert [record.getMessage() for record in caplog.records] == [
        f"a forward pass did not fit into memory: going on with {rows} rows a pass" for rows in (18, 9)
    ]


def test_one_draw_is_halved_into_shares_of_its_examples(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small.data(5)
    expected = sweep_of(model, data, 2, rows=5).outputs(0, 2)
    seen = failing(small, monkeypatch, lambda _call, rows: rows > 3)
    sweep = sweep_of(model, data, 2, rows=5)
    assert float((sweep.outputs(0, 2) - expected).abs().max()) < 1e-5
    assert sweep.packing == Packing(1, 3)
    assert seen == [5, 3, 2, 3, 2]


def test_a_span_that_fails_half_way_is_run_again_whole(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outputs are then those of one packing."""
    data = small.data(3)
    expected = sweep_of(model, data, rows=6).outputs(0, 12)
    seen = failing(small, monkeypatch, lambda call, _rows: call == 3)
    got = sweep_of(model, data, rows=12).outputs(0, 12)
    assert torch.equal(got, expected)
    assert seen == [12, 12, 12, *[6] * 6]


def test_gradients_are_halved_too(model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small.data(3)
    expected = sweep_of(model, data, rows=3).gradients(0, 12)
    seen = failing(small, monkeypatch, lambda call, _rows: call == 1)
    got = sweep_of(model, data, rows=36).gradients(0, 12)
    assert seen == [36, 18, 18]
    for ours, theirs in zip(got, expected, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-5


def test_what_is_no_lack_of_memory_is_raised(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: al.Batch) -> None:
        raise RuntimeError("something else")

    before_each_pass(small.adapter, monkeypatch, broken)
    sweep = sweep_of(model, small.data(3))
    packing = sweep.packing
    for call in (sweep.outputs, sweep.gradients):
        with pytest.raises(RuntimeError, match="something else"):
            call(0, 2)
    assert sweep.packing == packing


# --- what is kept between passes --------------------------------------------------------------------------------------


def test_inputs_are_packed_once_for_each_shape_of_pass(model: al.MaskedModel, small: Host) -> None:
    data = small.data(3)
    sweep = sweep_of(model, data, 11, rows=9)
    sweep.outputs(0, 11)
    kept = dict(sweep.bound.packed)
    assert set(kept) == {(3, range(3), 0), (2, range(3), 0)}  # the last pass is shorter
    sweep.outputs(0, 11)
    assert all(sweep.bound.packed[key] is packed for key, packed in kept.items())
    batch, _, reference = kept[3, range(3), 0]
    assert torch.equal(batch.inputs["input"], data.inputs["input"].repeat(3, 1))
    assert reference is None
    again = sweep_of(model, data, 11, rows=9)  # another sweep over the same data finds them
    assert again.bound.packed[3, range(3), 0] is kept[3, range(3), 0]


def test_few_shapes_are_kept(model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("ablationlens.sweep"), "PACKED_SHAPES", 3)
    data = small.data(8)
    sweep = sweep_of(model, data, 2, rows=1)
    expected = sweep_of(al.MaskedModel(small.adapter, model.registry, output=al.Logit(1)), data, 2).outputs(0, 2)
    assert float((sweep.outputs(0, 2) - expected).abs().max()) < 1e-5
    assert len(sweep.bound.packed) <= 3


@pytest.mark.parametrize("passes", [1, 2])
def test_what_is_kept_is_not_larger_than_that(
    passes: int, model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates of a base are as wide as the registry, and a pass holds those of each of its rows."""
    own, data = decomposed(small), small.data(8)
    based = al.MaskedModel(small.adapter, own.registry(small.adapter), output=al.Logit(1), base=Stochastic(own, 2))
    expected = sweep_of(based, data, 4, rows=2).outputs(0, 4)
    gates, inputs = 2 * len(based.registry) * 4, data.inputs["input"][:2].nbytes
    of_a_pass = gates + inputs
    monkeypatch.setattr(importlib.import_module("ablationlens.sweep"), "PACKED_BYTES", (passes + 0.5) * of_a_pass)
    sweep = sweep_of(based.having(), data, 4, rows=2)
    most: list[int] = []
    before_each_pass(small.adapter, monkeypatch, lambda _: most.append(len(sweep.bound.packed)))
    assert torch.equal(sweep.outputs(0, 4), expected)
    assert max(most) == passes
    assert len(most) == 4 * 4 * 2


def test_the_reference_of_every_row_is_packed_along(small: Host) -> None:
    registry, data = small.registry("row"), small.data(4)
    model = al.MaskedModel(small.adapter, registry, output=al.KL())
    sweep = Sweep(model, data, al.Bernoulli(len(registry), 0.3, 6), rows=3)
    sweep.outputs(0, 6)
    clean = small.adapter.run(data)
    assert len(sweep.bound.packed) == 2
    for (draws, rows, _), (_, _, reference) in sweep.bound.packed.items():
        assert reference is not None
        assert torch.equal(reference, clean[list(rows)].repeat(draws, 1))


# --- what is said before ----------------------------------------------------------------------------------------------


def test_a_short_sweep_is_announced_without_timing_it(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = failing(small, monkeypatch, lambda *_: False)
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        sweep_of(model, small.data(3), 19, rows=3).announce("a sweep")
    assert caplog.messages == ["a sweep: 19 masks x 3 examples = 57 forward rows, in 19 passes of 3"]
    assert not seen


def test_a_long_sweep_is_estimated_without_its_first_pass(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = failing(small, monkeypatch, lambda *_: False)
    clock = itertools.chain([0.0, 90.0], itertools.count(100.0, 0.5))  # the first takes 90 s, the others half a second
    only_here = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(importlib.import_module("ablationlens.sweep"), "time", only_here)
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        sweep_of(model, small.data(3), 1000, rows=6).announce("a sweep", factor=3.0, share=0.5)
    expected = "a sweep: 500 masks x 3 examples = 1,500 forward rows, in 250 passes of 6, about 6 min 15 s"
    assert caplog.messages == [expected]
    assert seen == [6] * len(seen)


def test_an_estimate_that_nobody_reads_costs_nothing(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = failing(small, monkeypatch, lambda *_: False)
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        sweep_of(model, small.data(3), 1000, rows=6).announce("a sweep")
    assert not seen


def test_an_estimate_may_be_what_finds_that_a_pass_does_not_fit(
    model: al.MaskedModel, small: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(small, monkeypatch, lambda _call, rows: rows > 6)
    sweep = sweep_of(model, small.data(3), 1000, rows=12)
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        sweep.announce("a sweep")
    assert sweep.packing == Packing(2, 3)
    assert "in 500 passes of 6" in caplog.messages[-1]  # what is said is what will be done


def test_outputs_are_float32_on_the_cpu_whatever_the_masks_are(model: al.MaskedModel, small: Host) -> None:
    design = al.Bernoulli(len(model.registry), 0.3, 4)
    masks = torch.from_numpy(design.masks(0, 4))
    for given in (masks.float(), masks.double(), masks.to(torch.bfloat16)):
        got = Sweep(model, small.data(3), GivenMasks(given)).outputs(0, 4)
        assert (got.dtype, got.device.type) == (torch.float32, "cpu")
        assert np.array_equal(got.numpy(), sweep_of(model, small.data(3), 4).outputs(0, 4).numpy())
