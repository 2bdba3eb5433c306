"""Counterfactual, Resample and GaussianNoise: a value of its own for each example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.adapters.plan import Plan
from ablationlens.sites import Tap
from tests import models
from tests.conftest import Host, host_of


def test_a_counterfactual_of_everything_at_one_site_is_activation_patching(gpt2: Host) -> None:
    clean, other = gpt2.inputs(3), gpt2.inputs(3, seed=5)
    data = al.batch(clean)
    model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Counterfactual(data.like(other)))
    got = model.logits(model.mask(off=["L0.head 1"]), data)
    size = models.WIDTH // models.HEADS
    own = models.untied(gpt2.reference)
    seen: dict[str, Tensor] = {}
    handle = own.transformer.h[0].attn.c_proj.register_forward_pre_hook(lambda m, a: seen.update(z=a[0].detach()))
    models.logits_of(own, other)
    handle.remove()

    def patch(module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[..., size : 2 * size] = seen["z"][..., size : 2 * size]
        return (z, *args[1:])

    own.transformer.h[0].attn.c_proj.register_forward_pre_hook(patch)
    assert models.close(got, models.logits_of(own, clean))


def test_counterfactuals_that_do_not_pair_are_refused(gpt2: Host) -> None:
    data = gpt2.data(3)
    for other, match in [
        (gpt2.data(2), "3 expected, got 2"),
        (al.batch(torch.zeros(3, 6, dtype=torch.long)), "7 positions expected, got 6"),
        (al.batch(gpt2.inputs(3), attention_mask=torch.tensor([[1] * 7, [1] * 7, [1] * 6 + [0]])), "same padding"),
    ]:
        model = al.MaskedModel(gpt2.adapter, gpt2.registry("head"), al.Counterfactual(other))
        with pytest.raises(al.InputError, match=match):
            model(torch.ones(1, 8), data)


def bound(ablation: al.Ablation, host: Host, registry: al.Registry, data: al.Batch) -> dict[Tap, Tensor]:
    found = ablation.bind(Plan(host.adapter, registry), data)
    assert found.per_example
    return dict(found.values)


def test_resampled_values_are_those_of_another_example(gpt2: Host) -> None:
    registry, data = gpt2.adapter.registry(["head", "neuron"]), gpt2.data(6)
    model_values = gpt2.adapter.read(data, Plan(gpt2.adapter, registry).taps)
    donors = {}
    for tap, value in bound(al.Resample(seed=1), gpt2, registry, data).items():
        rows = []
        for example in range(6):
            match = [d for d in range(6) if torch.equal(value[example], model_values[tap][d])]
            assert len(match) == 1
            assert match[0] != example  # never itself
            rows.append(match[0])
        donors[tap] = rows
    assert len({tuple(rows) for rows in donors.values()}) > 1  # sites draw by themselves


def test_donors_depend_on_seed_example_and_site_alone(gpt2: Host) -> None:
    registry, pool = gpt2.registry("head"), gpt2.data(10, seed=3)
    many = bound(al.Resample(pool, seed=4), gpt2, registry, gpt2.data(6))
    few = bound(al.Resample(pool, seed=4), gpt2, registry, gpt2.data(6).take([0, 1, 2]))
    more_sites = bound(al.Resample(pool, seed=4), gpt2, gpt2.adapter.registry(["head", "neuron"]), gpt2.data(6))
    other = bound(al.Resample(pool, seed=5), gpt2, registry, gpt2.data(6))
    for tap, value in many.items():
        assert torch.equal(few[tap], value[:3])
        assert models.close(more_sites[tap], value)
    assert any(not torch.equal(other[tap], value) for tap, value in many.items())


def test_every_donor_is_drawn_equally_often() -> None:
    from scipy import stats

    counts = np.zeros(5)
    for seed in range(800):
        counts[al.Resample(seed=seed)._donor("resample:x", 2, 5)] += 1
    assert counts[2] == 0
    assert stats.chisquare(counts[[0, 1, 3, 4]]).pvalue > 1e-4


def test_resampling_refuses_what_it_cannot_pair(gpt2: Host) -> None:
    def run(ablation: al.Ablation, data: al.Batch) -> None:
        al.MaskedModel(gpt2.adapter, gpt2.registry("head"), ablation)(torch.ones(1, 8), data)

    with pytest.raises(al.InputError, match="at least 2 examples"):
        run(al.Resample(), gpt2.data(1))
    with pytest.raises(al.InputError, match="7 positions expected, got 5"):
        run(al.Resample(al.batch(torch.zeros(4, 5, dtype=torch.long))), gpt2.data(3))
    ragged = al.batch(gpt2.inputs(3), attention_mask=torch.tensor([[1] * 7, [1] * 7, [1] * 6 + [0]]))
    with pytest.raises(al.InputError, match="without padding"):
        run(al.Resample(), ragged)
    with pytest.raises(al.InputError, match="same padding"):
        run(al.Resample(gpt2.data(4)), ragged)


def test_noise_has_its_size_and_follows_from_its_address(gpt2: Host) -> None:
    registry, data = gpt2.registry("neuron"), gpt2.data(40)
    clean = gpt2.adapter.read(data, Plan(gpt2.adapter, registry).taps)
    noisy = bound(al.GaussianNoise(0.5, seed=1), gpt2, registry, data)
    relative = bound(al.GaussianNoise(0.5, seed=1, relative=True), gpt2, registry, data)
    few = bound(al.GaussianNoise(0.5, seed=1), gpt2, registry, data.take([0, 1]))
    for tap, value in noisy.items():
        noise = (value - clean[tap]).flatten()
        assert abs(float(noise.std()) - 0.5) < 0.02
        assert abs(float(noise.mean())) < 5 * 0.5 / noise.numel() ** 0.5
        spread = float(clean[tap].std())
        assert models.close((relative[tap] - clean[tap]), (value - clean[tap]) * spread, 1e-4)
        assert models.close(few[tap], value[:2])
        assert not torch.equal(value[0], value[1])
    with pytest.raises(al.InputError, match="sigma"):
        al.GaussianNoise(-1.0)


def test_packed_rows_get_the_replacement_of_their_own_example() -> None:
    """The sweep repeats examples; each keeps its donor and its noise."""
    host = host_of("torch", "mlp")
    registry = host.registry("row")
    for ablation in (al.Counterfactual(host.data(4, seed=8)), al.Resample(seed=2), al.GaussianNoise(1.0)):
        model = al.MaskedModel(host.adapter, registry, ablation, output=al.Logit(1))
        zeros = torch.zeros(6, len(registry))
        single = model(zeros[:1], host.data())
        for rows in (2, 8, 24):
            assert models.close(model.sweep(zeros, host.data(), rows=rows), single.repeat(6, 1))


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), float("inf")])
def test_a_sigma_that_is_no_deviation_is_refused(sigma: float) -> None:
    with pytest.raises(al.InputError, match="standard deviation"):
        al.GaussianNoise(sigma)
