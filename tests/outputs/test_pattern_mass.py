"""How much a head attends to something: against edited weights, finite differences, and a circuit that is known."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.transformer_lens import TransformerLensAdapter
from tests import models
from tests.conftest import HOSTS, Host, host_of
from tests.families import FAMILIES, model_of
from tests.outputs.test_targets import naive

ROWS = [[5, 9, 5, 9, 7], [3, 3, 8, 3], [6, 6, 2]]


@pytest.fixture(params=[(host, name) for host in HOSTS for name in ("gpt2", "llama")], ids="-".join)
def held(request: pytest.FixtureRequest) -> Host:
    return host_of(*request.param)


def padded(rows: list[list[int]], left: bool, **options: Any) -> al.Batch:
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for example, row in enumerate(rows):
        real = slice(length - len(row), length) if left else slice(0, len(row))
        ids[example, real], mask[example, real] = torch.tensor(row), 1
    return al.batch(ids, attention_mask=mask, **options)


def by_loops(model: Any, row: list[int], layer: int, head: int, target: Any, queries: list[int]) -> float:
    """Mass on the target in the pattern that transformers returns for one text, by loops over queries and keys."""
    own = models.untied(model)
    own.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = own(torch.tensor([row]), output_attentions=True).attentions[layer][0, head]
    wanted = naive(row, target)
    sums = [sum(float(pattern[q, k]) for k in range(len(row)) if wanted[q, k]) for q in queries if wanted[q].any()]
    return sum(sums) / len(sums)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("target", ["induction", "previous", "first", "current", 1, -2])
def test_it_is_the_mass_in_the_patterns_of_a_model_with_edited_weights(held: Host, left: bool, target: Any) -> None:
    registry, data = held.adapter.registry("head"), padded(ROWS, left)
    model = al.MaskedModel(held.adapter, registry, output=al.PatternMass(1, 2, target))
    assert data.scored is not None and data.attended is not None
    off = ["L0.head 1", "L0.head 3"]
    edited = models.edited(held.reference, [registry[registry.column(name)] for name in off])
    for mask, plain in ((model.mask(), held.reference), (model.mask(off), edited)):
        got = model(mask, data)
        for example, row in enumerate(ROWS):
            scored = data.scored[example][data.attended[example]].nonzero().flatten().tolist()
            assert float(got[example]) == pytest.approx(by_loops(plain, row, 1, 2, target, scored), abs=1e-5)
    assert models.distance(model(model.mask(off), data), model(model.mask(), data)) > 1e-3


def test_only_scored_positions_count() -> None:
    host = host_of("torch", "gpt2")
    row = ROWS[0]
    data = al.batch(torch.tensor([row]), positions=torch.tensor([[0, 0, 1, 0, 0]]).bool())
    got = al.MaskedModel(host.adapter, host.adapter.registry("head"), output=al.PatternMass(0, 0, "previous"))
    expected = by_loops(host.reference, row, 0, 0, "previous", [2])
    assert float(got(got.mask(), data)) == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(by_loops(host.reference, row, 0, 0, "previous", [1, 2, 3]), abs=1e-3)


def test_the_gradient_is_that_of_finite_differences() -> None:
    model = models.gpt2().double()
    adapter = al.adapt(model)
    data = al.batch(torch.tensor([ROWS[0], ROWS[0][::-1]]))
    masked = al.MaskedModel(adapter, adapter.registry("head"), output=al.PatternMass(1, 2, "induction"))
    mask = torch.linspace(0.2, 0.9, 16, dtype=torch.float64).view(2, 8).requires_grad_()
    value = masked(mask, data)
    (gradient,) = torch.autograd.grad(value.sum(), mask)
    step = 1e-5
    for row in range(2):
        for column in range(8):
            moved = torch.zeros_like(mask)
            moved[row, column] = step
            with torch.no_grad():
                slope = float((masked(mask + moved, data) - masked(mask - moved, data)).sum()) / (2 * step)
            assert float(gradient[row, column]) == pytest.approx(slope, abs=1e-7)
    assert float(gradient[:, :4].abs().max()) > 1e-3
    assert not bool(gradient[:, 4:].any())  # heads of the layer itself come after its patterns


@cache
def found_by(host: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leave-one-out, COAR and path gradient of one pattern."""
    held = host_of(host, name)
    model = al.MaskedModel(held.adapter, held.adapter.registry("head"), output=al.PatternMass(1, 2, "previous"))
    data = padded(ROWS, left=True)
    loo = al.leave_one_out(model, data).weights.values
    coar = al.coar(model, data, alpha=0.25, draws=200).weights.values
    return loo, coar, al.path_gradient(model, data, alpha=0.25, draws=16).weights.values


def test_methods_run_on_it(held: Host) -> None:
    loo, coar, path = found_by(held.host, held.name)
    registry = held.adapter.registry("head")
    for example, row in enumerate(ROWS):
        queries = list(range(len(row) - 1))  # the last token predicts nothing
        full = by_loops(held.reference, row, 1, 2, "previous", queries)
        for column in range(4):
            edited = models.edited(held.reference, [registry[column]])
            effect = full - by_loops(edited, row, 1, 2, "previous", queries)
            assert loo[example, column] == pytest.approx(effect, abs=1e-5)
    assert np.abs(loo[:, 4:]).max() < 1e-6 and not path[:, 4:].any()
    assert np.abs(path[:, :4]).max() > 1e-3
    assert np.corrcoef(coar[:, :4].ravel(), path[:, :4].ravel())[0, 1] > 0.6
    for ours, theirs in zip((loo, coar, path), found_by("torch", held.name), strict=True):
        assert np.abs(ours - theirs).max() < 1e-5


