"""Files: whole or not at all, and nothing but arrays and JSON."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import ablationlens as al
from ablationlens.files import PARTIAL, as_directory, load_arrays, open_atomically, save_arrays, write_atomically


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with open_atomically(path) as file:
        file.write(b"half")
        assert not path.exists()
        assert [one.name for one in tmp_path.iterdir()] == [f"a.bin{PARTIAL}"]
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    with pytest.raises(error), open_atomically(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_cannot_be_renamed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_atomically(tmp_path / "a.bin", b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float64).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
        np.array([np.nan, np.inf, -np.inf], dtype=np.float32),
        np.zeros((0, 4)),
        np.arange(8, dtype=np.uint8)[::2],
    ],
    ids=["float64", "fortran", "not_finite", "empty", "strided"],
)
def test_arrays_come_back_bit_for_bit(tmp_path: Path, array: np.ndarray) -> None:
    header = {"numbers": [1, 2.5], "text": "\u00e4 \u2192", "none": None, "nested": {"a": [True]}, "nan": float("inf")}
    path = save_arrays(tmp_path / "new" / "folder" / "x.safetensors", {"values": array}, header)
    arrays, read = load_arrays(str(path), "something")
    assert read == header
    assert arrays["values"].dtype == array.dtype
    assert np.array_equal(arrays["values"], array, equal_nan=True)


def test_numbers_of_numpy_in_a_header_come_back_as_pythons(tmp_path: Path) -> None:
    header = {"seed": np.int64(3), "nested": {"alpha": np.float32(0.5), "on": np.bool_(True)}}
    _, read = load_arrays(str(save_arrays(tmp_path / "x.safetensors", {}, header)), "something")
    assert read == {"seed": 3, "nested": {"alpha": 0.5, "on": True}}
    with pytest.raises(TypeError, match="object cannot be written"):
        save_arrays(tmp_path / "y.safetensors", {}, {"x": object()})


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(al.StoreError, match=r"no file .*x\.safetensors to read an attribution from.*\.save\("):
        load_arrays(tmp_path / "x.safetensors", "an attribution")
    with pytest.raises(al.StoreError, match="no file"):
        load_arrays(tmp_path, "an attribution")  # a directory


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "pickle", "header", "bfloat16"])
def test_a_damaged_file_is_refused_and_never_unpickled(tmp_path: Path, damage: str) -> None:
    path = save_arrays(tmp_path / "x.safetensors", {"values": np.arange(100.0)}, {"a": 1})
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "garbage":
            path.write_bytes(b"\xff" * 300)
        case "pickle":
            path.write_bytes(pickle.dumps({"values": [1, 2]}))
        case "header":  # tensors of something else, whose header is no JSON
            from safetensors.numpy import save_file

            save_file({"values": np.arange(3.0)}, path, metadata={"format": "pt"})
        case _:  # a model's weights: NumPy has no bfloat16
            import torch
            from safetensors.torch import save_file as save_tensors

            save_tensors({"values": torch.ones(3, dtype=torch.bfloat16)}, path)
    with pytest.raises(al.StoreError, match="does not hold scores, or it is damaged"):
        load_arrays(path, "scores")


def test_a_disk_that_refuses_is_a_store_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    path = save_arrays(tmp_path / "x.safetensors", {"values": np.zeros(3)}, {})

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(al.StoreError, match=r"x\.safetensors cannot be written.*No space left"):
            save_arrays(path, {"values": np.ones(3)}, {})
    assert np.array_equal(load_arrays(path, "zeros")[0]["values"], np.zeros(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(al.StoreError, match="cannot be written"):
        save_arrays(tmp_path / "file" / "x.safetensors", {"values": np.zeros(3)}, {})


@pytest.mark.parametrize("given", [5, True, ["runs"], b"runs", "", None])
def test_what_is_no_path_is_no_directory(given: object) -> None:
    with pytest.raises(al.InputError, match="a store is a directory, by its path, such as 'runs/first'; got"):
        as_directory(given, "a store", "runs/first")
    for path in ("runs", Path("runs")):
        assert as_directory(path, "a store", "runs/first") == Path("runs")
