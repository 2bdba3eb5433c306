"""Sites of the user's own in a host: what addresses mean, which axes are what, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ablationlens as al
from ablationlens.adapters.plan import Plan
from ablationlens.sites import Tap
from tests import models, own_sites
from tests.conftest import host_of

HEAD = models.WIDTH // models.HEADS


def bridge(name: str) -> tuple[Any, al.Adapter]:
    model = models.bridge_of(models.MODELS[name]())
    return model, al.adapt(model)


def at(hook: str, axis: int = -1, **options: Any) -> Any:
    return al.custom_site(hook.rpartition(".")[2], {"transformer_lens": hook}, axis=axis, **options)


def hooked(model: Any, inputs: Tensor, name: str, change: Any) -> Tensor:
    """What TransformerLens itself makes of a hook function at a name."""
    with torch.no_grad():
        return model.run_with_hooks(inputs, fwd_hooks=[(name, lambda value, hook: change(value))], return_type="logits")


# --- axes ------------------------------------------------------------------------------------------------------------

FOUR_AXES = [
    ("gpt2", "blocks.0.attn.hook_z", 2),
    ("gpt2", "blocks.1.attn.hook_q", 2),
    ("gpt2", "blocks.0.attn.hook_q", -1),
    ("gpt2", "blocks.0.attn.hook_pattern", 1),
    ("gpt2", "blocks.0.attn.hook_attn_scores", -3),
    ("llama", "blocks.1.attn.hook_z", -2),
    ("llama", "blocks.0.attn.hook_k", 2),
    ("llama", "blocks.0.attn.hook_v", 3),
    ("llama", "blocks.0.attn.hook_rot_q", 2),
    ("llama", "blocks.0.attn.hook_rot_k", -1),
]


@pytest.mark.parametrize(("name", "hook", "axis"), FOUR_AXES)
def test_an_axis_is_that_of_the_activation_as_transformer_lens_shows_it(name: str, hook: str, axis: int) -> None:
    model, adapter = bridge(name)
    inputs = models.inputs_of(name)
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs)
    registry = adapter.registry(at(hook, axis))
    assert len(registry) == cache[hook].shape[axis]
    masked = al.MaskedModel(adapter, registry)
    mask = own_sites.masks(4, len(registry))
    got = masked.logits(mask, al.batch(inputs))
    shape = [4, 1, 1, 1]
    shape[axis] = len(registry)
    expected = hooked(model, inputs, hook, lambda value: value * mask.reshape(shape))
    assert models.close(got, expected)
    assert models.distance(got, models.logits_of(model, inputs)) > 1e-2
    assert torch.equal(masked.logits(torch.ones(4, len(registry)), al.batch(inputs)), models.logits_of(model, inputs))


@pytest.mark.parametrize(("name", "hook", "axis"), FOUR_AXES)
def test_a_mask_by_position_finds_the_positions_among_four_axes(name: str, hook: str, axis: int) -> None:
    """With 4 positions and 4 heads, and as many queries as keys, no size says which axis is which."""
    model, adapter = bridge(name)
    inputs = models.inputs_of(name)[:, :4]
    registry = adapter.registry(at(hook, axis))
    mask = (torch.rand(4, 4, len(registry), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    got = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))
    position = 2 if "pattern" in hook or "scores" in hook else 1  # the query's

    def change(value: Tensor) -> Tensor:
        kept = value.clone()
        for row in range(4):
            for here in range(4):
                for feature in range(len(registry)):
                    index: list[Any] = [slice(None)] * 4
                    index[0], index[position], index[axis % 4] = row, here, feature
                    kept[tuple(index)] *= mask[row, here, feature]
        return kept

    assert models.close(got, hooked(model, inputs, hook, change))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("per_position", [False, True])
def test_a_mean_leaves_padding_out_and_never_takes_heads_for_positions(side: str, per_position: bool) -> None:
    """As many positions as heads: the mean of z is over examples and positions, by head and feature of the head."""
    _model, adapter = bridge("gpt2")
    tokens = models.inputs_of("gpt2", 6)[:, : models.HEADS]
    lengths = torch.tensor([2, 4, 3, 4, 1, 3])
    columns = torch.arange(models.HEADS)[None]
    real = columns >= models.HEADS - lengths[:, None] if side == "left" else columns < lengths[:, None]
    data = al.batch(tokens, attention_mask=real.long())
    registry = adapter.registry(at("blocks.0.attn.hook_z", 2))
    found = al.Mean(data, per_position=per_position).bind(Plan(adapter, registry), data)
    (value,) = found.values.values()
    seen: list[Tensor] = []
    reference = models.untied(host_of("torch", "gpt2").reference)
    reference.transformer.h[0].attn.c_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    positions = (real.long().cumsum(1) - 1).clamp(min=0)
    models.logits_of(reference, {"input_ids": tokens, "attention_mask": real.long(), "position_ids": positions})
    z = seen[0].view(6, models.HEADS, models.HEADS, HEAD)
    pooled = z[real].mean(0)
    if per_position:
        by_position = [z[:, here][real[:, here]] for here in range(models.HEADS)]
        expected = torch.stack([values.mean(0) if len(values) else pooled for values in by_position])
    else:
        expected = pooled[None]
    assert models.close(value.expand(expected.shape), expected)


@pytest.mark.parametrize("per_position", [False, True])
def test_a_mean_of_patterns_leaves_out_padded_queries_and_keys(per_position: bool) -> None:
    """As many heads as positions: padding is that of queries and keys, never of heads."""
    model, adapter = bridge("gpt2")
    tokens = models.inputs_of("gpt2", 5)[:, : models.HEADS]
    real = torch.arange(models.HEADS)[None] < torch.tensor([2, 4, 3, 4, 1])[:, None]
    data = al.batch(tokens, attention_mask=real.long())
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, attention_mask=real.long())
    pattern = cache["blocks.0.attn.hook_pattern"]
    plan = Plan(adapter, adapter.registry(at("blocks.0.attn.hook_pattern", 1)))
    (value,) = al.Mean(data, per_position=per_position).bind(plan, data).values.values()
    pairs = [(b, q, k) for b in range(5) for q in range(4) for k in range(4) if real[b, q] and real[b, k]]
    for head in range(models.HEADS):
        pooled = sum(float(pattern[b, head, q, k]) for b, q, k in pairs) / len(pairs)
        if not per_position:
            assert abs(float(value[head]) - pooled) < 1e-6
            continue
        for q in range(4):
            for k in range(4):
                here = [float(pattern[b, head, q, k]) for b, i, j in pairs if (i, j) == (q, k)]
                expected = sum(here) / len(here) if here else pooled
                assert abs(float(value[head, q, k]) - expected) < 1e-6


def test_a_mean_of_patterns_pools_queries_and_keys() -> None:
    model, adapter = bridge("gpt2")
    inputs = models.inputs_of("gpt2")
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs)
    pattern = cache["blocks.0.attn.hook_pattern"]
    plan = Plan(adapter, adapter.registry(at("blocks.0.attn.hook_pattern", 1)))
    (pooled,) = al.Mean(al.batch(inputs)).bind(plan, al.batch(inputs)).values.values()
    assert models.close(pooled.expand(4, 1, 1), pattern.mean((0, 2, 3))[:, None, None])
    (each,) = al.Mean(al.batch(inputs), per_position=True).bind(plan, al.batch(inputs)).values.values()
    assert models.close(each, pattern.mean(0))


def test_heads_by_hook_z_are_the_heads_of_the_library() -> None:
    for name in own_sites.NAMES:
        _, adapter = bridge(name)
        data, mask = al.batch(models.inputs_of(name)), own_sites.masks(4, models.HEADS)
        own = al.MaskedModel(adapter, adapter.registry(at("blocks.1.attn.hook_z", 2)))
        ours = al.MaskedModel(adapter, adapter.registry("head", layers=1))
        assert models.close(own.logits(mask, data), ours.logits(mask, data))


@pytest.mark.parametrize("axis", [1, -3])
def test_channels_of_images(axis: int) -> None:
    host = host_of("torch", "convnet")
    site = al.custom_site("maps", {"torch": "first"}, axis=axis, groups=[[0, 3], [1, 2, 5]])
    registry = host.adapter.registry(site)
    images, mask = host.inputs(4), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    data = al.batch(images)
    for ablation in (al.Zero(), al.Mean(data), al.Resample(), al.GaussianNoise(0.5)):
        got = al.MaskedModel(host.adapter, registry, ablation).logits(mask, data)
        assert torch.equal(got[3], models.logits_of(host.reference, images)[3])
    own = models.untied(host.reference)
    gates = torch.stack([mask[:, 0], mask[:, 1], mask[:, 1], mask[:, 0], torch.ones(4), mask[:, 1]], 1)
    mean = own.first(images).mean((0, 2, 3)).detach()[:, None, None]
    own.first.register_forward_hook(lambda m, a, out: torch.where(gates[..., None, None] == 1, out, mean))
    got = al.MaskedModel(host.adapter, registry, al.Mean(data)).logits(mask, data)
    assert models.close(got, models.logits_of(own, images))


# --- addresses -------------------------------------------------------------------------------------------------------


def test_inputs_outputs_and_tuples_in_pytorch() -> None:
    host = host_of("torch", "gpt2")
    inputs = host.inputs()

    def logits(address: str, features: list[int]) -> Tensor:
        registry = host.adapter.registry(al.custom_site("here", {"torch": address}, select=features))
        return al.MaskedModel(host.adapter, registry).logits(torch.zeros(1, len(features)), al.batch(inputs))

    def zeroed(value: Tensor, features: list[int]) -> Tensor:
        value = value.clone()
        value[..., features] = 0
        return value

    own = models.untied(host.reference)
    own.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda m, a: (zeroed(a[0], [5, 100]),))
    assert models.close(logits("transformer.h.1.mlp.c_proj.input", [5, 100]), models.logits_of(own, inputs))
    own = models.untied(host.reference)  # the attention gives a tuple, whose first tensor is meant
    own.transformer.h[1].attn.register_forward_hook(lambda m, a, out: (zeroed(out[0], [5, 9]), *out[1:]))
    expected = models.logits_of(own, inputs)
    for address in ("transformer.h.1.attn", "transformer.h.1.attn.output", "transformer.h.1.attn.output[0]"):
        assert models.close(logits(address, [5, 9]), expected)


def test_an_address_for_nnsight_is_one_for_pytorch() -> None:
    adapter = host_of("torch", "gpt2").adapter
    site = al.custom_site("resid", {"nnsight": "transformer.h.0"})
    assert adapter.place(site.taps[1]).address == "transformer.h.0"
    both = al.custom_site("resid", {"nnsight": "transformer.h.0", "torch": "transformer.h.1"})
    assert adapter.place(both.taps[1]).address == "transformer.h.1"


def test_legacy_and_canonical_names_of_hook_points_are_one_activation() -> None:
    _, adapter = bridge("gpt2")
    legacy, canonical = (adapter.place(at(f"blocks.0.{end}").taps[1]) for end in ("hook_resid_post", "hook_out"))
    assert legacy.key == canonical.key


class Odd(nn.Module):
    """Things that a site cannot be: integers, one row for all examples, a module called twice or now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.places = nn.Embedding(20, 6)
        self.twice = nn.Tanh()
        self.moody = nn.Identity()
        self.out = nn.Linear(6, 20)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden = self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1])[None])
        hidden = self.twice(self.twice(hidden))
        if int(input_ids[0, 0]) == 0:
            hidden = self.moody(hidden)
        return self.out(hidden)