@cache
def induction(host: str) -> al.Adapter:
    zoo = al.zoo.load("induction")
    return al.adapt(zoo.bridge() if host == "transformer_lens" else zoo.model)


@pytest.mark.parametrize("host", ["torch", "transformer_lens"])
def test_an_induction_head_attends_as_it_does_because_of_the_head_before_it(host: str) -> None:
    """Every induction head rests on the previous-token head, and on no other head of its layer as much."""
    adapter = induction(host)
    assert isinstance(adapter, TransformerLensAdapter) == (host == "transformer_lens")
    data = al.batch(al.zoo.load("induction").sequences(4, 24, seed=1))
    model = al.MaskedModel(adapter, adapter.registry("head"))
    for head in range(4):
        own = model.having(output=al.PatternMass(1, head))
        found = al.path_gradient(own, data, alpha=0.125, draws=64).weights.values.mean(0)
        assert adapter.registry("head").names[int(found.argmax())] == "L0.head 3"
        left = [float(own(own.mask(f"L0.head {off}"), data).mean() / own(own.mask(), data).mean()) for off in range(4)]
        assert left[3] < 0.1 and min(left[:3]) >= 0.5, left


# -- bad input ---------------------------------------------------------------------------------------------------------


def unchecked(*arguments: Any) -> al.PatternMass:
    """An output of arguments of any type, whose types nobody checks where the library is used."""
    made = object.__new__(al.PatternMass)
    for field, value in zip(
        fields(al.PatternMass), (*arguments, *("induction", None)[len(arguments) - 2 :]), strict=True
    ):
        object.__setattr__(made, field.name, value)
    made.__post_init__()
    return made


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1, 0), "layer is an index, from 0; got -1"),
        ((0, 1.5), "head is an index, from 0; got 1.5"),
        (("0", 0), "layer is an index"),
        ((0, 0, "next"), 'a target is "induction"'),
        ((0, 0, 0.5), "a target is"),
        ((0, 0, "previous", "decoder.cross"), "decoder.cross' are positions of the encoder"),
        ((0, 0, "previous", "encoder.attn"), "encoder.attn' are positions of the encoder"),
    ],
)
def test_what_cannot_be_asked_for(arguments: tuple[Any, ...], match: str) -> None:
    with pytest.raises(al.InputError, match=match):
        unchecked(*arguments)


def asked(adapter: al.Adapter, output: al.PatternMass, data: al.Batch) -> Tensor:
    model = al.MaskedModel(adapter, adapter.registry("head"), output=output)
    return model(model.mask(), data)


def test_what_the_model_or_the_data_does_not_have() -> None:
    adapter, data = host_of("torch", "gpt2").adapter, padded([[1, 2, 1, 2, 1], [1, 2, 3]], left=True)
    for output, error, match in (
        (al.PatternMass(9, 0), al.UnknownNameError, "no layer 9"),
        (al.PatternMass(0, 4, "previous"), al.InputError, "layer 0 has heads 0 to 3; got head 4"),
        (al.PatternMass(0, 0, "previous", "self"), al.UnknownNameError, "no attention 'self'"),
        (al.PatternMass(0, 0), al.InputError, "example 1 has no scored position with a target 'induction'"),
        (al.PatternMass(0, 0, 3), al.InputError, "position 3 of example 1: it has 3 tokens"),
    ):
        with pytest.raises(error, match=match):
            asked(adapter, output, data)
    vit = FAMILIES["vit"]
    with pytest.raises(al.InputError, match="these inputs have none"):
        asked(al.adapt(model_of("vit")), al.PatternMass(0, 0, "previous"), al.batch(vit.batch()))
    with pytest.raises(al.InputError, match="several attentions"):
        asked(al.adapt(model_of("t5")), al.PatternMass(0, 0, "previous"), al.batch(FAMILIES["t5"].batch()))


def test_an_attention_of_a_model_with_two_stacks() -> None:
    family = FAMILIES["t5"]
    model, inputs = family.make(), family.batch()
    adapter = al.adapt(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        pattern = model(**inputs, output_attentions=True).decoder_attentions[1][:, 2]
    data = al.batch(inputs)
    got = asked(adapter, al.PatternMass(1, 2, "previous", "decoder.attn"), data)
    assert data.scored is not None
    queries = [q for q in range(1, pattern.shape[1]) if bool(data.scored[0, q])]
    assert torch.allclose(got, torch.stack([pattern[:, q, q - 1] for q in queries]).mean(0), atol=1e-5)


def test_it_is_described_by_its_settings() -> None:
    described = {"output": "PatternMass", "layer": 1, "head": 2, "target": "first"}
    assert unchecked(np.int64(1), 2, "first").describe() == described
    assert al.PatternMass(1, 2, -1, "decoder.attn").describe()["attention"] == "decoder.attn"
