"""The numbers of TransformerLens' own patching, in every host that can hold the model.

Two differences in meaning, both handled here and described in `ablationlens.attribution.patching`: TransformerLens
gives the patched metric itself (our weight is its distance from the run without a patch), and what it calls the
corrupted run is whichever input is run, so that its noising has the opposite sign. Apart from these there is none.
`blocks.L.hook_resid_mid` of a bridge is the input of the second norm alone, and not the stream beside it; patching it
there, in its code or in ours, patches what the MLP reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import patching as theirs

import ablationlens as al
from ablationlens.attribution import activation_patching, attribution_patching, normalised
from tests import models
from tests.attribution.patching.by_transformer_lens import estimated, metric, patched
from tests.conftest import HOSTS, Host, host_of

HEAD_WIDTH = models.WIDTH // models.HEADS


def whole(name: str, activation: str) -> list[Any]:
    """One component for each layer: all features of an activation."""
    block = "transformer.h.{}" if name == "gpt2" else "model.layers.{}"
    made: list[Any] = []
    for layer in range(models.LAYERS):
        addresses = {"transformer_lens": f"blocks.{layer}.hook_{activation}"}
        if activation == "resid_pre":
            addresses["torch"] = block.format(layer) + ".input"
        made.append(al.custom_site(activation, addresses, groups=1))
    return made


def patterns() -> list[Any]:
    """One component for each head: its attention pattern."""
    return [
        al.custom_site("pattern", {"transformer_lens": f"blocks.{layer}.attn.hook_pattern"}, axis=1)
        for layer in range(models.LAYERS)
    ]


def blocks(projection: str) -> Callable[[Host], al.Registry]:
    return lambda host: host.adapter.registry("row_block", modules=[projection], size=HEAD_WIDTH)


IN_EVERY_HOST: dict[str, tuple[Any, Callable[[Host], al.Registry]]] = {
    "z": (theirs.get_act_patch_attn_head_out_all_pos, lambda host: host.registry("head")),
    "k": (theirs.get_act_patch_attn_head_k_all_pos, blocks("k")),
    "z by position": (theirs.get_act_patch_attn_head_out_by_pos, lambda host: host.registry("head")),
    "v by position": (theirs.get_act_patch_attn_head_v_by_pos, blocks("v")),
    "mlp_out by position": (
        theirs.get_act_patch_mlp_out,
        lambda host: host.adapter.registry("matrix", modules=["mlp.out"]),
    ),
    "resid_pre by position": (
        theirs.get_act_patch_resid_pre,
        lambda host: host.adapter.registry(whole(host.name, "resid_pre")),
    ),
}
"""What is patched: TransformerLens' function for it, and our registry of it."""
ON_A_BRIDGE: dict[str, tuple[Any, Callable[[Host], al.Registry]]] = {
    "q": (theirs.get_act_patch_attn_head_q_all_pos, blocks("q")),
    "v": (theirs.get_act_patch_attn_head_v_all_pos, blocks("v")),
    "pattern": (theirs.get_act_patch_attn_head_pattern_all_pos, lambda host: host.adapter.registry(patterns())),
    "q by position": (theirs.get_act_patch_attn_head_q_by_pos, blocks("q")),
    "k by position": (theirs.get_act_patch_attn_head_k_by_pos, blocks("k")),
    "pattern by position": (
        theirs.get_act_patch_attn_head_pattern_by_pos,
        lambda host: host.adapter.registry(patterns()),
    ),
    "matrix attn.o by position": (
        theirs.get_act_patch_attn_out,
        lambda host: host.adapter.registry("matrix", modules=["attn.o"]),
    ),
    "attn_out by position": (
        theirs.get_act_patch_attn_out,
        lambda host: host.adapter.registry(whole(host.name, "attn_out")),
    ),
    "hook_mlp_out by position": (
        theirs.get_act_patch_mlp_out,
        lambda host: host.adapter.registry(whole(host.name, "mlp_out")),
    ),
    "resid_mid by position": (
        theirs.get_act_patch_resid_mid,
        lambda host: host.adapter.registry(whole(host.name, "resid_mid")),
    ),
}
CASES = [(holder, name, what) for holder in HOSTS for name in ("gpt2", "llama") for what in IN_EVERY_HOST] + [
    ("transformer_lens", name, what) for name in ("gpt2", "llama") for what in ON_A_BRIDGE
]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(("holder", "name", "what"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_activation_patching(holder: str, name: str, what: str, direction: Any) -> None:
    host = host_of(holder, name)
    sweep, registry = {**IN_EVERY_HOST, **ON_A_BRIDGE}[what]
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    run, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    raw, unpatched = patched(name, sweep, run, other)
    effect = raw - unpatched.view(3, *[1] * (raw.ndim - 1))
    data = al.batch(clean)
    model = al.MaskedModel(host.adapter, registry(host), output=metric)
    by_position = what.endswith("by position")
    found = activation_patching(model, data, data.like(corrupt), direction=direction, by_position=by_position)
    expected = effect if direction == "denoising" else -effect
    assert models.distance(torch.tensor(found.weights.values), expected) < 1e-4
    assert float(expected.abs().max()) > 0.1
    # and the predictions are its raw metric: one clean part in the corrupt run, or all but one in the clean run
    alone = torch.eye(expected[0].numel()).view(-1, *expected.shape[1:])
    predicted = found.predict(alone if direction == "denoising" else 1 - alone)
    assert models.distance(torch.tensor(predicted).T.reshape(raw.shape), raw) < 1e-4


NODES: dict[str, Callable[[Host], al.Registry]] = {
    "attn_head_out": lambda host: host.registry("head"),
    "mlp_out": lambda host: host.adapter.registry("matrix", modules=["mlp.out"]),
    "embed": lambda host: host.adapter.registry(
        al.custom_site(
            "embed",
            {
                "transformer_lens": "hook_embed",
                "torch": "transformer.wte" if host.name == "gpt2" else "model.embed_tokens",
            },
            groups=1,
        )
    ),
}


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("kind", list(NODES))
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("holder", HOSTS)
def test_attribution_patching(holder: str, name: str, kind: str, direction: Any) -> None:
    host = host_of(holder, name)
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    run, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    score = estimated(name, kind, run, other)
    expected = score if direction == "denoising" else -score
    data = al.batch(clean)
    model = al.MaskedModel(host.adapter, NODES[kind](host), output=metric)
    found = attribution_patching(model, data, data.like(corrupt), direction=direction, by_position=True)
    assert models.distance(torch.tensor(found.weights.values), expected) < 1e-4
    assert float(expected.abs().max()) > 0.1
    whole = attribution_patching(model, data, data.like(corrupt), direction=direction)
    assert models.distance(torch.tensor(whole.weights.values), expected.sum(1)) < 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("holder", HOSTS)
def test_the_trained_induction_model(holder: str, direction: Any) -> None:
    """Labels are the clean examples': the token that the first block of the clean sequence predicts."""
    zoo = al.zoo.load("induction")
    clean = zoo.sequences(3, 8)
    corrupt = clean.clone()
    corrupt[:, :8] = zoo.sequences(3, 8, seed=9)[:, :8]
    label = clean[:, 8]
    held = zoo.bridge() if holder == "transformer_lens" else models.held_by(holder, zoo.model)
    adapter = al.adapt(held)
    data = al.batch(clean, labels=label, positions=-1)
    bad = data.like(corrupt)
    model = al.MaskedModel(adapter, adapter.registry("head"), output=al.Logit("label"))

    def correct(logits: Tensor) -> Tensor:
        return logits[:, -1].gather(1, label[:, None])[:, 0]

    run, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    for by_position, sweep in (
        (False, theirs.get_act_patch_attn_head_out_all_pos),
        (True, theirs.get_act_patch_attn_head_out_by_pos),
    ):
        raw, unpatched = patched("induction", sweep, run, other, correct)
        effect = raw - unpatched.view(3, *[1] * (raw.ndim - 1))
        found = activation_patching(model, data, bad, direction=direction, by_position=by_position)
        expected = effect if direction == "denoising" else -effect
        assert models.distance(torch.tensor(found.weights.values), expected) < 1e-4
        assert float(expected.abs().max()) > 5
    score = estimated("induction", "attn_head_out", run, other, correct)
    found = attribution_patching(model, data, bad, direction=direction, by_position=True)
    assert models.distance(torch.tensor(found.weights.values), score if direction == "denoising" else -score) < 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_shares_of_the_gap(direction: Any) -> None:
    """(patched - corrupt) / (clean - corrupt), which `PatchingResult.normalized` gives for denoising."""
    host = host_of("transformer_lens", "gpt2")
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    run, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    with torch.no_grad():
        of_clean, of_corrupt = (metric(models.logits_of(host.reference, tokens)) for tokens in (clean, corrupt))
    raw, _ = patched("gpt2", theirs.get_act_patch_attn_head_out_all_pos, run, other)
    expected = (raw - of_corrupt[:, None]) / (of_clean - of_corrupt)[:, None]
    data = al.batch(clean)
    model = al.MaskedModel(host.adapter, host.registry("head"), output=metric)
    found = normalised(activation_patching(model, data, data.like(corrupt), direction=direction))
    weights = torch.tensor(found.weights.values)
    assert models.distance(weights if direction == "denoising" else 1 - weights, expected) < 1e-4
    alone = torch.eye(expected.shape[1])
    predicted = found.predict(alone if direction == "denoising" else 1 - alone)
    assert models.distance(torch.tensor(predicted).T, expected) < 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("holder", HOSTS)
def test_divergence_is_from_the_clean_run_whatever_is_run(holder: str, direction: Any) -> None:
    host = host_of(holder, "gpt2")
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    with torch.no_grad():
        target = models.logits_of(host.reference, clean).log_softmax(-1)

    def divergence(logits: Tensor) -> Tensor:
        rows = torch.nn.functional.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="none")
        return rows.sum(-1).mean(1)

    run, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    raw, unpatched = patched("gpt2", theirs.get_act_patch_attn_head_out_all_pos, run, other, divergence)
    data = al.batch(clean, positions=list(range(clean.shape[1])))
    model = al.MaskedModel(host.adapter, host.registry("head"), output=al.KL())
    found = activation_patching(model, data, data.like(corrupt), direction=direction)
    sign = 1 if direction == "denoising" else -1
    assert models.distance(torch.tensor(found.weights.values), sign * (raw - unpatched[:, None])) < 1e-4
    assert max(map(abs, found.provenance["clean_output"])) < 1e-6
    assert min(found.provenance["corrupt_output"]) > 0.1