def odd(**options: Any) -> al.Adapter:
    return al.adapt(models.scramble(Odd()), example=torch.zeros(1, 5, dtype=torch.long), **options)


@pytest.mark.parametrize(
    ("address", "axis", "match"),
    [
        ("embed.input", -1, "embed.input .*no tensor of floats"),
        ("places", -1, "1 rows for 2 examples: a site needs one row for each example"),
        ("twice", -1, "called 2 times.*allow_repeated"),
        ("out", 1, r"axis 1 of out.*\[1, 5, 20\].*as many entries as the input has positions.*positions="),
        ("out", -2, "as many entries as the input has positions"),
        ("out", 3, r"axis 3 of out.*\[1, 5, 20\].*axes 1 to 2; axis 0 is the batch"),
        ("out", -3, "axis 0 is the batch"),
        ("embd", -1, "no module 'embd'.*did you mean embed"),
        ("zzz", -1, "named_modules"),
    ],
)
def test_what_cannot_be_a_site(address: str, axis: int, match: str) -> None:
    with pytest.raises(al.AblationLensError, match=match):
        odd().registry(al.custom_site("here", {"torch": address}, axis=axis))


def test_all_calls_of_a_module_where_they_are_meant() -> None:
    adapter = odd(allow_repeated=True)
    registry = adapter.registry(al.custom_site("here", {"torch": "twice"}, select=[1, 4]))
    tokens = torch.randint(1, 20, (3, 5))
    got = al.MaskedModel(adapter, registry).logits(torch.tensor([[0.0, 1.0]] * 3), al.batch(tokens))
    own = copy.deepcopy(adapter.model)
    own.twice.register_forward_hook(lambda m, a, out: out * torch.tensor([1.0, 0, 1, 1, 1, 1]))
    assert models.close(got, models.logits_of(own, tokens))


