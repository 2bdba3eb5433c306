"""Law 8: the same components on the same model give the same outputs through TransformerLens, nnsight and PyTorch."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import HOSTS, KINDS, Host, host_of, registry_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in models.TRANSFORMERS for kind in KINDS[name]],
    ids=lambda value: str(value).replace(" ", "_"),
)
def test_hosts_agree(name: str, kind: str) -> None:
    plain, *others = (host_of(holder, name) for holder in HOSTS)
    registry = registry_of(plain, kind)
    for other in others:
        theirs = registry_of(other, kind)
        assert registry.names == theirs.names
        # an SVD is of the weights as they are held
        assert registry.to_json() == theirs.to_json() or kind.startswith("svd")
    data = plain.data(6)
    other = al.batch(models.inputs_of(name, 6, seed=9))
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(6, len(registry), generator=generator) < 0.7).float()
    mask[0] = torch.rand(len(registry), generator=generator)  # partial gates too
    changed = 0.0
    for ablation in (al.Zero(include_bias=True), al.Mean(other), al.Resample(seed=2)):
        outputs = [
            al.MaskedModel(held.adapter, registry, ablation).logits(mask, data)  # one registry serves all
            for held in (plain, *others)
        ]
        assert all(models.distance(outputs[0], theirs) < 1e-4 for theirs in outputs[1:]), ablation
        changed = max(changed, models.distance(outputs[0], models.logits_of(plain.reference, plain.inputs(6))))
    assert changed > 1e-2


@pytest.mark.parametrize("name", models.TRANSFORMERS)
def test_layouts_agree(name: str) -> None:
    plain, *others = (host_of(holder, name).adapter.layout for holder in HOSTS)
    assert all(layout == plain for layout in others)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_coar_of_the_same_masks_agrees(name: str) -> None:
    weights = []
    for holder in HOSTS:
        host: Host = host_of(holder, name)
        model = al.MaskedModel(host.adapter, host.registry("head"))
        weights.append(al.coar(model, host.data(3), alpha=0.3, draws=60, seed=4, solver="least_squares").weights.values)
    for others in weights[1:]:
        assert abs(weights[0] - others).max() < 1e-4 * max(1.0, abs(weights[0]).max())
