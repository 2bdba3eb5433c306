"""Decompositions come back from their files bit for bit; whatever else a file holds is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import ablationlens as al
from ablationlens.spd.functions import ImportanceFunction
from ablationlens.spd.sigmoids import SIGMOIDS
from tests import models


def made(
    kind: str | None = "vector_mlp", hidden: tuple[int, ...] = (3,), dtype: torch.dtype = torch.float32, C: int = 4
) -> al.spd.Decomposition:
    """Two modules of a tiny GPT-2, one of them without an importance function."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = models.WIDTH
        function = None if kind is None else al.spd.importance_function(kind, C, width, hidden)
        parts = {
            (1, "attn.o"): al.spd.Part(torch.randn(width, C), torch.randn(C, width), function),
            (0, "attn.q"): al.spd.Part(torch.randn(width, 2), torch.randn(2, width)),
        }
    decomposition = al.spd.Decomposition(parts, sigmoid="normal", provenance={"history": [{"step": 1, "L0": 2.5}]})
    return decomposition.to(dtype)


KINDS = st.one_of(
    st.just((None, ())),
    st.tuples(st.sampled_from(["mlp", "vector_mlp", "shared_mlp"]), st.tuples(st.integers(1, 4))),
    st.tuples(st.just("shared_mlp"), st.just(())),
    st.tuples(st.sampled_from(["mlp", "vector_mlp"]), st.tuples(st.integers(1, 4), st.integers(1, 4))),
)


@settings(deadline=None, max_examples=40)
@given(
    own=KINDS,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    C=st.integers(1, 12),
    sigmoid=st.sampled_from(sorted(SIGMOIDS)),
)
def test_everything_comes_back(
    tmp_path_factory: pytest.TempPathFactory, own: Any, dtype: torch.dtype, C: int, sigmoid: str
) -> None:
    before = made(*own, dtype=dtype, C=C)
    before = al.spd.Decomposition(dict(before.items()), sigmoid=sigmoid, provenance=before.provenance)
    path = tmp_path_factory.mktemp("saved") / "deep" / "decomposition.safetensors"
    random = torch.random.get_rng_state()
    assert al.spd.save(before, path) == path
    after = al.spd.load(path)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert after.places == before.places
    assert (after.sigmoid, after.provenance) == (sigmoid, before.provenance)
    assert [name for name, _ in after.named_parameters()] == [name for name, _ in before.named_parameters()]
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value)
        assert after.state_dict()[name].dtype == dtype
    for where, part in before.items():
        x = torch.randn(2, 3, models.WIDTH).to(dtype)
        assert torch.equal(after[where].importance(x), part.importance(x))
    assert not any(parameter.requires_grad for parameter in after.parameters())
    assert after.fingerprint == before.fingerprint
    assert after.history.equals(before.history)


def test_nothing_of_the_folder_is_in_the_file(tmp_path: Path) -> None:
    path = al.spd.save(made(), tmp_path / "hidden-name" / "d.safetensors")
    assert b"hidden-name" not in path.read_bytes()


def test_it_fits_the_model_or_is_refused(tmp_path: Path) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    adapter = al.adapt(models.gpt2())
    assert len(al.spd.load(path, adapter).registry(adapter)) == 4 + 1 + 2 + 1
    narrow = al.spd.Decomposition({(0, "attn.q"): al.spd.Part(torch.ones(3, 1), torch.ones(1, 3))})
    with pytest.raises(al.InputError, match="of another model"):
        al.spd.load(al.spd.save(narrow, path), adapter)
    absent = al.spd.Decomposition({(7, "attn.q"): al.spd.Part(torch.ones(3, 1), torch.ones(1, 3))})
    with pytest.raises(al.InputError, match="layer 7"):
        al.spd.load(al.spd.save(absent, path), adapter)


def test_names_and_options_that_belong_to_runs(tmp_path: Path) -> None:
    with pytest.raises(al.InputError, match=r"write d\.safetensors"):
        al.spd.save(made(), tmp_path / "d.pth")
    with pytest.raises(al.InputError, match="skip="):
        al.spd.load(al.spd.save(made(), tmp_path / "d.safetensors"), skip="wte")
    with pytest.raises(al.InputError, match="download final_config.yaml"):
        al.spd.load("wandb:goodfire/spd/runs/abc")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(al.StoreError, match="damaged"):
        al.spd.load(path)