def test_a_site_that_fires_in_the_dry_forward_alone_is_an_error_in_the_run() -> None:
    adapter = odd()
    registry = adapter.registry(al.custom_site("here", {"torch": "moody"}))
    model = al.MaskedModel(adapter, registry, output=lambda logits: logits[:, -1, 0])
    with pytest.raises(al.AdapterError, match="did not fire.*moody"):
        model(torch.zeros(1, 6), al.batch(torch.ones(2, 5, dtype=torch.long)))


@pytest.mark.parametrize("site", ["features", "codes"])
def test_an_activation_whose_batch_and_positions_share_an_axis(site: str) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner, self.out = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 20)

        def forward(self, input_ids: Tensor) -> Tensor:
            hidden = self.embed(input_ids)
            return self.out(hidden + self.inner(hidden.flatten(0, 1)).tanh().view_as(hidden))

    model, tokens = models.scramble(Flat()), torch.randint(0, 20, (3, 5))
    adapter = al.adapt(model, example=torch.zeros(1, 4, dtype=torch.long))
    of = own_sites.tensors(width=6, latents=9)
    basis = None if site == "features" else al.Dictionary(of["W_enc"], of["W_dec"])
    registry = adapter.registry(al.custom_site("inner", {"torch": "inner"}, basis=basis))
    mask = (torch.rand(3, 5, len(registry), generator=torch.Generator().manual_seed(0)) < 0.5).float()
    masked = al.MaskedModel(adapter, registry)
    hidden = model.inner(model.embed(tokens))
    codes = hidden if basis is None else torch.relu(hidden @ of["W_enc"])
    for gates in (mask, mask[:, :1].expand(3, 5, -1)):
        lost = (1 - gates) * codes
        edited = hidden - (lost if basis is None else lost @ of["W_dec"])
        expected = model.out(model.embed(tokens) + edited.tanh()).detach()
        by_row = gates[:, 0] if gates.stride(1) == 0 else gates
        assert models.close(masked.logits(by_row, al.batch(tokens)), expected)


