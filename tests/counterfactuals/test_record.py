"""The loop over draws."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import ablationlens as al
from ablationlens.counterfactuals import record
from ablationlens.counterfactuals.record import threads
from tests.conftest import Host, host_of
from tests.passes import before_each_pass


def model_of(host: Host, output: al.Output | None = None) -> al.MaskedModel:
    return al.MaskedModel(host.adapter, host.registry("row"), output=output or al.Logit(1))


def test_outputs_are_those_of_the_sweep(small: Host) -> None:
    model, data = model_of(small), small.data(3)
    design = al.Bernoulli(len(model.registry), 0.3, 40, seed=2)
    found = record(model, data, design)
    assert found.outputs.dtype == np.float32
    assert np.abs(found.outputs - model.sweep(design, data).numpy()).max() < 1e-5
    assert np.array_equal(found.masks(), design.masks(0, 40))
    assert found.provenance["masks"]["draws"] == 40
    assert found.provenance["packages"]["torch"]


@pytest.mark.parametrize(("first", "second"), [(20, 50), (50, 20), (7, 400)])
def test_a_store_can_be_extended(small: Host, tmp_path: Path, first: int, second: int) -> None:
    model, data = model_of(small), small.data(3)
    width = len(model.registry)
    for draws in (first, second, max(first, second)):
        found = record(model, data, al.Bernoulli(width, 0.3, draws), store=tmp_path, rows=6)
        expected = record(model, data, al.Bernoulli(width, 0.3, draws), rows=6)
        assert np.array_equal(found.outputs, expected.outputs)


def test_a_resumed_run_uses_the_packing_and_threads_that_it_began_with(
    small: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = model_of(small), small.data(3)
    design = al.Bernoulli(len(model.registry), 0.3, 30)
    first = record(model, data, design, store=tmp_path, rows=6)
    (tmp_path / "blocks" / "000003.npz").unlink()
    sizes: list[int] = []
    counts: list[int] = []

    def spy(batch: al.Batch) -> None:
        sizes.append(len(batch))
        counts.append(torch.get_num_threads())

    before_each_pass(small.adapter, monkeypatch, spy)
    with threads(3):
        again = record(model, data, design, store=tmp_path, rows=24)
        assert torch.get_num_threads() == 3
    assert set(sizes) == {6}
    assert set(counts) == {first.provenance["threads"]}
    assert again.provenance["packing"] == first.provenance["packing"] == {"draws": 2, "examples": 3}
    assert np.array_equal(again.outputs, first.outputs)


def test_only_what_is_missing_is_computed(small: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = model_of(small), small.data(3)
    design = al.Bernoulli(len(model.registry), 0.3, 30)
    record(model, data, design, store=tmp_path, rows=6)
    (tmp_path / "blocks" / "000000.npz").unlink()
    (tmp_path / "blocks" / "000009.npz").unlink()
    calls: list[int] = []
    before_each_pass(small.adapter, monkeypatch, lambda batch: calls.append(1))
    record(model, data, design, store=tmp_path, rows=6)
    assert len(calls) == 2
    record(model, data, design, store=tmp_path, rows=6)
    assert len(calls) == 2


def test_other_versions_of_packages_are_warned_of(
    small: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, data = model_of(small), small.data(3)
    design = al.Bernoulli(len(model.registry), 0.3, 10)
    record(model, data, design, store=tmp_path)
    run = tmp_path / "run.json"
    version = torch.__version__
    run.write_text(run.read_text().replace(f'"torch": "{version}"', '"torch": "0.1"'))
    with caplog.at_level(logging.WARNING, logger="ablationlens"):
        record(model, data, design, store=tmp_path)
    assert f"torch 0.1 -> {version}" in caplog.text


class OutOfMemoryOnce:
    """Lets one pass of a run, the `at`-th, not fit into memory; `sizes` are the rows of every pass."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.sizes: list[int] = []
        self.at = at
        before_each_pass(host.adapter, monkeypatch, self.note)

    def note(self, batch: al.Batch) -> None:
        self.sizes.append(len(batch))
        if len(self.sizes) == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_did_not_fit_resumes_with_the_packing_that_did(
    small: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Rows sum in another order in another packing, so bitwise equality needs the packing of each block."""
    model, data = model_of(small), small.data(3)
    design = al.Bernoulli(len(model.registry), 0.3, 48)
    with monkeypatch.context() as patch:
        memory = OutOfMemoryOnce(small, patch, at)
        whole = record(model, data, design, store=tmp_path, rows=24)
    assert memory.sizes == [24] * at + [12] * ((48 - 8 * (at - 1)) // 4)
    assert whole.provenance["packing"] == {"draws": 4, "examples": 3}
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert (settings["block"], settings["draws_per_pass"], settings["examples_per_pass"]) == (8, 4, 3)
    numbers = range(at - 1, 6)  # blocks made with the halved packing
    for number in numbers:
        (tmp_path / "blocks" / f"{number:06d}.npz").unlink()
    with monkeypatch.context() as patch:
        again_sizes = OutOfMemoryOnce(small, patch, -1).sizes
        again = record(model, data, design, store=tmp_path, rows=24)
    assert again_sizes == [12] * (2 * len(numbers))
    assert np.array_equal(again.outputs, whole.outputs)
    assert again.provenance["packing"] == whole.provenance["packing"]


def test_replacements_are_computed_with_the_threads_of_the_run(small: Host, tmp_path: Path) -> None:
    counts: list[int] = []

    class Noted(al.Zero):
        def bind(self, plan: object, data: al.Batch) -> object:  # type: ignore[override]
            counts.append(torch.get_num_threads())
            return al.Zero.bind(self, plan, data)  # type: ignore[arg-type]

    data, registry = small.data(3), small.registry("row")
    design = al.Bernoulli(len(registry), 0.3, 10)
    for count in (1, 2):
        model = al.MaskedModel(small.adapter, registry, Noted(), al.Logit(1))
        with threads(count):
            record(model, data, design, store=tmp_path)
    assert counts[-1] == 1  # what the resumed run used


def test_threads_come_back_after_an_exception() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="on purpose"), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("on purpose")
    assert torch.get_num_threads() == before


def test_callables_are_part_of_the_identity(small: Host, tmp_path: Path) -> None:
    def run(output: object) -> None:
        model = al.MaskedModel(small.adapter, small.registry("row"), output=output)  # type: ignore[arg-type]
        record(model, small.data(3), al.Bernoulli(len(model.registry), 0.3, 10), store=tmp_path)

    run(lambda logits: logits[:, 0])
    run(lambda logits: logits[:, 0])
    with pytest.raises(al.StoreError, match="output"):
        run(lambda logits: logits[:, 1])


def test_a_bridge_and_a_plain_model_do_not_share_a_store(tmp_path: Path) -> None:
    for host in (host_of("torch", "gpt2"), host_of("transformer_lens", "gpt2")):
        model = al.MaskedModel(host.adapter, host.registry("head"))
        if host.host == "torch":
            record(model, host.data(2), al.Bernoulli(8, 0.3, 5), store=tmp_path)
        else:
            with pytest.raises(al.StoreError, match="host"):
                record(model, host.data(2), al.Bernoulli(8, 0.3, 5), store=tmp_path)


def test_a_store_is_a_path(small: Host) -> None:
    design = al.Bernoulli(len(small.adapter.registry("row")), 0.2, 3)
    with pytest.raises((al.InputError, TypeError), match="a store is a directory|type"):
        record(model_of(small), small.data(2), design, store=5)  # type: ignore[arg-type]
    with pytest.raises((al.InputError, TypeError), match="a store is a directory|type"):
        al.leave_one_out(model_of(small), small.data(2), store=["runs"])  # type: ignore[arg-type]
