"""Law 2: hard masks equal edited weights, each batch element against its own edited, untied copy."""

from __future__ import annotations

import pytest
import torch

import ablationlens as al
from tests import models
from tests.conftest import Host


@pytest.mark.parametrize("include_bias", [False, True], ids=["bias_kept", "bias_too"])
def test_each_row_of_a_hard_mask_equals_its_own_edited_copy(
    host_and_kind: tuple[Host, str], include_bias: bool
) -> None:
    host, kind = host_and_kind
    registry = host.registry(kind)
    model = al.MaskedModel(host.adapter, registry, al.Zero(include_bias=include_bias))
    inputs = host.inputs(5)
    generator = torch.Generator().manual_seed(len(registry))
    mask = (
        torch.rand(5, len(registry), generator=generator) < torch.tensor([0.2, 0.5, 0.8, 0.9, 2.0])[:, None]
    ).float()
    mask[3] = 0  # everything of this kind at once
    logits = model.logits(mask, al.batch(inputs))
    for row in range(5):
        off = [registry[int(column)] for column in (mask[row] == 0).nonzero()]
        oracle = models.edited(host.reference, off, include_bias=include_bias)
        expected = models.logits_of(oracle, inputs[row : row + 1])
        assert models.distance(logits[row : row + 1], expected) < 1e-5, (row, len(off))
    plain = models.logits_of(host.reference, inputs)
    assert (
        models.distance(logits[:4], plain[:4]) > 1e-2
    )  # the ablations matter, so the comparison above means something