def test_a_model_of_one_size_is_told_by_shapes_alone() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 9)

        def forward(self, input_ids: Tensor) -> Tensor:
            assert input_ids.shape[1] == 5, "five tokens, or none"
            return self.out(self.embed(input_ids))

    tokens = torch.randint(0, 9, (3, 5))
    adapter = al.adapt(models.scramble(Fixed()), example=tokens)
    registry = adapter.registry(al.custom_site("hidden", {"torch": "embed"}))
    assert Plan(adapter, registry).positional
    al.MaskedModel(adapter, registry).logits(torch.zeros(3, 5, 6), al.batch(tokens))


def test_hook_points_that_never_fire_are_named_with_some_that_do() -> None:
    _, adapter = bridge("gpt2")
    with pytest.raises(al.AdapterError, match=r"attn\.qkv\.hook_in.*never fires.*others do, such as blocks\.0\.attn"):
        adapter.registry(at("blocks.0.attn.qkv.hook_in"))
    with pytest.raises(al.UnknownNameError, match=r"no hook point 'blocks.0.hook_resid_pst'.*hook_resid_post"):
        adapter.registry(at("blocks.0.hook_resid_pst"))
    with pytest.raises(al.AdapterError, match="has an address for torch and none for transformer_lens"):
        adapter.registry(al.custom_site("resid", {"torch": "transformer.h.0"}))
    with pytest.raises(al.AdapterError, match="has an address for transformer_lens and none for torch"):
        host_of("torch", "gpt2").adapter.registry(at("blocks.0.hook_resid_post"))


