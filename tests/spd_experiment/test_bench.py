"""What all modes share: passes, masks in the shapes of importances, and what an experiment is said to cost."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import ablationlens as al
from ablationlens.progress import log
from ablationlens.spd import Deterministic, Stochastic
from ablationlens.spd_experiment.asked import Asked
from ablationlens.spd_experiment.bench import Bench
from ablationlens.spd_experiment.effects import Effects
from tests import models
from tests.conftest import Host
from tests.diagnostics.test_patterns import padded
from tests.spd.small import COUNT, PLACES, decomposed

PART, REST = "L0.attn.q rank_one 2", "L1.mlp.out remainder"
ROWS = [[5, 9, 5, 9, 7], [3, 8, 3], [6, 2]]


def bench_of(host: Host, ablate: Any = None, data: Any = None, **options: Any) -> Bench:
    own = decomposed(host)
    name = own.registry(host.adapter).names[0]
    asked = Asked(host.adapter, own, {"part": name} if ablate is None else ablate, None)
    given: Any = {"positions": None, "rows": None, "patterns": None, "layers": None, "gaps": "whole"} | options
    return Bench(host.adapter, own, host.data(5) if data is None else data, asked, **given)


@pytest.mark.parametrize(("rows", "expected"), [(None, 5), (100, 5), (5, 5), (4, 3), (1, 1)])
def test_a_pass_holds_one_draw_of_examples_in_equal_shares(rows: int | None, expected: int, torch_gpt2: Host) -> None:
    assert bench_of(torch_gpt2, rows=rows).rows == expected


def test_the_target_is_the_unmodified_model(gpt2: Host) -> None:
    data = padded(ROWS, left=True)
    found = bench_of(gpt2, data=data).target
    expected = [models.logits_of(gpt2.reference, torch.tensor([row]))[0].log_softmax(-1) for row in ROWS]
    assert models.close(found.log_p, torch.cat(expected), 2e-5)
    assert data.attended is not None
    assert torch.equal(found.places.real, data.attended)


def test_modules_of_gaps_and_importances_are_those_of_the_decomposition(torch_gpt2: Host) -> None:
    assert bench_of(torch_gpt2).modules == []
    bench = bench_of(torch_gpt2, gaps="modules")
    assert bench.modules == list(PLACES)
    expected = decomposed(torch_gpt2).importances(torch_gpt2.adapter, bench.data)
    assert all(torch.equal(bench.importances[where], one) for where, one in expected.items())


def test_what_is_kept_has_the_shape_of_importances(torch_gpt2: Host) -> None:
    ablate = {"both": [PART, REST], "nothing": None}
    data = padded(ROWS, left=True)
    everywhere, somewhere = (bench_of(torch_gpt2, ablate, data, positions=one) for one in (None, (0, -1)))
    for bench in (everywhere, somewhere):
        both, nothing = (bench.kept(arm) for arm in bench.arms)
        for where, lower in bench.importances.items():
            ones = torch.ones_like(lower), torch.ones(*lower.shape[:-1], 1)
            assert all(one.ndim == lower.ndim for one in (*nothing[where], *both[where]))  # an ascent takes rows of it
            assert all(torch.equal(one.expand_as(two), two) for one, two in zip(nothing[where], ones, strict=True))
            for example, first in enumerate((0, 2, 3)):  # of tokens that stand at the right
                at = slice(None) if bench is everywhere else [first, 4]
                ones[0][example, at, 2] = float(where != PLACES[0])
                ones[1][example, at] = float(where != PLACES[3])
            assert all(torch.equal(one.expand_as(two), two) for one, two in zip(both[where], ones, strict=True))


def test_what_is_kept_without_positions(small: Host) -> None:
    bench = bench_of(small)
    kept, (where, *others) = bench.kept(bench.arms[0]), decomposed(small).places
    assert torch.equal(kept[where].parts.expand(5, -1), 1.0 - torch.eye(COUNT)[:1].expand(5, -1))
    assert (kept[where].remainder == 1).all()
    assert all((one == 1).all() for other in others for one in kept[other])


def test_models_are_of_components_or_of_heads_and_masks_are_of_some_arms(torch_gpt2: Host) -> None:
    bench = bench_of(torch_gpt2, {"part": PART, "head": "L0.head 3"}, positions=(2,))
    gates = Deterministic(decomposed(torch_gpt2)).module_gates(torch_gpt2.adapter, bench.data)
    parts, heads = (bench.model(gates, {"base": "x"}, heads=one) for one in (False, True))
    assert parts.registry is bench.split.registry
    assert heads.registry is bench.asked.heads
    assert parts.base is not None
    assert parts.base.describe() == {"base": "x"}
    part, head = bench.arms
    assert bench.masks(parts, [part]).keys() == {"part"}
    assert bench.masks(heads, [head], bench.data.take(torch.tensor([1])))["head"].shape == (1, 7, 8)
    assert torch.equal(heads.logits(heads.mask(), bench.data), parts.logits(parts.mask(), bench.data))


@pytest.mark.parametrize(("patterns", "gaps"), [(None, "whole"), ("first", "modules"), ("mean", "whole")])
def test_the_cost_that_is_said_is_the_number_of_passes(patterns: Any, gaps: str, torch_gpt2: Host) -> None:
    own = decomposed(torch_gpt2)
    bench = bench_of(torch_gpt2, {"part": PART, "rest": REST}, patterns=patterns, gaps=gaps)
    modes: dict[str, Any] = {"one": Deterministic(own), "three": Stochastic(own, 3)}
    said = re.search(
        r"2 ablations in 2 modes, 4 samples in all: about ([\d,]+) forward passes of 5 examp", bench.cost(modes)
    )
    assert said is not None
    rows = 0

    def count(_: Any, given: Any, options: Any) -> None:
        nonlocal rows
        rows += len(given[0] if given else options["input_ids"])

    hook = torch_gpt2.adapter.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        for name, mode in modes.items():
            effects = Effects(bench, name, mode, reoptimise=False)
            for sample in range(mode.samples):
                effects.measure(sample)
            effects.finish()
    finally:
        hook.remove()
    assert rows == 5 * int(said[1].replace(",", ""))
    assert log.name == "ablationlens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": (7,)}, "position 7 of example 0: it has 7 tokens"),
        ({"positions": (-8,)}, "position -8 of example 0"),
        ({"positions": (2, 7), "ablate": {"head": "L0.head 1"}}, "position 7 of example 0: it has 7 tokens"),
        ({"positions": (2, 7), "ablate": {"nothing": None}}, "position 7 of example 0: it has 7 tokens"),
        ({"rows": 0}, "rows is the number of rows of one forward pass, an integer from 1; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_long_begins(options: Any, message: str, torch_gpt2: Host) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model has run")

    hook = torch_gpt2.adapter.model.register_forward_pre_hook(refuse)
    try:
        with pytest.raises(al.InputError, match=message):
            bench_of(torch_gpt2, **options)
    finally:
        hook.remove()


def test_positions_are_of_inputs_that_have_some(small: Host) -> None:
    with pytest.raises(al.InputError, match="positions are those of an example"):
        bench_of(small, positions=(0,))
