"""Bases in JSON: known again by their fingerprint, and missed where they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from tests import own_sites
from tests.conftest import host_of


def stored(**options: Any) -> tuple[al.Registry, str]:
    registry = host_of("torch", "gpt2").adapter.registry(["head", own_sites.latents("gpt2", **options)])
    return registry, registry.to_json()


@pytest.mark.parametrize("name", ["sae", "L0.sae"])
def test_a_registry_comes_back_with_its_basis(name: str) -> None:
    registry, text = stored()
    again = al.Registry.from_json(text, bases={name: own_sites.autoencoder()})
    assert again == registry
    assert again.names == registry.names
    adapter, data = host_of("torch", "gpt2").adapter, host_of("torch", "gpt2").data()
    mask = own_sites.masks(4, len(registry))
    one, other = (al.MaskedModel(adapter, each).logits(mask, data) for each in (registry, again))
    assert torch.equal(one, other)


def test_json_keeps_no_numbers_of_a_basis() -> None:
    _, text = stored()
    assert len(text) < 3000
    assert '"components": 20' in text
    assert own_sites.autoencoder().fingerprint in text


def test_each_layer_may_have_a_basis_of_its_own() -> None:
    sites = [own_sites.latents("gpt2", layer, basis=own_sites.autoencoder(layer)) for layer in (0, 1)]
    registry = host_of("torch", "gpt2").adapter.registry(sites)
    given = {"L0.sae": own_sites.autoencoder(0), "L1.sae": own_sites.autoencoder(1)}
    assert al.Registry.from_json(registry.to_json(), bases=given) == registry
    with pytest.raises(al.InputError, match=r"basis of L1\.sae is another one"):
        al.Registry.from_json(registry.to_json(), bases={"sae": own_sites.autoencoder(0)})


@pytest.mark.parametrize(
    ("bases", "match"),
    [
        (None, r"L0\.sae.*Dictionary of 20 components.*bases=\{'L0\.sae': basis\}"),
        ({}, r"bases=\{'L0\.sae': basis\}"),
        ({"other": own_sites.autoencoder()}, r"bases=\{'L0\.sae': basis\}"),
        ({"sae": own_sites.autoencoder(1)}, "another one than the registry was made with"),
        ({"sae": own_sites.autoencoder(k=3)}, "another one than the registry was made with"),
        ({"sae": al.Dictionary(torch.zeros(16, 20), torch.zeros(20, 16))}, "has width 32 .*the one given has width 16"),
        ({"sae": al.Dictionary(torch.zeros(32, 9), torch.zeros(9, 32))}, "20 components; the one given .*9 components"),
    ],
)
def test_a_basis_that_is_missing_or_another_one(bases: Any, match: str) -> None:
    _, text = stored()
    with pytest.raises(al.InputError, match=match):
        al.Registry.from_json(text, bases=bases)


def test_without_its_basis_a_registry_has_names_and_tables_and_cannot_run() -> None:
    registry, text = stored()
    absent = al.Registry.from_json(text, allow_absent=True)
    assert absent == registry
    assert absent.to_json() == text
    assert absent.frame().equals(registry.frame())
    explained = al.explain(absent[absent.column("L0.sae 3")], host_of("torch", "gpt2").adapter)
    assert explained["what"].startswith("code 3 of a Dictionary")
    assert explained["basis"] == "Dictionary of 20 components, not stored with its registry"
    with pytest.raises(al.InputError, match=r"the basis of L0\.sae.*was not stored.*from_json\(text, bases="):
        al.MaskedModel(host_of("torch", "gpt2").adapter, absent)


def test_an_attribution_is_loaded_without_the_basis(tmp_path: Path) -> None:
    host = host_of("torch", "gpt2")
    registry, _ = stored()
    model = al.MaskedModel(host.adapter, registry)
    found = al.coar(model, host.data(2), alpha=0.2, draws=40, solver="ridge")
    loaded = al.Attribution.load(found.save(tmp_path / "found.safetensors"))
    assert loaded.registry == registry
    assert loaded.table().equals(found.table())
    assert al.plots.layers(loaded) is not None
    al.evaluate(model, host.data(2), {"COAR": loaded}, alphas=[0.2], draws=10)  # the model brings the basis