GATED = [
    ("blocks.0.attn.hook_result", 2, "set_use_attn_result"),
    ("blocks.0.hook_mlp_in", -1, "set_use_hook_mlp_in"),
    ("blocks.0.hook_attn_in", 2, "set_use_attn_in"),
    ("blocks.0.hook_q_input", 2, "set_use_split_qkv_input"),
    ("blocks.0.hook_k_input", -1, "set_use_split_qkv_input"),
    ("blocks.0.hook_v_input", 2, "set_use_split_qkv_input"),
]


@pytest.mark.parametrize(("hook", "axis", "flag"), GATED)
@pytest.mark.parametrize("name", own_sites.NAMES)
def test_a_gated_hook_names_its_flag_and_works_once_it_is_set(name: str, hook: str, axis: int, flag: str) -> None:
    model, adapter = bridge(name)
    with pytest.raises(al.AdapterError, match=rf"{hook.rpartition('.')[2]}.*{flag}\(True\)"):
        adapter.registry(at(hook, axis))
    getattr(model, flag)(True)
    registry = adapter.registry(at(hook, axis))
    inputs = models.inputs_of(name)
    mask = own_sites.masks(4, len(registry))
    got = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))

    def change(value: Tensor) -> Tensor:
        shape = [4, *[1] * (value.ndim - 1)]
        shape[axis] = len(registry)
        return value * mask.reshape(shape)

    assert models.close(got, hooked(model, inputs, hook, change))
    assert models.distance(got, models.logits_of(model, inputs)) > 1e-3


# --- several sites at one activation ----------------------------------------------------------------------------------


def clash(adapter: al.Adapter, asked: list[Any], match: str, **options: Any) -> None:
    with pytest.raises(al.OverlapError, match=match):
        al.MaskedModel(adapter, adapter.registry(asked, **options))


def test_two_sites_that_claim_a_feature_are_refused_naming_both() -> None:
    adapter = host_of("torch", "gpt2").adapter
    path = {"torch": "transformer.h.0"}
    one = al.custom_site("one", path, select=slice(0, 8))
    clash(adapter, [one, al.custom_site("other", path, select=slice(7, 9))], r"L0\.one 7 and L0\.other 7 both claim")
    clash(adapter, [one, al.custom_site("sae", path, basis=own_sites.autoencoder())], r"L0\.one 0 and L0\.sae 0")
    al.MaskedModel(adapter, adapter.registry([one, al.custom_site("other", path, select=slice(8, 9))]))


@pytest.mark.parametrize(
    ("kind", "address", "options"),
    [
        ("row", "transformer.h.0.mlp.c_proj", {}),
        ("matrix", "transformer.h.0.mlp.c_proj", {}),
        ("neuron", "transformer.h.0.mlp.c_proj.input", {}),
        ("column", "transformer.h.0.mlp.c_fc.input", {}),
        ("head", "transformer.h.0.attn.c_proj.input", {}),
        ("row", "transformer.h.0.attn.c_attn", {}),
        ("rank_one", "transformer.h.0.mlp.c_fc", {"svd": 2}),
        ("column", "transformer.h.0.attn.c_attn", {"modules": ["q"]}),
    ],
)
def test_a_site_that_claims_what_a_kind_cuts_is_refused(kind: str, address: str, options: dict[str, Any]) -> None:
    adapter = host_of("torch", "gpt2").adapter
    clash(adapter, [kind, al.custom_site("mine", {"torch": address})], r"and L0\.mine \d+ both claim", **options)


