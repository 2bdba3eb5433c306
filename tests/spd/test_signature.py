"""A decomposition knows the weights it was made of: the same model in any host is the same, another one is not."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ablationlens as al
from ablationlens.spd.signature import ROWS, TOLERANCE, distance, signature
from tests import models
from tests.conftest import HOSTS, host_of
from tests.spd import runs

WORDS = "do not have the weights"


def made(adapter: al.Adapter) -> al.spd.Decomposition:
    return al.spd.svd(adapter, ["q", "o", "mlp.in"], 3)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if WORDS in record.getMessage()]


@given(seed=st.integers(0, 10_000), out=st.integers(1, 40), into=st.integers(1, 40), scale=st.floats(1e-4, 10))
def test_the_distance_is_about_that_of_the_matrices(seed: int, out: int, into: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, into, generator=generator)
    change = scale * torch.randn(out, into, generator=generator)
    found = distance(weight + change, signature(weight))
    true = float(torch.linalg.norm(change) / torch.linalg.norm(weight + change))
    assert found < 10 * true  # four numbers of about normal size say no more
    assert distance(weight, signature(weight)) == 0


def test_on_average_the_distance_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    squares: list[float] = []
    for _ in range(40):
        weight, change = torch.randn(2, 30, 20, generator=generator)
        true = float(torch.linalg.norm(change) / torch.linalg.norm(weight + change))
        squares.append((distance(weight + change, signature(weight)) / true) ** 2)
    assert sum(squares) / len(squares) == pytest.approx(1, abs=0.3)


def test_tall_matrices_are_read_in_parts() -> None:
    weight = torch.randn(ROWS + 3, 5, generator=torch.Generator().manual_seed(0))
    changed = weight.clone()
    changed[-1] += 100  # in the last part
    assert distance(changed, signature(weight)) > TOLERANCE


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_no_host_of_the_model_is_another_model(host: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    decomposition = made(host_of("torch", name).adapter)
    adapter = host_of(host, name).adapter
    decomposition.registry(adapter)
    assert not said(caplog)


@pytest.mark.parametrize("host", HOSTS)
def test_another_model_is_named_once(host: str, caplog: pytest.LogCaptureFixture) -> None:
    decomposition = made(host_of("torch", "gpt2").adapter)
    other = al.adapt(models.held_by(host, models.gpt2(seed=1)))
    decomposition.registry(other)
    decomposition.reconstruction(other)
    (words,) = said(caplog)
    assert words.startswith("6 of 6 modules do not have the weights that this decomposition was made of")
    again = al.adapt(models.held_by(host, models.gpt2(seed=2)))
    decomposition.registry(again)
    assert len(said(caplog)) == 2


def test_one_edited_matrix_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = models.gpt2()
    decomposition = made(al.adapt(copy.deepcopy(model)))
    with torch.no_grad():
        model.transformer.h[1].attn.c_proj.weight *= 1.5
    decomposition.registry(al.adapt(model))
    (words,) = said(caplog)
    assert words.startswith("1 of 6 modules") and "L1.attn.o" in words


@pytest.mark.parametrize("most", [0, 1])
def test_the_matrix_that_is_off_the_most_is_named(most: int, caplog: pytest.LogCaptureFixture) -> None:
    model = models.gpt2()
    decomposition = made(al.adapt(copy.deepcopy(model)))
    with torch.no_grad():
        model.transformer.h[most].attn.c_proj.weight *= 5
        model.transformer.h[1 - most].attn.c_proj.weight *= 1.2
    decomposition.registry(al.adapt(model))
    (words,) = said(caplog)
    assert words.startswith("2 of 6 modules") and f"(L{most}.attn.o is off by about" in words


def test_weights_that_are_no_numbers_are_other_ones(caplog: pytest.LogCaptureFixture) -> None:
    model = models.gpt2()
    decomposition = made(al.adapt(copy.deepcopy(model)))
    with torch.no_grad():
        model.transformer.h[1].attn.c_proj.weight[0, 0] = torch.nan
    decomposition.registry(al.adapt(model))
    (words,) = said(caplog)
    assert words.startswith("1 of 6 modules") and "(L1.attn.o is off by about nan%" in words


def test_less_precision_is_no_other_model(caplog: pytest.LogCaptureFixture) -> None:
    model = models.gpt2()
    decomposition = made(al.adapt(model))
    decomposition.registry(al.adapt(copy.deepcopy(model).to(torch.bfloat16)))
    assert not said(caplog)


def test_components_of_ones_own_are_of_any_model(caplog: pytest.LogCaptureFixture) -> None:
    adapter = host_of("torch", "gpt2").adapter
    own = al.spd.Decomposition({(0, "attn.q"): al.spd.Part(torch.randn(32, 2), torch.randn(2, 32))})
    own.registry(adapter)
    assert not said(caplog)
    own.made_of(adapter).registry(al.adapt(models.gpt2(seed=1)))
    assert len(said(caplog)) == 1


def test_files_keep_what_it_was_made_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    decomposition = made(host_of("torch", "gpt2").adapter)
    loaded = al.spd.load(al.spd.save(decomposition, tmp_path / "one.safetensors"))
    assert loaded.provenance == decomposition.provenance
    loaded.registry(al.adapt(models.gpt2(seed=1)))
    assert len(said(caplog)) == 1


def test_a_training_and_a_run_keep_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    host = host_of("torch", "gpt2")
    trained = al.spd.train(host.adapter, ["q"], 2, host.data(4), steps=1, warmup=1, show_bar=False)
    trained.registry(al.adapt(models.gpt2(seed=1)))
    assert len(said(caplog)) == 1
    folder, _ = runs.run_of(tmp_path)
    target = al.spd.load_target(folder)
    run = al.spd.load(folder, al.adapt(target))
    other = copy.deepcopy(target)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    run.registry(al.adapt(other))
    assert len(said(caplog)) == 2


def test_the_bundled_decomposition_is_of_the_bundled_model(caplog: pytest.LogCaptureFixture) -> None:
    decomposition = al.spd.bundled()
    assert set(decomposition.provenance["weights"]) == {f"L{layer}.attn.{m}" for layer in (0, 1) for m in "qkvo"}
    with caplog.at_level(logging.INFO, logger="ablationlens"):
        decomposition.registry(al.adapt(al.zoo.load("induction").model))
    assert not said(caplog)
