"""Singular parts as a decomposition, against NumPy's SVD of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import ALL_HOSTS


@pytest.mark.parametrize(("host", "name"), [(host, name) for host, name in ALL_HOSTS if name in models.TRANSFORMERS])
def test_the_parts_are_the_largest_singular_ones(host: str, name: str) -> None:
    reference = models.MODELS[name]()
    adapter = al.adapt(models.held_by(host, reference))
    found = al.spd.svd(adapter, ["q", "mlp.out"], np.int64(3)).requires_grad_(False)
    assert found.places == ((0, "attn.q"), (0, "mlp.out"), (1, "attn.q"), (1, "mlp.out"))
    for where, part in found.items():
        weight, _ = models.part(reference, *where)
        left, values, right = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
        best = (left[:, :3] * values[:3]) @ right[:3]
        np.testing.assert_allclose(part.weight.numpy(), best, atol=1e-5)
        each = [np.linalg.norm(part.U[c]) * np.linalg.norm(part.V[:, c]) for c in range(3)]
        np.testing.assert_allclose(each, values[:3], rtol=1e-5)
        np.testing.assert_allclose(part.V.norm(dim=0), part.U.norm(dim=1), rtol=1e-4)


def test_all_importances_are_one_and_all_parts_leave_nothing() -> None:
    adapter = al.adapt(models.llama())
    found = al.spd.svd(adapter, "attn.o", models.WIDTH, layers=1)
    assert found.places == ((1, "attn.o"),)
    assert found.reconstruction(adapter)["relative"].item() < 1e-6
    data = al.batch(models.inputs_of("llama", 2))
    assert bool((found.importances(adapter, data)[1, "attn.o"] == 1).all())
    assert len(found.registry(adapter)) == models.WIDTH + 1


def test_every_linear_module_by_default() -> None:
    adapter = al.adapt(models.gpt2())
    found = al.spd.svd(adapter, None, 1)
    names = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")
    assert found.places == tuple((layer, name) for layer in range(models.LAYERS) for name in names)
    assert found.provenance["from"] == "svd"
    assert found.provenance["rank"] == 1
    assert found.provenance["model"]["fingerprint"] == adapter.describe()["fingerprint"]


def test_the_weights_own_dtype() -> None:
    found = al.spd.svd(al.adapt(models.llama().bfloat16()), "q", 2)
    assert found[0, "attn.q"].V.dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [0, -1, models.WIDTH + 1, True])
def test_a_rank_that_is_none_is_refused(rank: Any) -> None:
    with pytest.raises(al.InputError, match=f"rank is a whole number from 1 to .*got {rank!r}"):
        al.spd.svd(al.adapt(models.llama()), "q", rank)


def test_modules_and_layers_that_are_none_are_refused() -> None:
    adapter = al.adapt(models.llama())
    with pytest.raises(al.UnknownNameError, match="no module 'z'"):
        al.spd.svd(adapter, "z", 2)
    with pytest.raises(al.UnknownNameError, match="no layer 9"):
        al.spd.svd(adapter, "q", 2, layers=[0, 9])
    with pytest.raises(al.InputError, match="no module to decompose"):
        al.spd.svd(adapter, [], 2)
    convnet = al.adapt(models.convnet(), example=models.inputs_of("convnet", 2))
    convolution = next(m.name for m in convnet.layout.modules if m.operation == "convolution")
    with pytest.raises(al.InputError, match="is a convolution"):
        al.spd.svd(convnet, convolution, 2)
