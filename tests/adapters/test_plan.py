"""Plans: what is merged, in which order, at what cost."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from ablationlens.adapters.plan import Plan
from ablationlens.edits import Lerp, LowRank
from tests import models
from tests.conftest import HOSTS, Host, host_of


def edits(host: Host, registry: al.Registry, rows: int = 2) -> list:
    plan = Plan(host.adapter, registry)
    model = al.MaskedModel(host.adapter, registry)
    return plan.edits(torch.zeros(rows, len(registry)), model.bind(host.data(rows)).stand_ins)


def test_rows_of_q_k_and_v_are_one_lerp_on_gpt2_in_torch() -> None:
    host = host_of("torch", "gpt2")
    placed = edits(host, host.adapter.registry("row", modules=["q", "k", "v"], layers=[0]))
    assert len(placed) == 1
    assert isinstance(placed[0].edit, Lerp)
    assert placed[0].edit.off.shape[-1] == 3 * models.WIDTH
    assert placed[0].write.module is host.adapter.model.transformer.h[0].attn.c_attn
    every = edits(host, host.adapter.registry("row"))
    assert len(every) == models.LAYERS * 4  # qkv, o, in, out
    on_a_bridge = edits(host_of("transformer_lens", "gpt2"), host.adapter.registry("row"))
    assert len(on_a_bridge) == models.LAYERS * 6


def test_heads_with_columns_of_another_module_are_two_lerps_in_execution_order() -> None:
    host = host_of("torch", "gpt2")
    adapter = host.adapter
    registry = adapter.registry("neuron") + adapter.registry("head") + adapter.registry("row", modules=["q"])
    placed = edits(host, registry)
    orders = [(one.write.order, one.write.hook) for one in placed]
    assert orders == sorted(orders, key=lambda item: (item[0], item[1] == "out"))
    assert [one.write.address for one in placed[:3]] == [
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.mlp.c_proj",
    ]


def test_a_mask_is_sliced_where_a_place_is_covered_and_gathered_where_it_is_not() -> None:
    host = host_of("torch", "gpt2")
    rows = host.adapter.registry("row")
    steps = Plan(host.adapter, rows).steps
    assert all(isinstance(step.columns, slice) for step in steps)  # type: ignore[union-attr]
    some = rows.select(where=lambda c: c.index % 2 == 0)
    assert all(isinstance(step.columns, torch.Tensor) for step in Plan(host.adapter, some).steps)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_parts_of_sites_in_any_order_equal_edited_weights(holder: str, name: str, order: str) -> None:
    """Some rows, heads, neurons and rank-one parts together, in registries that are joined in either order."""
    host = host_of(holder, name)
    adapter = host.adapter
    pieces = [
        adapter.registry("row", modules=["q", "v"]).select(where=lambda c: c.index % 3 != 1),
        adapter.registry("head").select(where=lambda c: c.index in (1, 3)),
        adapter.registry("row_block", size=5, modules=["k"]).select(where=lambda c: c.index > 0),
        adapter.registry("neuron").select(where=lambda c: c.index > 20),
        adapter.registry("rank_one", svd=4, modules=["mlp.in"]).select(where=lambda c: c.index != 2),
    ]
    if order == "backwards":
        pieces.reverse()
    registry = pieces[0]
    for piece in pieces[1:]:
        registry = registry + piece
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(1)) < 0.6).float()
    inputs = host.inputs(3)
    logits = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))
    for row in range(3):
        off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
        oracle = models.edited(host.reference, off)
        assert models.distance(logits[row : row + 1], models.logits_of(oracle, inputs[row : row + 1])) < 1e-5


def test_rows_and_columns_of_one_weight_together_equal_edited_weights(gpt2: Host) -> None:
    registry = gpt2.adapter.registry(["row", "column"], modules=["mlp.in", "attn.o"], allow_overlap=True)
    inputs = gpt2.inputs(3)
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(2)) < 0.6).float()
    logits = al.MaskedModel(gpt2.adapter, registry).logits(mask, al.batch(inputs))
    for row in range(3):
        off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
        expected = models.logits_of(models.edited(gpt2.reference, off), inputs[row : row + 1])
        assert models.distance(logits[row : row + 1], expected) < 1e-5


def test_projected_columns_and_rank_one_parts_of_the_same_fused_matrix(gpt2: Host) -> None:
    adapter = gpt2.adapter
    registry = adapter.registry("column", modules=["q"]) + adapter.registry("rank_one", svd=3, modules=["k"])
    registry = registry + adapter.registry("row", modules=["v"])
    inputs = gpt2.inputs(3)
    mask = (torch.rand(3, len(registry), generator=torch.Generator().manual_seed(3)) < 0.6).float()
    logits = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))
    for row in range(3):
        off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
        expected = models.logits_of(models.edited(gpt2.reference, off), inputs[row : row + 1])
        assert models.distance(logits[row : row + 1], expected) < 1e-5


def test_rank_one_parts_without_the_remainder_need_fewer_factors(torch_gpt2: Host) -> None:
    registry = torch_gpt2.adapter.registry("rank_one", svd=8, modules=["mlp.in"], layers=[0])
    placed = edits(torch_gpt2, registry.select(where=lambda c: c.index in (2, 5)))
    assert isinstance(placed[0].edit, LowRank)
    assert placed[0].edit.U.shape[0] == 2
    assert placed[0].edit.off_remainder is None
