"""`adapt` picks the adapter by type, and refuses what it cannot hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.adapters.torch_module import TorchAdapter
from tests import models


def test_the_host_follows_from_the_type() -> None:
    plain = al.adapt(models.gpt2())
    assert type(plain) is TorchAdapter
    lens = al.adapt(models.bridge_of(models.gpt2()))
    assert type(lens).__name__ == "TransformerLensAdapter"
    assert al.adapt(plain) is plain
    assert (plain.describe()["host"], lens.describe()["host"]) == ("torch", "transformer_lens")


@pytest.mark.parametrize("thing", [None, 3, "gpt2", {"model": 1}, nn.Linear])
def test_other_things_are_refused(thing: object) -> None:
    with pytest.raises(al.InputError, match="TransformerBridge, an nnsight model, a Hugging Face model or"):
        al.adapt(thing)


def test_a_compiled_model_is_refused() -> None:
    wrapped = torch.compile(models.mlp())  # nothing is compiled before the first call
    with pytest.raises(al.AdapterError, match="compiled.*_orig_mod"):
        al.adapt(wrapped, example=torch.zeros(1, 10))
    al.adapt(wrapped._orig_mod, example=torch.zeros(1, 10))
    in_place = models.mlp()
    in_place.compile()
    with pytest.raises(al.AdapterError, match="compiled"):
        al.adapt(in_place, example=torch.zeros(1, 10))
    inside = models.mlp()
    inside.middle = torch.compile(inside.middle)
    with pytest.raises(al.AdapterError, match="'middle'.*compiled"):
        al.adapt(inside, example=torch.zeros(1, 10))
    bridge = models.bridge_of(models.gpt2())
    bridge.original_model.compile()
    with pytest.raises(al.AdapterError, match="compiled"):
        al.adapt(bridge)


def test_options_that_the_model_has_no_use_for_are_refused() -> None:
    adapter = al.adapt(models.gpt2())
    own = al.Architecture(layers="transformer.h", modules={"attn.o": "attn.c_proj"})
    with pytest.raises(al.InputError, match="allow_repeated= does not go with this model"):
        al.adapt(adapter, allow_repeated=True)
    with pytest.raises(al.InputError, match="allow_folded= does not go with this model"):
        al.adapt(models.gpt2(), allow_folded=True)
    with pytest.raises(al.InputError, match="architecture= does not go with this model"):
        al.adapt(models.bridge_of(models.gpt2()), architecture=own)
    with pytest.raises(al.InputError, match=r"as \(tracer, edited\)"):
        al.adapt((None, models.gpt2()))


@pytest.mark.parametrize(
    ("first", "example"),
    [
        (nn.Embedding(9, 6), "torch.zeros(1, 4, dtype=torch.long)"),
        (nn.Linear(7, 6), "torch.zeros(1, 7)"),
        (nn.Conv1d(2, 6, 3), "torch.zeros(1, 2, 32)"),
    ],
)
def test_the_example_that_an_error_proposes_is_one_that_runs(first: nn.Module, example: str) -> None:
    model = nn.Sequential(first, nn.Identity() if isinstance(first, nn.Conv1d) else nn.Linear(6, 2))
    with pytest.raises(al.InputError) as told:
        al.adapt(model)
    assert f"example={example})" in str(told.value)
    assert al.adapt(model, example=eval(example)).layout.modules
