"""Activation patching: what TransformerLens cannot say, by plain hooks and by the definition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.attribution import activation_patching
from tests import families, models
from tests.conftest import Host, host_of
from tests.families import FAMILIES
from tests.passes import before_each_pass


def channel_from(host: Host, run: Tensor, other: Tensor, module: str, channel: int) -> Tensor:
    """Logits on `run` with one channel of a convolution as it is on `other`, by plain hooks on a copy."""
    own = models.untied(host.reference)
    seen: list[Tensor] = []
    handle = own.get_submodule(module).register_forward_hook(lambda m, a, out: seen.append(out.detach().clone()))
    models.logits_of(own, other)
    handle.remove()

    def put(m: Any, a: Any, out: Tensor) -> Tensor:
        return torch.cat([out[:, :channel], seen[0][:, channel : channel + 1], out[:, channel + 1 :]], 1)

    own.get_submodule(module).register_forward_hook(put)
    return models.logits_of(own, run)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("holder", ["torch", "nnsight"])
def test_filters_of_a_network_without_positions(holder: str, direction: Any) -> None:
    host = host_of(holder, "convnet")
    registry, output = host.registry("filter"), al.Logit(2)
    clean, corrupt = host.inputs(3), host.inputs(3, seed=5)
    data = al.batch(clean)
    found = activation_patching(
        al.MaskedModel(host.adapter, registry, output=output), data, al.batch(corrupt), direction=direction
    )
    of_clean, of_corrupt = (output(models.logits_of(host.reference, x), data) for x in (clean, corrupt))
    for column, component in enumerate(registry):
        at = (component.site.module, component.index)
        if direction == "denoising":
            expected = output(channel_from(host, corrupt, clean, *at), data) - of_corrupt
        else:
            expected = of_clean - output(channel_from(host, clean, corrupt, *at), data)
        assert np.abs(found.weights.values[:, column] - expected.numpy()).max() < 1e-5
    assert np.abs(found.weights.values).max() > 1e-2
    assert np.allclose(found.provenance["clean_output"], of_clean, atol=1e-5)
    assert np.allclose(found.provenance["corrupt_output"], of_corrupt, atol=1e-5)
    with pytest.raises(al.InputError, match="by_position=True .* none: leave it out"):
        activation_patching(
            al.MaskedModel(host.adapter, registry, output=output), data, al.batch(corrupt), by_position=True
        )


def test_a_model_of_two_stacks_has_the_positions_of_its_decoder() -> None:
    plain, tokens = FAMILIES["t5"].make(), FAMILIES["t5"].batch(2)
    other = {**tokens, "input_ids": tokens["input_ids"].flip(0)}
    adapter, data, output = al.adapt(FAMILIES["t5"].make()), al.batch(tokens), al.Logit(3)
    bad = al.batch(other)
    model = al.MaskedModel(adapter, adapter.registry("matrix", layers=[0], modules=["encoder.attn.o"]), output=output)
    found = activation_patching(model, data, bad)

    projection, seen = plain.encoder.block[0].layer[0].SelfAttention.o, []
    handle = projection.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    families.run(plain, tokens)
    handle.remove()
    before = output(families.run(plain, other), data)
    projection.register_forward_hook(lambda module, args, out: seen[0])
    expected = output(families.run(plain, other), data) - before
    assert np.abs(found.weights.values[:, 0] - expected.numpy()).max() < 1e-5
    assert float(expected.abs().max()) > 1e-3
    with pytest.raises(al.InputError, match="an activation of this registry has none: leave it out"):
        activation_patching(model, data, bad, by_position=True)
    decoder = al.MaskedModel(adapter, adapter.registry("matrix", modules=["decoder.attn.o"]), output=output)
    assert activation_patching(decoder, data, bad, by_position=True).positions == data.length


def test_predictions_for_the_input_that_is_run_are_exact(torch_gpt2: Host) -> None:
    registry, data = torch_gpt2.registry("head"), torch_gpt2.data(3)
    bad, model = data.like(torch_gpt2.inputs(3, seed=5)), al.MaskedModel(torch_gpt2.adapter, registry)
    of_clean, of_corrupt = (model(model.mask(), one).numpy() for one in (data, bad))
    for by_position in (False, True):
        denoised = activation_patching(model, data, bad, by_position=by_position)
        assert np.allclose(denoised.predict(np.zeros(len(registry))), of_corrupt, atol=1e-5)
        assert "full_output" not in denoised.provenance
        noised = activation_patching(model, data, bad, direction="noising", by_position=by_position)
        assert np.allclose(noised.predict(np.ones(len(registry))), of_clean, atol=1e-5)
        assert noised.provenance["full_output"] == noised.provenance["clean_output"]


def test_noising_is_leave_one_out_towards_the_corrupt_input(torch_gpt2: Host) -> None:
    registry, data = torch_gpt2.registry("row_block"), torch_gpt2.data(3)
    bad = data.like(torch_gpt2.inputs(3, seed=5))
    model = al.MaskedModel(torch_gpt2.adapter, registry, al.Counterfactual(bad))
    loo, noised = al.leave_one_out(model, data), activation_patching(model, data, bad, direction="noising")
    assert np.abs(loo.weights.values - noised.weights.values).max() < 1e-5
    assert np.abs(loo.bias.values - noised.bias.values).max() < 1e-4
    for key in ("model", "registry", "ablation", "output", "data", "masks"):
        assert loo.provenance[key] == noised.provenance[key]
    scores = al.evaluate(model, data, {"both": loo, "patching": noised}, alphas=[0.1], draws=20)
    assert len(scores.frame) == 6


def test_labels_and_scored_positions_are_the_clean_ones_and_the_models_ablation_has_no_part(torch_gpt2: Host) -> None:
    registry = torch_gpt2.registry("head")
    clean, corrupt = torch_gpt2.inputs(3), torch_gpt2.inputs(3, seed=5)
    data = al.batch(clean, labels=[4, 5, 6], positions=-2)
    other = al.batch(corrupt, labels=[9, 8, 7], positions=1)
    for direction in ("denoising", "noising"):
        first = al.MaskedModel(torch_gpt2.adapter, registry, output=al.Logit("label"))
        second = al.MaskedModel(torch_gpt2.adapter, registry, al.Scale(0.3), al.Logit("label"))
        one = activation_patching(first, data, data.like(corrupt), direction=direction)
        two = activation_patching(second, data, other, direction=direction)
        assert np.array_equal(one.weights.values, two.weights.values)
        assert second.ablation.describe()["ablation"] == "Scale"
        logits = models.logits_of(torch_gpt2.reference, corrupt)
        expected = logits[range(3), -2, [4, 5, 6]]
        assert np.allclose(one.provenance["corrupt_output"], expected, atol=1e-5)
        assert one.weights["example"].values.tolist() == list(data.names())


def test_by_position_in_a_padded_batch_each_example_is_as_it_is_alone(torch_gpt2: Host) -> None:
    tokens, others = torch_gpt2.inputs(2), torch_gpt2.inputs(2, seed=5)
    rows, bad_rows = [tokens[0].tolist(), tokens[1, 3:].tolist()], [others[0].tolist(), others[1, 3:].tolist()]
    model = al.MaskedModel(torch_gpt2.adapter, torch_gpt2.registry("head"))
    data = al.batch(tokens, attention_mask=[[1] * 7, [0] * 3 + [1] * 4])
    real = data.attended
    assert real is not None
    assert int(real.sum()) == 11
    found = activation_patching(model, data, data.like(bad_rows), by_position=True)
    for example in range(2):
        alone = al.batch([rows[example]])
        expected = activation_patching(model, alone, alone.like([bad_rows[example]]), by_position=True)
        own = found.weights.values[example]
        assert np.abs(own[real[example].numpy()] - expected.weights.values[0]).max() < 1e-5
        assert np.abs(own[~real[example].numpy()]).max(initial=0.0) < 1e-6
        assert np.abs(own).max() > 1e-2


@pytest.mark.parametrize("by_position", [False, True])
def test_passes_and_packing(torch_gpt2: Host, monkeypatch: pytest.MonkeyPatch, by_position: bool) -> None:
    registry, data = torch_gpt2.registry("head"), torch_gpt2.data(3)
    bad, model = data.like(torch_gpt2.inputs(3, seed=5)), al.MaskedModel(torch_gpt2.adapter, registry)
    whole = activation_patching(model, data, bad, by_position=by_position)
    sizes: list[int] = []
    before_each_pass(torch_gpt2.adapter, monkeypatch, lambda batch: sizes.append(len(batch)))
    again = activation_patching(model, data, bad, by_position=by_position, rows=7)
    draws = len(registry) * (7 if by_position else 1) + 1
    assert max(sizes) <= 7
    assert sum(sizes) == 3 * draws + 6  # and the clean input: its activations, and its output
    assert again.provenance["draws"] == draws
    assert np.abs(whole.weights.values - again.weights.values).max() < 1e-5


def test_outputs_that_are_not_finite_are_counted(torch_gpt2: Host) -> None:
    registry, data = torch_gpt2.registry("head"), torch_gpt2.data(3)
    bad = data.like(torch_gpt2.inputs(3, seed=5))
    clean = activation_patching(al.MaskedModel(torch_gpt2.adapter, registry, output=al.Logit(1)), data, bad)
    worst = int(np.abs(clean.weights.values[0]).argmax())
    value = float(clean.provenance["corrupt_output"][0] + clean.weights.values[0, worst])

    def output(logits: Tensor, batch: al.Batch) -> Tensor:
        scores = al.Logit(1)(logits, batch)
        return torch.where((scores - value).abs() < 1e-5, torch.inf, scores)

    found = activation_patching(al.MaskedModel(torch_gpt2.adapter, registry, output=output), data, bad)
    assert found.provenance["quarantined_outputs"] == 1
    assert np.argwhere(np.isnan(found.weights.values)).tolist() == [[0, worst]]
    assert np.isfinite(found.bias.values).all()
    noised = activation_patching(
        al.MaskedModel(torch_gpt2.adapter, registry, output=output), data, bad, direction="noising"
    )
    assert np.isfinite(noised.bias.values).all()


def test_the_provenance_says_what_was_done(torch_gpt2: Host, tmp_path: Path) -> None:
    registry, data = torch_gpt2.registry("head"), torch_gpt2.data(3)
    bad, model = data.like(torch_gpt2.inputs(3, seed=5)), al.MaskedModel(torch_gpt2.adapter, registry)
    for direction, design in (("denoising", "put_one_in"), ("noising", "leave_one_out")):
        found = activation_patching(model, data, bad, direction=direction, by_position=True)
        assert json.loads(json.dumps(found.provenance)) == found.provenance
        assert found.provenance["direction"] == direction
        assert found.provenance["masks"]["design"] == f"{design}_by_position"
        assert found.provenance["ablation"] == {"ablation": "Counterfactual", "other": bad.fingerprint()}
        assert found.provenance["data"]["fingerprint"] == data.fingerprint()
        back = al.Attribution.load(found.total().save(tmp_path / "total"))
        assert back.provenance["position"] == "all, summed"
