"""Law 8 for every family: the same masks through TransformerLens, nnsight and plain PyTorch give the same outputs."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import nnsight
import pytest
import torch

import ablationlens as al
from tests import models
from tests.adapters.test_transformer_lens_families import NOT_HELD
from tests.families import FAMILIES, model_of, run

MASKS = 20
"""Random masks of each kind; `benchmarks/parity.py` has 200."""
HOLDERS = {"transformer_lens": models.bridge_of, "nnsight": lambda model: nnsight.NNsight(copy.deepcopy(model))}
PAIRS = [(host, name) for host in HOLDERS for name in FAMILIES if host == "nnsight" or name not in NOT_HELD]


@cache
def held(host: str, name: str) -> al.Adapter:
    model: Any = model_of(name)
    return al.adapt(HOLDERS[host](model) if host in HOLDERS else copy.deepcopy(model))


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_layouts_agree(host: str, name: str) -> None:
    plain, other = held("torch", name), held(host, name)
    assert other.layout == plain.layout
    assert (other.context, other.vocabulary) == (plain.context, plain.vocabulary)


@pytest.mark.parametrize("kind", ["head", "row", "column"])
@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_hosts_agree(host: str, name: str, kind: str) -> None:
    plain, other = held("torch", name), held(host, name)
    registry = plain.registry(kind)
    theirs = other.registry(kind)
    assert theirs.names == registry.names
    assert theirs.to_json() == registry.to_json()
    inputs = FAMILIES[name].batch(MASKS)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(MASKS, len(registry), generator=generator) < 0.8).float()
    mask[0] = torch.rand(len(registry), generator=generator)  # partial gates too
    data, reference = al.batch(inputs), al.batch(FAMILIES[name].batch(5, seed=7))
    for ablation in (al.Zero(include_bias=True), al.Mean(reference)):
        ours, got = (al.MaskedModel(adapter, registry, ablation).logits(mask, data) for adapter in (plain, other))
        assert models.distance(got, ours) < 1e-4, ablation
        assert models.distance(ours, run(model_of(name), inputs)) > 1e-2
