"""What a Hugging Face configuration says of heads and positions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ablationlens.adapters.configuration import config_of, first_position, head_size, positions_of
from tests import models
from tests.families import model_of


def test_the_size_of_a_head_is_the_configurations_own_or_worked_out() -> None:
    sizes = SimpleNamespace(hidden_size=32, num_attention_heads=4)
    assert head_size(sizes) == 8
    for given, expected in ((16, 16), (None, 8)):
        assert head_size(SimpleNamespace(**vars(sizes), head_dim=given)) == expected
    assert head_size(SimpleNamespace(**vars(sizes), d_kv=5)) == 5
    assert head_size(SimpleNamespace(hidden_size=32)) is None
    assert head_size(None) is None


@pytest.mark.parametrize(("name", "first"), [("roberta", 1), ("bert", 0), ("gpt2", 0), ("opt", 0)])
def test_positions_are_counted_from_padding_in_roberta_alone(name: str, first: int) -> None:
    model = model_of(name)
    assert (first_position(model) > 0) == bool(first)
    most = config_of(model).max_position_embeddings
    assert positions_of(model) == most - first_position(model)


def test_a_module_without_a_configuration_says_nothing() -> None:
    assert config_of(models.mlp()) is None
    assert positions_of(models.mlp()) is None
