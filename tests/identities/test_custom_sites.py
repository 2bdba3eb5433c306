"""The laws on sites of the user's own: groups of the residual stream, and latents of an autoencoder on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from tests import models, own_sites
from tests.conftest import Host, host_of
from tests.identities.test_law_7_the_users_model import BrokenError, differences, lived_in, state

CASES = [(host, name) for host in own_sites.HOSTS for name in own_sites.NAMES]
BY_HOST = pytest.mark.parametrize(("holder", "name"), CASES)
BY_SITE = pytest.mark.parametrize("site", ["residual", "latents"])


def registry_of(host: Host, site: str, **options: Any) -> al.Registry:
    return host.adapter.registry(own_sites.SITES[site](host.name, **options))


def ablations(host: Host) -> dict[str, al.Ablation]:
    data = host.data(4, seed=1)
    return {
        "zero": al.Zero(),
        "zero with bias": al.Zero(include_bias=True),
        "scale": al.Scale(0.3),
        "mean": al.Mean(data),
        "mean by position": al.Mean(data, per_position=True),
        "counterfactual": al.Counterfactual(data),
        "resample": al.Resample(seed=2),
        "noise": al.GaussianNoise(1.0, seed=2),
    }


def scalar(logits: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, logits[0].numel()).cos().reshape(logits.shape[1:])
    return (logits * weights).flatten(1).sum(1) / 10


# --- law 1 ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
def test_all_ones_is_bit_equal_to_the_unmodified_model(holder: str, name: str, site: str) -> None:
    host = host_of(holder, name)
    registry, inputs = registry_of(host, site), host.inputs()
    data, width = al.batch(inputs), len(registry)
    expected = models.logits_of(host.adapter.model, inputs)
    for label, ablation in ablations(host).items():
        model = al.MaskedModel(host.adapter, registry, ablation)
        for ones in (torch.ones(1, width), torch.ones(4, width), torch.ones(4, 7, width), model.mask()):
            assert torch.equal(model.logits(ones, data), expected), label
        with torch.enable_grad():
            logits = model.logits(torch.ones(4, width, requires_grad=True), data)
        assert logits.requires_grad
        assert torch.equal(logits.detach(), expected), label
        gone = model.logits(torch.zeros(4, width), data)
        distances = [models.distance(gone[row], expected[row]) for row in range(4)]
        assert min(distances) > 1e-3, (label, distances)


@BY_SITE
def test_all_ones_is_bit_equal_in_half_precision(site: str) -> None:
    model = models.llama().to(torch.bfloat16)
    adapter = al.adapt(model)
    registry = adapter.registry(own_sites.SITES[site]("llama"))
    inputs = models.inputs_of("llama")
    masked = al.MaskedModel(adapter, registry, al.Mean(al.batch(inputs)))
    got = masked.logits(torch.ones(1, len(registry)), al.batch(inputs))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, models.logits_of(model, inputs))


# --- law 2 ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
def test_each_row_of_a_hard_mask_equals_a_model_with_its_own_plain_hook(holder: str, name: str, site: str) -> None:
    host = host_of(holder, name)
    registry, inputs = registry_of(host, site), host.inputs(5)
    mask = own_sites.masks(5, len(registry))
    logits = al.MaskedModel(host.adapter, registry).logits(mask, al.batch(inputs))
    for row in range(5):
        change = own_sites.ablated(site, mask[row])
        expected = own_sites.changed(host.reference, inputs[row : row + 1], 0, change)
        assert models.distance(logits[row : row + 1], expected) < 1e-5, row
    assert models.distance(logits[:4], models.logits_of(host.reference, inputs)[:4]) > 1e-2


@BY_HOST
@BY_SITE
def test_replacements_are_the_stream_or_the_codes_of_the_other_example(holder: str, name: str, site: str) -> None:
    host = host_of(holder, name)
    registry, inputs, other = registry_of(host, site), host.inputs(4), host.inputs(4, seed=9)
    data, mask = al.batch(inputs), own_sites.masks(4, len(registry))
    theirs = own_sites.stream(host.reference, other)
    if site == "latents":
        theirs = own_sites.encoded(theirs)
    stands_in = {
        "counterfactual": (al.Counterfactual(data.like(other)), theirs),
        "mean": (al.Mean(al.batch(other)), theirs.mean((0, 1)).expand_as(theirs)),
        "mean by position": (al.Mean(al.batch(other), per_position=True), theirs.mean(0).expand_as(theirs)),
    }
    for label, (ablation, values) in stands_in.items():
        logits = al.MaskedModel(host.adapter, registry, ablation).logits(mask, data)
        for row in range(4):
            change = own_sites.ablated(site, mask[row], values[row : row + 1])
            expected = own_sites.changed(host.reference, inputs[row : row + 1], 0, change)
            assert models.distance(logits[row : row + 1], expected) < 1e-5, (label, row)


@BY_HOST
@BY_SITE
def test_a_mask_by_position_ablates_at_its_positions_alone(holder: str, name: str, site: str) -> None:
    host = host_of(holder, name)
    registry, inputs = registry_of(host, site), host.inputs(3)
    mask = torch.ones(3, 7, len(registry))
    mask[:, 2:5] = own_sites.masks(3, len(registry))[:, None]
    logits = al.MaskedModel(host.adapter, registry).logits(mask, al.batch(inputs))
    for row in range(3):
        change = own_sites.ablated(site, mask[row, 2])

        def at_three(x: Tensor, change: Any = change) -> Tensor:
            return torch.cat([x[:, :2], change(x)[:, 2:5], x[:, 5:]], 1)

        expected = own_sites.changed(host.reference, inputs[row : row + 1], 0, at_three)
        assert models.distance(logits[row : row + 1], expected) < 1e-5, row


# --- law 3 ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
@pytest.mark.parametrize("towards", ["zero", "counterfactual"])
def test_mask_gradient_at_one_is_gradient_times_difference(holder: str, name: str, site: str, towards: str) -> None:
    host = host_of(holder, name)
    registry, inputs, other = registry_of(host, site), host.inputs(3), host.inputs(3, seed=5)
    data = al.batch(inputs)
    ablation = al.Zero() if towards == "zero" else al.Counterfactual(data.like(other))
    model = al.MaskedModel(host.adapter, registry, ablation, output=scalar)
    mask = torch.ones(3, len(registry), requires_grad=True)
    (gradient,) = torch.autograd.grad(model(mask, data).sum(), mask)

    own, kept = models.untied(host.reference), {}

    def probe(module: Any, args: Any, output: Any) -> Any:
        kept["stream"] = output if isinstance(output, Tensor) else output[0]
        kept["stream"].retain_grad()

    own_sites.block_of(own, 0).register_forward_hook(probe)
    scalar(own(inputs).logits).sum().backward()
    mine, slope = kept["stream"].detach(), kept["stream"].grad
    theirs = own_sites.stream(host.reference, other) if towards == "counterfactual" else torch.zeros_like(mine)
    if site == "residual":
        expected = ((mine - theirs) * slope).sum(1).view(3, own_sites.GROUPS, -1).sum(-1)
    else:
        zero = torch.zeros(3, 7, own_sites.LATENTS)
        codes = own_sites.encoded(mine) - (own_sites.encoded(theirs) if towards == "counterfactual" else zero)
        along = slope @ own_sites.tensors()["W_dec"].T
        expected = (codes * along).sum(1)[:, list(own_sites.CHOSEN)]
    assert models.distance(gradient, expected) < 1e-5
    assert float(expected.abs().max()) > 1e-3


# --- law 4, the part on regression -----------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
def test_regression_and_leave_one_out_agree_on_an_additive_function(holder: str, name: str, site: str) -> None:
    """Without the final norm, logits are linear in the last residual stream."""
    from tests.identities.test_law_4_regression import output, without_final_norm

    raw = models.MODELS[name]()
    model = without_final_norm(models.bridge_of(raw) if holder != "torch" else models.MODELS[name](), name)
    reference, inputs = without_final_norm(raw, name), models.inputs_of(name, 3)
    adapter = al.adapt(model)
    registry = adapter.registry(own_sites.SITES[site](name, layer=1))
    masked, data, width = al.MaskedModel(adapter, registry, al.Zero(), output), al.batch(inputs), len(registry)
    full = output(models.logits_of(reference, inputs))

    def without(gates: Tensor) -> Tensor:
        return output(own_sites.changed(reference, inputs, 1, own_sites.ablated(site, gates)))

    expected = torch.stack([full - without(gates) for gates in 1 - torch.eye(width)], 1).numpy()
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(expected).max() > 1e-2
    loo = al.leave_one_out(masked, data)
    coar = al.coar(masked, data, alpha=0.3, draws=4 * width + 10, seed=1, solver="least_squares")
    for found in (loo, coar):
        assert np.abs(found.weights.values - expected).max() < 1e-5 * scale, found.method
    everything_off = without(torch.zeros(width)).numpy()
    assert np.abs(coar.predict(np.zeros(width))[0] - everything_off).max() < 1e-5 * np.abs(expected).sum(1).max()


# --- law 6 ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
@pytest.mark.parametrize("ablation", ["zero", "mean by position", "resample", "noise"])
def test_rows_of_a_pass_change_nothing(holder: str, name: str, site: str, ablation: str) -> None:
    host = host_of(holder, name)
    data, registry = host.data(3), registry_of(host, site)
    one = ablations(host)[ablation]
    design = al.Bernoulli(len(registry), 0.3, 5, seed=2)
    model = al.MaskedModel(host.adapter, registry, one, output=lambda logits: logits.flatten(1)[:, ::3].mean(1))
    masks = torch.from_numpy(design.masks(0, 5)).float()
    single = torch.stack([model(mask[None], data) for mask in masks])
    slopes = torch.zeros(3, len(registry))
    for mask in masks:
        gates = mask.repeat(3, 1).requires_grad_()
        slopes += torch.autograd.grad(model(gates, data).sum(), gates)[0] / 5
    for rows in (1, 2, 4, 7, 64):
        assert models.close(model.sweep(design, data, rows=rows), single), rows
        gradient = model.sweep_gradient(design, data, rows=rows)
        assert gradient is not None
        assert models.close(gradient, slopes), rows


# --- law 7 ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
def test_the_users_model_and_basis_are_left_as_they_were(holder: str, name: str, site: str) -> None:
    model = lived_in(holder, name)
    basis = own_sites.autoencoder()
    held = {key: value.clone() for key, value in vars(basis).items() if isinstance(value, Tensor)}
    data, before = al.batch(models.inputs_of(name)), state(model)
    adapter = al.adapt(model)
    asked = own_sites.residual(name) if site == "residual" else own_sites.latents(name, basis=basis)
    registry = adapter.registry(["head", asked])
    assert differences(before, state(model)) == []

    def broken(logits: Tensor) -> Tensor:
        raise BrokenError

    for ablation in (al.Zero(), al.Mean(data), al.Resample()):
        masked = al.MaskedModel(adapter, registry, ablation, lambda logits: logits.flatten(1).sum(1))
        design = al.Bernoulli(len(registry), 0.3, 3)
        masked(torch.ones(1, len(registry), requires_grad=True), data).sum().backward()
        masked.sweep(design, data)
        masked.sweep_gradient(design, data)
        failing = al.MaskedModel(adapter, registry, ablation, broken)
        for run in (failing.sweep, failing.sweep_gradient):
            with pytest.raises(BrokenError):
                run(design, data)
    assert differences(before, state(model)) == []
    assert all(torch.equal(value, getattr(basis, key)) for key, value in held.items())


# --- law 8 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", own_sites.NAMES)
@BY_SITE
def test_hosts_agree_and_share_one_registry(name: str, site: str) -> None:
    hosts = [host_of(holder, name) for holder in own_sites.HOSTS]
    asked = own_sites.SITES[site](name)
    made = hosts[0].adapter.registry(["head", asked])
    bases = {} if site == "residual" else {"sae": own_sites.autoencoder()}
    registry = al.Registry.from_json(made.to_json(), bases=bases)
    inputs = hosts[0].inputs(8)
    data = al.batch(inputs)
    for label in ("zero", "mean", "resample", "noise"):
        found = []
        for host in hosts:
            assert host.adapter.registry(["head", asked]) == registry == made
            model = al.MaskedModel(host.adapter, registry, ablations(host)[label])
            mask = own_sites.masks(200, len(registry))
            found.append(torch.cat([model.logits(part, data) for part in mask.split(8)]))
        for other in found[1:]:
            assert models.distance(other, found[0]) < 1e-4, label


# --- COAR ------------------------------------------------------------------------------------------------------------


@BY_HOST
@BY_SITE
def test_coar_predicts_ablations_that_it_has_not_seen(holder: str, name: str, site: str) -> None:
    host = host_of(holder, name)
    registry, data = registry_of(host, site), host.data(2)
    model = al.MaskedModel(host.adapter, registry)
    found = al.coar(model, data, alpha=0.2, draws=200, seed=0, solver="least_squares")
    scores = al.evaluate(model, data, {"COAR": found}, alphas=[0.2], draws=50, seed=1)
    assert float(scores.frame["pearson"].mean()) > 0.8
    table = found.table()
    assert set(table["kind"]) == {"custom"}
    assert set(table["component"]) == set(registry.names)


# --- the user's own hooks --------------------------------------------------------------------------------------------


@BY_SITE
def test_all_ones_is_bit_equal_to_the_users_own_hooked_model(site: str) -> None:
    """Also where the user hooks the very module, or hook point, that is cut."""
    inputs = models.inputs_of("gpt2")
    model = models.gpt2()
    own_sites.block_of(model, 0).register_forward_hook(lambda m, a, out: 0.5 * out)
    bridge = models.bridge_of(models.gpt2())
    bridge.add_hook("blocks.0.hook_resid_post", lambda value, hook: 0.5 * value)
    for hooked in (model, bridge):
        adapter = al.adapt(hooked)
        registry = adapter.registry(own_sites.SITES[site]("gpt2"))
        masked = al.MaskedModel(adapter, registry, al.Resample())
        expected = models.logits_of(hooked, inputs)
        assert torch.equal(masked.logits(torch.ones(1, len(registry)), al.batch(inputs)), expected)
        zero = al.MaskedModel(adapter, registry).logits(torch.zeros(1, len(registry)), al.batch(inputs))
        gates = torch.zeros(len(registry))
        halved = own_sites.changed(
            models.gpt2(), inputs, 0, lambda x, gates=gates: own_sites.ablated(site, gates)(0.5 * x)
        )
        assert models.close(zero, halved)  # ours sees what the user's hook left