def test_axes_of_one_activation_cross() -> None:
    _, adapter = bridge("gpt2")
    hook = {"transformer_lens": "blocks.0.attn.hook_z"}
    heads = al.custom_site("by_head", hook, axis=2, select=[0])
    clash(adapter, [heads, al.custom_site("by_feature", hook, axis=3, select=[7])], "by_head 0 and L0.by_feature 7")
    clash(adapter, ["head", heads], r"L0\.head 0 and L0\.by_head 0")


def test_sites_of_both_sorts_share_an_activation_where_their_features_differ() -> None:
    """Rows keep their bias, features of one's own are 0: each stands in for its own features."""
    for name in own_sites.HOSTS:
        host = host_of(name, "gpt2")
        address = {"torch": "transformer.h.0.mlp.c_proj", "transformer_lens": "blocks.0.mlp.out.hook_out"}
        mine = host.adapter.registry(al.custom_site("mine", address, select=range(16, 32)))
        rows = host.adapter.registry("row", layers=0, modules="mlp.out").select(where=lambda c: c.index < 16)
        inputs = host.inputs(4)
        for registry in (mine + rows, rows + mine):
            mask = own_sites.masks(4, 32)
            got = al.MaskedModel(host.adapter, registry).logits(mask, al.batch(inputs))
            for row in range(4):
                own = models.untied(host.reference)
                layer = own.transformer.h[0].mlp.c_proj
                off = {registry[int(column)].name for column in (mask[row] == 0).nonzero()}
                gone = [i for i in range(16) if f"L0.mlp.out row {i}" in off]
                zero = [i for i in range(16, 32) if f"L0.mine {i}" in off]
                with torch.no_grad():
                    layer.weight[:, gone] = 0
                    layer.weight[:, zero] = 0
                    layer.bias[zero] = 0
                expected = models.logits_of(own, inputs[row : row + 1])
                assert models.distance(got[row : row + 1], expected) < 1e-5


def test_heads_by_hook_z_beside_heads_of_the_library() -> None:
    for name in own_sites.NAMES:
        _, adapter = bridge(name)
        own = adapter.registry(at("blocks.1.attn.hook_z", 2, select=[0, 3]))
        registry = adapter.registry("head", layers=1).select(where=lambda c: c.index in (1, 2)) + own
        inputs, mask = models.inputs_of(name), own_sites.masks(4, 4)
        got = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))
        ours = al.MaskedModel(adapter, adapter.registry("head", layers=1))
        assert models.close(got, ours.logits(mask[:, [2, 0, 1, 3]], al.batch(inputs)))


# --- bases -----------------------------------------------------------------------------------------------------------


def transcoder() -> tuple[dict[str, Tensor], al.Dictionary]:
    of = own_sites.tensors(seed=4)
    return of, al.Dictionary(of["W_enc"], of["W_dec"], b_enc=of["b_enc"])


