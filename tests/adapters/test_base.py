"""What every adapter's registry() does with its options, and the singular parts of a weight."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from ablationlens.adapters.base import singular_parts
from tests import models


def test_given_factors_are_chosen_by_layer_and_module() -> None:
    adapter = al.adapt(models.gpt2())
    factors = {
        (layer, name): (torch.randn(32, 2), torch.randn(2, 32)) for layer in (0, 1) for name in ("attn.o", "attn.q")
    }
    chosen = adapter.registry("rank_one", factors=factors, layers=[1], modules=["o"])
    assert {(part.site.layer, part.site.module) for part in chosen.parts} == {(1, "attn.o")}
    assert len(adapter.registry("rank_one", factors=factors)) == 4 * 3


def test_singular_parts_are_the_best_approximation_of_their_rank() -> None:
    weight = torch.randn(6, 9, dtype=torch.float64)
    parts = singular_parts(weight, 4)
    left, values, right = torch.linalg.svd(weight)
    best = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
    assert torch.allclose((parts.V @ parts.U).T, best, atol=1e-12)
    with pytest.raises(al.InputError, match="1 to 6 parts"):
        singular_parts(weight, 7)


def test_equal_components_are_equal_however_overlap_was_allowed() -> None:
    adapter = al.adapt(models.gpt2())
    first, second = adapter.registry("head"), adapter.registry("head", allow_overlap=True)
    assert first == second and first.fingerprint == second.fingerprint
    with pytest.raises(TypeError):
        first + 3
