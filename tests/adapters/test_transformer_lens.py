"""TransformerLensAdapter: bridges, edited at their hook points."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import host_of


def test_a_processed_bridge_is_refused_for_every_kind_but_neurons() -> None:
    bridge = models.bridge_of(models.gpt2())
    bridge.enable_compatibility_mode()
    adapter = al.adapt(bridge)
    for kind, options in [("head", {}), ("row", {}), ("column", {}), ("matrix", {}), ("rank_one", {"svd": 2})]:
        with pytest.raises(al.AdapterError, match=f"{kind}.*no_processing=True.*allow_folded=True"):
            adapter.registry(kind, **options)
    assert len(adapter.registry("neuron")) == models.LAYERS * 4 * models.WIDTH
    allowed = al.adapt(bridge, allow_folded=True)
    assert len(allowed.registry("head")) == models.LAYERS * models.HEADS
    assert allowed.describe()["folded"] is True


def test_compatibility_without_processing_is_raw() -> None:
    bridge = models.bridge_of(models.gpt2())
    bridge.enable_compatibility_mode(no_processing=True)
    adapter = al.adapt(bridge)
    registry = adapter.registry("head")
    assert adapter.describe()["folded"] is False
    inputs = models.inputs_of("gpt2")
    masked = al.MaskedModel(adapter, registry)
    off = [registry[2], registry[7]]
    expected = models.logits_of(models.edited(models.gpt2(), off), inputs)
    assert models.close(masked.logits(masked.mask(off=off), al.batch(inputs)), expected)


def test_weights_that_were_centred_before_they_were_loaded_are_recognised() -> None:
    model = models.gpt2()
    with torch.no_grad():
        for layer in range(models.LAYERS):
            for name in ("attn.o", "mlp.out"):
                weight, _ = models.part(model, layer, name)
                weight -= weight.mean(0, keepdim=True)
    with pytest.raises(al.AdapterError, match="processed"):
        al.adapt(models.bridge_of(model)).registry("row")


def test_columns_of_the_fused_matrix_fire_on_a_bridge() -> None:
    """GPT-2's attn.qkv is split there and never called: its input is that of the attention."""
    host = host_of("transformer_lens", "gpt2")
    registry = host.adapter.registry("column", modules=["attn.qkv"])
    inputs = host.inputs()
    masked = al.MaskedModel(host.adapter, registry)
    off = [registry[3], registry[40]]
    got = masked.logits(masked.mask(off=off), al.batch(inputs))
    assert models.close(got, models.logits_of(models.edited(host.reference, off), inputs))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_padding_on_either_side_changes_nothing(name: str, side: str) -> None:
    for holder in ("torch", "transformer_lens"):
        host = host_of(holder, name)
        registry = host.registry("head")
        model = al.MaskedModel(host.adapter, registry, output=al.Margin())
        mask = torch.tensor([[1.0, 0, 1, 1, 0, 1, 0.5, 1]])
        rows = [[3, 7, 9, 1, 4], [8, 2, 6]]
        alone = torch.cat([model(mask, al.batch(torch.tensor([row]))) for row in rows])
        padded, real = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(6 - len(row), 6) if side == "left" else slice(0, len(row))
            padded[i, columns], real[i, columns] = torch.tensor(row), 1
        together = model(mask, al.batch(padded, attention_mask=real))
        assert models.close(together, alone), holder


def test_a_bridge_keeps_its_own_name_in_the_provenance() -> None:
    described = host_of("transformer_lens", "llama").adapter.describe()
    assert described["class"] == "LlamaForCausalLM"
    assert (described["dtype"], described["device"]) == ("float32", "cpu")