@pytest.mark.parametrize("holder", own_sites.HOSTS)
def test_a_transcoder_reads_one_activation_and_writes_another(holder: str) -> None:
    host = host_of(holder, "gpt2")
    of, basis = transcoder()
    reads = {"torch": "transformer.h.0.mlp.input", "transformer_lens": "blocks.0.mlp.hook_in"}
    writes = {"torch": "transformer.h.0.mlp", "transformer_lens": "blocks.0.mlp.hook_out"}
    registry = host.adapter.registry(al.custom_site("latent", reads, basis=basis, write=writes))
    inputs, mask = host.inputs(4), own_sites.masks(4, own_sites.LATENTS)
    got = al.MaskedModel(host.adapter, registry).logits(mask, al.batch(inputs))
    by_position = mask[:, None].expand(4, 7, own_sites.LATENTS)
    assert models.close(al.MaskedModel(host.adapter, registry).logits(by_position, al.batch(inputs)), got)
    for row in range(4):
        own = models.untied(host.reference)

        def edit(module: Any, args: Any, output: Tensor, off: Tensor = 1 - mask[row]) -> Tensor:
            return output - (off * torch.relu(args[0] @ of["W_enc"] + of["b_enc"])) @ of["W_dec"]

        own.transformer.h[0].mlp.register_forward_hook(edit)
        assert models.distance(got[row : row + 1], models.logits_of(own, inputs[row : row + 1])) < 1e-5
    assert torch.equal(
        al.MaskedModel(host.adapter, registry).logits(torch.ones(1, own_sites.LATENTS), al.batch(inputs)),
        models.logits_of(host.adapter.model, inputs),
    )
    assert models.distance(got, models.logits_of(host.reference, inputs)) > 1e-2


def test_where_a_basis_cannot_read_or_write() -> None:
    adapter = host_of("torch", "gpt2").adapter
    _, basis = transcoder()
    block, mlp = {"torch": "transformer.h.0"}, {"torch": "transformer.h.0.mlp"}
    later = adapter.registry(al.custom_site("latent", block, basis=basis, write={"torch": "transformer.h.1"}))
    al.MaskedModel(adapter, later)
    with pytest.raises(al.InputError, match="reads transformer.h.0 and writes transformer.h.0.mlp, which comes before"):
        al.MaskedModel(adapter, adapter.registry(al.custom_site("latent", block, basis=basis, write=mlp)))
    with pytest.raises(al.InputError, match=r"writes 32 features, and transformer\.h\.0\.mlp\.c_fc has 128"):
        wide = {"torch": "transformer.h.0.mlp.c_fc"}
        adapter.registry(al.custom_site("latent", {"torch": "transformer.h.0.mlp.input"}, basis=basis, write=wide))
    with pytest.raises(al.InputError, match=r"basis of L0\.sae has width 32, and transformer\.h\.0\.mlp\.c_fc has 128"):
        adapter.registry(al.custom_site("sae", {"torch": "transformer.h.0.mlp.c_fc"}, basis=basis))


def test_a_registry_of_another_width_is_refused_naming_both() -> None:
    small = host_of("torch", "gpt2").adapter
    large = al.adapt(models.gpt2(n_embd=64))
    for site in (own_sites.residual("gpt2"), own_sites.latents("gpt2")):
        with pytest.raises(al.InputError, match="32 features and transformer.h.0 has 64"):
            al.MaskedModel(large, small.registry(site))


def test_codes_of_channels() -> None:
    """A basis on axis 1: codes at every pixel."""
    host = host_of("torch", "convnet")
    of = own_sites.tensors(width=6, latents=9)
    basis = al.Dictionary(of["W_enc"], of["W_dec"], b_enc=of["b_enc"])
    registry = host.adapter.registry(al.custom_site("code", {"torch": "first"}, axis=1, basis=basis, groups=3))
    images, mask = host.inputs(4), own_sites.masks(4, 3)
    data = al.batch(images)
    maps = host.reference.first(images).detach().movedim(1, -1)
    codes = torch.relu(maps @ of["W_enc"] + of["b_enc"])
    stands_in = {al.Zero(): torch.zeros(9), al.Mean(data): codes.mean((0, 1, 2))}
    for ablation, value in stands_in.items():
        off = (1 - mask).repeat_interleave(3, 1)[:, None, None]
        expected = (maps + (off * (value - codes)) @ of["W_dec"]).movedim(-1, 1)
        own = models.untied(host.reference)
        own.first.register_forward_hook(lambda m, a, out, expected=expected: expected)
        got = al.MaskedModel(host.adapter, registry, ablation).logits(mask, data)
        assert models.close(got, models.logits_of(own, images))


