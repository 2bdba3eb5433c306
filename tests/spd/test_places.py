"""Where the modules of a run are in a model: by its own paths, or by the families of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ablationlens as al
from ablationlens.spd.places import places_of
from tests import models
from tests.conftest import HOSTS
from tests.spd import runs
from tests.spd.runs import LOGICAL, toy_run


class Dashed(nn.Module):
    """A model of one's own, whose modules have names with dashes."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.ModuleDict({"c-d": nn.Linear(6, 6)}) if name == "a-b" else nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.children():
            x = module["c-d"](x) if isinstance(module, nn.ModuleDict) else torch.relu(module(x))
        return x


def test_places_come_in_the_order_of_the_model() -> None:
    """Checkpoints sort their names as text, in which 10 comes before 2."""
    paths = [f"h.{layer}.attn.{name}_proj" for layer in (10, 2) for name in "koqv"] + ["h.2.attn.c_attn", "h.2.mlp"]
    names = ["attn.qkv", "attn.q", "attn.k", "attn.v", "attn.o"]
    expected = [(2, name) for name in names] + [(10, name) for name in names[1:]]
    assert list(places_of(sorted(paths)).values()) == expected
    own = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (1, 0) for name in "koqv"]
    found = places_of(own, al.adapt(models.llama()))
    assert list(found.values()) == [(layer, name) for layer in (0, 1) for name in names[1:]]


def test_names_with_dashes_are_resolved_against_the_model(tmp_path: Path) -> None:
    model = Dashed("a-b", "e", "f-g")
    adapter = al.adapt(model, example=torch.randn(2, 6))
    found = al.spd.load(toy_run(tmp_path, model, {"f-g": 3, "a-b.c-d": 4, "e": 2}), adapter)
    assert found.places == ((0, "a-b.c-d"), (1, "e"), (2, "f-g"))
    assert [part.components for _, part in found.items()] == [4, 2, 3]
    assert found.provenance["paths"] == {"L0.a-b.c-d": "a-b.c-d", "L1.e": "e", "L2.f-g": "f-g"}
    with pytest.raises(al.InputError, match="no family of models"):
        al.spd.load(tmp_path)


def test_a_name_that_could_be_two_modules_is_refused(tmp_path: Path) -> None:
    model = Dashed("a-b", "a-b-c-d")
    with pytest.raises(al.StoreError, match=r"could be of a-b-c-d or a-b\.c-d"):
        al.spd.load(toy_run(tmp_path, model, {"a-b.c-d": 4}))


def test_the_models_own_module_in_plain_pytorch(tmp_path: Path) -> None:
    """By the paths of an architecture of the user's own, and without one, by rank."""
    folder, _ = runs.run_of(tmp_path)
    architecture = al.Architecture(
        layers="h",
        modules={"attn.q": "attn.q_proj", "attn.v": "attn.v_proj", "attn.o": "attn.o_proj", "mlp.out": "mlp.down_proj"},
        head_size=4,
    )
    adapter = al.adapt(runs.llama_simple(), example=runs.tokens(), architecture=architecture)
    assert al.spd.load(folder, adapter).places == tuple(LOGICAL.values())
    by_path = al.spd.load(folder, al.adapt(runs.llama_simple(), example=runs.tokens()))
    assert set(by_path.provenance["paths"].values()) == set(LOGICAL)
    assert all(module in LOGICAL for _, module in by_path.places)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_hugging_face_model_on_every_host(tmp_path: Path, host: str, name: str) -> None:
    model = models.MODELS[name]()
    path = {"gpt2": "transformer.h.{}.mlp.c_proj", "llama": "model.layers.{}.mlp.down_proj"}[name]
    target = model.state_dict()
    counts = {path.format(layer): 3 + layer for layer in range(models.LAYERS)}
    parts = runs.random_parts(target, counts, "mlp", transposed=name == "gpt2")
    config = runs.config_of("mlp", patterns=list(counts.items()))
    runs.write(tmp_path, runs.whole_state(target, parts), config)
    adapter = al.adapt(models.held_by(host, model))
    found = al.spd.load(tmp_path, adapter)
    assert found.places == tuple((layer, "mlp.out") for layer in range(models.LAYERS))
    assert found.fingerprint == al.spd.load(tmp_path).fingerprint
    assert len(found.registry(adapter)) == sum(C + 1 for C in counts.values())
