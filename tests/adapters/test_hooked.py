"""HookedAdapter: modules with TransformerLens' hook points of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import ablationlens as al
from ablationlens.adapters.hooked import HookedAdapter
from tests import models, own_sites


class Mixer(HookedRootModule):
    """Tokens to logits, through hook points between plain modules."""

    def __init__(self, setup: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.hook_embed = HookPoint()
        self.up = nn.Linear(12, 24)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.out = nn.Linear(24, 20)
        self.hook_never = HookPoint()
        if setup:
            self.setup()

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.up(self.hook_embed(self.embed(tokens)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.out(hidden)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(24, 24)
        self.hook_heads = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        heads = self.hook_heads(torch.tanh(self.mix(x)).unflatten(-1, (4, 6)))
        return self.hook_post(x + heads.cumsum(1).flatten(-2))


TOKENS = torch.randint(0, 20, (4, 5), generator=torch.Generator().manual_seed(0))


def mixer() -> tuple[Any, al.Adapter]:
    model = models.scramble(Mixer())
    return model, al.adapt(model, example=TOKENS[:1])


def hooked(model: Any, name: str, change: Any) -> Tensor:
    with torch.no_grad():
        return model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda value, hook: change(value))])


def test_adapt_takes_a_hooked_root_module_for_one_of_transformer_lens() -> None:
    _model, adapter = mixer()
    assert isinstance(adapter, HookedAdapter)
    assert adapter.describe()["host"] == "transformer_lens"
    assert adapter.layout.names == ("up", "blocks.0.mix", "blocks.1.mix", "out")


@pytest.mark.parametrize(("name", "axis"), [("hook_embed", -1), ("blocks.0.hook_post", -1), ("blocks.1.hook_heads", 2)])
def test_sites_at_hook_points_equal_the_users_own_hooks(name: str, axis: int) -> None:
    model, adapter = mixer()
    registry = adapter.registry(al.custom_site("mine", {"transformer_lens": name}, axis=axis))
    mask = own_sites.masks(4, len(registry))
    masked = al.MaskedModel(adapter, registry)
    got = masked.logits(mask, al.batch(TOKENS))

    def change(value: Tensor) -> Tensor:
        shape = [4, *[1] * (value.ndim - 1)]
        shape[axis] = len(registry)
        return value * mask.reshape(shape)

    assert models.close(got, hooked(model, name, change))
    assert models.distance(got, models.logits_of(model, TOKENS)) > 1e-2
    assert torch.equal(masked.logits(torch.ones(1, len(registry)), al.batch(TOKENS)), models.logits_of(model, TOKENS))
    by_position = mask[:, None].expand(4, 5, -1)
    assert models.close(masked.logits(by_position, al.batch(TOKENS)), got)


def test_rows_of_its_modules_are_cut_by_path_beside_the_sites() -> None:
    model, adapter = mixer()
    site = al.custom_site("post", {"transformer_lens": "blocks.0.hook_post"}, groups=4)
    registry = adapter.registry(["row", site], modules=["blocks.1.mix"])
    off = [registry.column("L2.blocks.1.mix row 5"), registry.column("L0.post 2")]
    masked = al.MaskedModel(adapter, registry)
    got = masked.logits(masked.mask(off), al.batch(TOKENS))
    with torch.no_grad():
        model.blocks[1].mix.weight[5] = 0

    def change(value: Tensor) -> Tensor:
        value = value.clone()
        value[..., 12:18] = 0
        return value

    assert models.close(got, hooked(model, "blocks.0.hook_post", change))


def test_coar_on_hook_points_of_ones_own() -> None:
    _, adapter = mixer()
    sites = [al.custom_site("post", {"transformer_lens": f"blocks.{i}.hook_post"}, groups=4) for i in range(2)]
    model = al.MaskedModel(adapter, adapter.registry(sites))
    found = al.coar(model, al.batch(TOKENS), alpha=0.2, draws=100, seed=0, solver="least_squares")
    assert found.components[0] == "L0.post 0"
    assert float(found.weights.std()) > 0


def test_module_paths_and_unknown_names() -> None:
    _, adapter = mixer()
    by_path = adapter.place(al.custom_site("up", {"torch": "up"}).taps[1])
    assert by_path.size == 24
    both = al.custom_site("post", {"torch": "blocks.1.mix", "transformer_lens": "blocks.1.hook_post"})
    assert adapter.place(both.taps[1]).address == "blocks.1.hook_post"  # its own host first
    with pytest.raises(al.UnknownNameError, match="no hook point 'blocks.0.hook_pst' in this Mixer.*hook_post"):
        adapter.registry(al.custom_site("x", {"transformer_lens": "blocks.0.hook_pst"}))
    with pytest.raises(al.AdapterError, match=r"hook_never.*never fires.*others do, such as .*hook_"):
        adapter.registry(al.custom_site("x", {"transformer_lens": "hook_never"}))


def test_a_module_that_was_not_set_up_says_so() -> None:
    adapter = al.adapt(models.scramble(Mixer(setup=False)), example=TOKENS[:1])
    with pytest.raises(al.AdapterError, match=r"self\.setup\(\)"):
        adapter.registry(al.custom_site("x", {"transformer_lens": "hook_embed"}))


def test_nothing_is_left_on_the_users_hook_points() -> None:
    model, adapter = mixer()
    kept: list[Tensor] = []
    model.add_hook("hook_embed", lambda value, hook: (kept.append(value), value)[1])
    plain = models.logits_of(model, TOKENS)
    site = al.custom_site("embed", {"transformer_lens": "hook_embed"})
    masked = al.MaskedModel(adapter, adapter.registry(site), al.Resample())
    masked.logits(torch.zeros(1, 12), al.batch(TOKENS))
    assert torch.equal(masked.logits(torch.ones(1, 12), al.batch(TOKENS)), plain)
    points = model.hook_dict.values()
    assert sum(len(point._forward_hooks) for point in points) == 1
    assert torch.equal(models.logits_of(model, TOKENS), plain)


def test_the_views_of_a_bridge_note_nothing_in_the_users_hook_points() -> None:
    """TransformerLens' conversions may keep a note of each tensor that they saw; ours are not kept."""
    model = models.bridge_of(models.gpt2())
    model(models.inputs_of("gpt2"))
    point = model.hook_dict["blocks.0.attn.hook_out"]
    before = dict(point.hook_conversion._conversion_state)
    adapter = al.adapt(model)
    adapter.registry(al.custom_site("attn", {"transformer_lens": "blocks.0.attn.hook_out"}))
    assert point.hook_conversion._conversion_state == before