def test_codes_of_each_head() -> None:
    """A basis on the features of a head: the same codes at every head, and a view between the two."""
    model, adapter = bridge("llama")
    of = own_sites.tensors(width=HEAD, latents=11)
    basis = al.Dictionary(of["W_enc"], of["W_dec"], b_enc=of["b_enc"])
    registry = adapter.registry(at("blocks.0.attn.hook_z", basis=basis, select=[1, 2, 5]))
    inputs, mask = models.inputs_of("llama"), own_sites.masks(4, 3)
    got = al.MaskedModel(adapter, registry).logits(mask, al.batch(inputs))

    def change(z: Tensor) -> Tensor:
        off = torch.zeros(4, 11)
        off[:, [1, 2, 5]] = 1 - mask
        return z - (off[:, None, None] * torch.relu(z @ of["W_enc"] + of["b_enc"])) @ of["W_dec"]

    assert models.close(got, hooked(model, inputs, "blocks.0.attn.hook_z", change))


def test_few_latents_are_decoded_alone() -> None:
    host = host_of("torch", "gpt2")
    few = Plan(host.adapter, host.adapter.registry(own_sites.latents("gpt2", select=[3, 9])))
    (step,) = few.steps
    assert step.basis.W_dec.shape == (2, models.WIDTH)  # type: ignore[union-attr]
    assert step.basis.W_enc.shape == (models.WIDTH, 2)  # type: ignore[union-attr]
    whole = Plan(host.adapter, host.adapter.registry(own_sites.latents("gpt2", select=None)))
    assert whole.steps[0].basis.components == own_sites.LATENTS  # type: ignore[union-attr]


def test_groups_of_latents_go_together() -> None:
    host = host_of("torch", "llama")
    site = own_sites.latents("llama", select=None, groups=[[0, 4], [3], [8, 11, 15]])
    registry = host.adapter.registry(site)
    assert registry.names == ("L0.sae 0", "L0.sae 1", "L0.sae 2")
    single = host.adapter.registry(own_sites.latents("llama", select=[0, 3, 4, 8, 11, 15]))
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    data = host.data()
    together = al.MaskedModel(host.adapter, registry).logits(mask, data)
    one_by_one = al.MaskedModel(host.adapter, single).logits(mask[:, [0, 1, 0, 2, 2, 2]], data)
    assert models.close(together, one_by_one)


# --- the rest of the library ------------------------------------------------------------------------------------------


def test_activations_that_a_later_module_overwrites_are_read_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    x = torch.randn(6, 4)
    adapter = al.adapt(model, example=x)
    read = adapter.read(al.batch(x), [Tap(0, "0", "out")])
    assert torch.equal(read[Tap(0, "0", "out")], model[0](x))
    of = own_sites.tensors(width=5, latents=7)
    basis = al.Dictionary(of["W_enc"], torch.randn(7, 3))
    site = al.custom_site("code", {"torch": "0"}, basis=basis, write={"torch": "2"})
    got = al.MaskedModel(adapter, adapter.registry(site)).logits(torch.zeros(1, 7), al.batch(x))
    with torch.no_grad():
        expected = model(x.clone()) - torch.relu(model[0](x) @ of["W_enc"]) @ basis.W_dec
    assert models.close(got, expected)


def test_a_copied_model_runs_as_the_first() -> None:
    for site in own_sites.SITES.values():
        adapter = al.adapt(models.gpt2())
        model = al.MaskedModel(adapter, adapter.registry(["head", site("gpt2")]), al.Resample())
        data, mask = al.batch(models.inputs_of("gpt2")), torch.zeros(1, 16)
        before = model.logits(mask, data)
        assert torch.equal(copy.deepcopy(model).logits(mask, data), before)


def test_options_of_kinds_do_not_concern_sites_of_ones_own() -> None:
    adapter = host_of("torch", "gpt2").adapter
    site = own_sites.residual("gpt2")
    assert adapter.registry([site, "head"], layers=[1]).names == (
        *adapter.registry(site).names,
        *adapter.registry("head", layers=1).names,
    )
    with pytest.raises(al.InputError, match="says itself where it is"):
        adapter.registry(site, layers=[0])
    with pytest.raises(al.InputError, match="kinds, such as 'head', and sites"):
        adapter.registry([])