def test_no_file_and_another_file(tmp_path: Path) -> None:
    with pytest.raises(al.StoreError, match="there is no .*al.spd.save.*folder of a run"):
        al.spd.load(tmp_path / "d.safetensors")
    save_file({"a": made()[0, "attn.q"].V.detach().numpy()}, tmp_path / "d.safetensors")
    with pytest.raises(al.StoreError, match="does not hold a decomposition"):
        al.spd.load(tmp_path / "d.safetensors")


def changed(path: Path, arrays: dict[str, Any], **header: Any) -> None:
    with safe_open(path, framework="numpy") as file:
        before = file.metadata()
    save_file(arrays, path, metadata={**before, **{key: json.dumps(value) for key, value in header.items()}})


@pytest.mark.parametrize("name", ["0/V", "0/function.layers.2.b", "1/U"])
def test_an_array_that_is_missing_too_many_or_misshapen_is_refused(tmp_path: Path, name: str) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    arrays = load_file(path)
    for wrong in (
        {key: value for key, value in arrays.items() if key != name},
        {**arrays, f"{name}x": arrays[name]},
        {**arrays, name: arrays[name][:-1]},
    ):
        changed(path, wrong)
        with pytest.raises(al.StoreError, match="damaged"):
            al.spd.load(path)


@pytest.mark.parametrize(
    "header",
    [
        {"places": [[0, "attn.q"]]},
        {"places": 3},
        {"sigmoid": "soft"},
        {"functions": [None, None]},
        {"functions": [{"kind": "big", "hidden": []}, None]},
        {"functions": [{"kind": "mlp", "hidden": [9]}, None]},
        {"functions": [[0], None]},
        {"types": {}},
        {"types": 5},
        {"types": None},
        {"places": [[0, "attn.q"], [0, "attn.q"]]},
        {"places": [[0.5, "attn.q"], [1, "mlp.out"]]},
        {"format": 99},
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    changed(path, load_file(path), **header)
    with pytest.raises(al.StoreError, match="damaged|format 99"):
        al.spd.load(path)


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    whole = path.read_bytes()
    arrays = load_file(path)
    V = arrays["0/V"]
    for wrong, message in [
        ({key: value for key, value in arrays.items() if key != "1/U"}, "the array 1/U is missing"),
        ({**arrays, "9/V": V}, "the array 9/V is one too many"),
        ({**arrays, "0/V": V.ravel()}, "(shapes V|Type-check)"),  # of the tests, which comes first
        ({**arrays, "0/V": V * np.nan}, "V of rank-one components holds NaN"),
        ({**arrays, "0/V": V.astype(np.float64)}, "an array is float64, and the header says float32"),
    ]:
        changed(path, wrong)
        with pytest.raises(al.StoreError, match=f"damaged .*{message}"):
            al.spd.load(path)
        path.write_bytes(whole)
    with safe_open(path, framework="numpy") as file:
        before = file.metadata()
    for key in ("places", "sigmoid", "functions", "types", "provenance"):
        save_file(arrays, path, metadata={name: value for name, value in before.items() if name != key})
        with pytest.raises(al.StoreError, match=f"is damaged: its header lacks {key}"):
            al.spd.load(path)


def test_an_importance_function_of_ones_own_is_in_no_file(tmp_path: Path) -> None:
    class Mine(ImportanceFunction):
        kind = "mlp"
        hidden = (3,)

    own = made()
    own[0, "attn.q"].function = Mine()
    with pytest.raises(al.InputError, match="L0.attn.q has one of your own, Mine"):
        al.spd.save(own, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = al.spd.save(made(), tmp_path / "d.safetensors")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(al.StoreError, match="No space left"):
        al.spd.save(made(C=9), path)
    assert path.read_bytes() == before
    assert [own.name for own in tmp_path.iterdir()] == ["d.safetensors"]
