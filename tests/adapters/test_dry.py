"""The dry forward: what fires, in which order, of which shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ablationlens.adapters.dry import firings_of
from tests import models


def test_inputs_and_outputs_are_ranked_as_they_come() -> None:
    inner = nn.Linear(4, 5)
    outer = nn.Sequential(inner, nn.ReLU())
    found = firings_of(outer, lambda: outer(torch.zeros(2, 4)))
    order = [(outer, "in"), (inner, "in"), (inner, "out"), (outer[1], "in"), (outer[1], "out"), (outer, "out")]
    assert sorted(found, key=lambda key: found[key].ranks) == order
    assert [found[key].shape for key in order] == [(2, 4), (2, 4), (2, 5), (2, 5), (2, 5), (2, 5)]


def test_every_call_has_its_rank_and_modules_that_do_not_run_have_none() -> None:
    model = models.twice()
    model.never = nn.Linear(2, 2)
    found = firings_of(model, lambda: model(torch.zeros(1, 6)))
    assert len(found[model.twice, "out"].ranks) == 2
    assert len(found[model.once, "out"].ranks) == 1
    assert (model.never, "out") not in found


def test_tokens_are_no_activation() -> None:
    model = models.gpt2()
    found = firings_of(model, lambda: model(torch.zeros(1, 3, dtype=torch.long)))
    assert found[model.transformer.wte, "in"].shape is None
    assert found[model.transformer.wte, "out"].shape == (1, 3, models.WIDTH)


def test_no_hook_is_left_though_the_model_raises() -> None:
    model = models.mlp()
    with pytest.raises(RuntimeError, match="shapes"):
        firings_of(model, lambda: model(torch.zeros(1, 3)))
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
