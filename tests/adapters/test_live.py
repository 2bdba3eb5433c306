"""The pass that is running: what its edits read is there when they need it, and gone when they do not."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.live import Live
from tests import models
from tests.conftest import Host, host_of


def rank_one(host: Host, *modules: str) -> al.Registry:
    return host.adapter.registry("rank_one", svd=3, modules=list(modules), layers=[0])


@pytest.mark.parametrize("ablated", [False, True])
def test_what_a_module_reads_is_let_go_before_the_next_block(ablated: bool) -> None:
    """As in a plain pass: activations that live on keep the memory from the modules that come next."""
    adapter = al.adapt(models.gpt2(), example=models.inputs_of("gpt2", 2))
    blocks = adapter.model.transformer.h
    registry = adapter.registry("rank_one", svd=3, modules=["attn.o", "mlp.in"], layers=[0])
    model = al.MaskedModel(adapter, registry)
    data = al.batch(models.inputs_of("gpt2", 2))
    bound = model.bind(data)
    placed = model.plan.edits(torch.zeros(2, len(registry)), bound.stand_ins) if ablated else []
    read: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    handles = [
        *(
            module.register_forward_pre_hook(lambda _, args: read.append(weakref.ref(args[0])))
            for module in (blocks[0].attn.c_proj, blocks[0].mlp.c_fc)
        ),
        blocks[1].register_forward_pre_hook(lambda *_: alive.extend(one() is not None for one in read)),
    ]
    try:
        with torch.no_grad():
            adapter.run(data, placed)
    finally:
        for handle in handles:
            handle.remove()
    assert alive == [False, False]


def test_only_a_pass_whose_edits_read_an_activation_keeps_it() -> None:
    """Neither a pass without edits, in a session of passes with some, nor one of the user's between them."""
    adapter = al.adapt(models.mlp(), example=models.inputs_of("mlp", 1))
    registry = adapter.registry("rank_one", svd=3, modules=["middle"])
    model, data = al.MaskedModel(adapter, registry), al.batch(models.inputs_of("mlp", 2))
    placed = model.plan.edits(torch.zeros(2, len(registry)), model.bind(data).stand_ins)
    read: list[weakref.ref[Tensor]] = []
    handle = adapter.model.middle.register_forward_pre_hook(lambda _, args: read.append(weakref.ref(args[0])))
    try:
        with torch.no_grad(), adapter.session() as run:
            run(data, placed)
            run(data)
            adapter.model(models.inputs_of("mlp", 2))
            assert [one() for one in read] == [None] * 3
    finally:
        handle.remove()


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_noted_as_a_copy_is_not_overwritten(torch_gpt2: Host, copy: bool) -> None:
    registry = rank_one(torch_gpt2, "q")
    model, data = al.MaskedModel(torch_gpt2.adapter, registry), torch_gpt2.data(2)
    (placed,) = model.plan.edits(torch.zeros(2, len(registry)), model.bind(data).stand_ins)
    assert placed.read is not None
    live, activation = Live(), torch.ones(2)
    live.begin([placed])
    note = live.note(placed.read.key, copy=copy)
    note(activation)
    assert not live.seen  # nothing is running
    live.running = True
    note(activation)
    activation.mul_(0)
    assert torch.equal(live.seen[placed.read.key], torch.ones(2)) == copy


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("holder", ["torch", "transformer_lens"])
def test_edits_that_read_one_activation_are_given_in_any_order(holder: str, backwards: bool) -> None:
    host = host_of(holder, "gpt2")
    registry = rank_one(host, "q", "k", "v")
    model, data = al.MaskedModel(host.adapter, registry), host.data(3)
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    placed = model.plan.edits(mask, model.bind(data).stand_ins)
    with torch.no_grad(), host.adapter.session() as run:
        for _ in range(2):  # what one pass let go, the next sees anew
            logits = run(data, placed[::-1] if backwards else placed)
    assert models.close(logits, model.logits(mask, data))
    for row in range(3):
        off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
        expected = models.logits_of(models.edited(host.reference, off), host.inputs(3)[row : row + 1])
        assert models.distance(logits[row : row + 1], expected) < 1e-5


def test_a_module_that_is_called_twice_reads_twice() -> None:
    own, inputs = models.twice(), torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    adapter = al.adapt(own, example=inputs, allow_repeated=True)
    registry = adapter.registry("rank_one", svd=3)
    off = [component for component in registry if component.index in (0, 2)]
    model = al.MaskedModel(adapter, registry)
    logits = model.logits(model.mask(off=off), al.batch(inputs))
    expected = models.logits_of(models.edited(own, off), inputs)
    assert models.close(logits, expected)


@pytest.mark.parametrize("later", [0, 1])
def test_the_last_in_the_forward_pass_lets_go_and_not_the_last_in_the_list(torch_gpt2: Host, later: int) -> None:
    registry = rank_one(torch_gpt2, "q", "v")
    model, data = al.MaskedModel(torch_gpt2.adapter, registry), torch_gpt2.data(2)
    placed = model.plan.edits(torch.zeros(2, len(registry)), model.bind(data).stand_ins)
    placed[later] = placed[later]._replace(write=replace(placed[later].write, order=99))
    reads = {one.read.key for one in placed if one.read is not None}
    assert len(reads) == 1
    live = Live()
    live.begin(placed)
    live.seen[reads.pop()] = value = torch.zeros(1)
    assert live.read(placed[1 - later], torch.ones(1)) is value
    assert live.read(placed[later], torch.ones(1)) is value
    assert not live.seen
