"""The store: whole blocks or none, of one run only."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.counterfactuals import Counterfactuals, record
from ablationlens.counterfactuals.store import Settings, Store
from tests.conftest import host_of

SETTINGS = Settings(4, 2, 3, 1)
IDENTITY = {"model": {"fingerprint": "a" * 64}, "masks": {"seed": 1}}


def outputs(seed: int, draws: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((draws, 3)).astype(np.float32)


def run(store: Path | None, draws: int = 50, seed: int = 0, rows: int | None = 8) -> Counterfactuals:
    host = host_of("torch", "mlp")
    model = al.MaskedModel(host.adapter, host.registry("row"), output=al.Logit(1))
    return record(model, host.data(3), al.Bernoulli(len(model.registry), 0.2, draws, seed), store=store, rows=rows)


def blocks(path: Path) -> list[Path]:
    return sorted((path / "blocks").iterdir())


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b", IDENTITY, SETTINGS, {"packages": {"x": "1"}})
    assert not store.resumed
    assert store.read(0, 4, 3) is None
    store.write(0, outputs(0))
    store.write(7, outputs(7))
    again = Store(tmp_path / "a" / "b", IDENTITY, Settings(9, 9, 9, 9), {"packages": {"x": "2"}})
    assert again.resumed
    assert again.settings == SETTINGS  # its own, whatever is asked
    assert again.record == {"packages": {"x": "1"}}
    for block in (0, 7):
        read = again.read(block, 4, 3)
        assert read is not None
        assert np.array_equal(read, outputs(block))
    assert np.array_equal(again.read(0, 2, 3), outputs(0)[:2])  # type: ignore[arg-type]
    assert again.read(0, 5, 3) is None  # done for fewer draws


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY, SETTINGS)
    written = outputs(0)
    written[1] = [np.nan, np.inf, -np.inf]
    store.write(0, written)
    assert np.array_equal(store.read(0, 4, 3), written, equal_nan=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "garbage", "pickle", "other_array"])
def test_a_damaged_block_is_named_and_nothing_is_unpickled(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path, IDENTITY, SETTINGS)
    store.write(0, outputs(0))
    path = store.block_path(0)
    content = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            at = content.index(b"NUMPY") + 100  # among the numbers
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        case "garbage":
            path.write_bytes(b"\0" * 500)
        case "pickle":
            np.savez(path.open("wb"), outputs=np.array([{"evil": 1}], dtype=object))
        case _:
            np.savez(path.open("wb"), outputs=np.zeros((4, 2), np.float32))
    with pytest.raises(al.StoreError, match=r"000000\.npz.*delete that file"):
        store.read(0, 4, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"format": 1}',
        '{"format": 99, "identity": {}, "settings": {}}',
        "\xff\xfe",
        '{"format": 1, "identity": 3, "record": {}, "settings": '
        '{"block": 1, "draws_per_pass": 1, "examples_per_pass": 1, "threads": 1}}',
        '{"format": 1, "identity": {}, "settings": {"blocks": 1}, "record": {}}',
    ],
)
def test_a_garbled_run_json_is_refused(tmp_path: Path, text: str) -> None:
    Store(tmp_path, IDENTITY, SETTINGS)
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(al.StoreError):
        Store(tmp_path, IDENTITY, SETTINGS)
    assert (tmp_path / "run.json").read_bytes() == text.encode("latin-1")


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY, SETTINGS)
    other = {**IDENTITY, "masks": {"seed": 2}}
    with pytest.raises(al.StoreError, match=r"another run: masks\.seed is 1 in the store and 2 now"):
        Store(tmp_path, other, SETTINGS)
    with pytest.raises(al.StoreError, match=r"extra is null in the store"):
        Store(tmp_path, {**IDENTITY, "extra": "thing"}, SETTINGS)
    with pytest.raises(al.StoreError, match=r"and 2 more"):
        Store(tmp_path, {**IDENTITY, **dict.fromkeys("abcdef", 1)}, SETTINGS)


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(al.StoreError, match="holds no run"):
        Store(tmp_path, IDENTITY, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    empty = tmp_path / "empty"
    empty.mkdir()
    Store(empty, IDENTITY, SETTINGS)


@pytest.mark.parametrize("stage", ["directory", "blocks", "partial"])
def test_a_run_killed_while_its_store_was_made_starts_again(tmp_path: Path, stage: str) -> None:
    store = tmp_path / "run"
    store.mkdir()
    if stage in ("blocks", "partial"):
        (store / "blocks").mkdir()
    if stage == "partial":
        (store / "run.json.partial").write_text('{"form')
    assert np.array_equal(run(store).outputs, run(None).outputs)


def test_a_left_over_partial_block_is_removed(tmp_path: Path) -> None:
    whole = run(tmp_path / "run")
    last = blocks(tmp_path / "run")[-1]
    last.unlink()
    left_over = last.with_name(last.name + ".partial")
    left_over.write_bytes(b"half of it")
    assert np.array_equal(run(tmp_path / "run").outputs, whole.outputs)
    assert not left_over.exists()
    assert last.exists()


class FullDisk:
    """Writes `room` blocks, then the disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, number: int = errno.ENOSPC) -> None:
        self.written = 0
        plain = os.fsync

        def fsync(file: int) -> None:
            self.written += 1
            if self.written > room:
                raise OSError(number, os.strerror(number))
            plain(file)

        monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_stops_the_run_and_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(None)
    with monkeypatch.context() as full:
        FullDisk(full, room=6)  # run.json and five blocks
        with pytest.raises(al.StoreError, match="the disk is full.*kept"):
            run(tmp_path / "run")
    assert [path.name for path in blocks(tmp_path / "run")] == [f"{number:06d}.npz" for number in range(5)]
    before = blocks(tmp_path / "run")[0].stat().st_mtime_ns
    assert np.array_equal(run(tmp_path / "run").outputs, whole.outputs)
    assert blocks(tmp_path / "run")[0].stat().st_mtime_ns == before  # not computed again


def test_a_disk_that_refuses_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as readonly:
        FullDisk(readonly, room=0, number=errno.EROFS)
        with pytest.raises(al.StoreError, match="cannot be written.*[Rr]ead-only"):
            run(tmp_path / "run")
    assert np.array_equal(run(tmp_path / "run").outputs, run(None).outputs)
    (tmp_path / "file").write_text("")
    with pytest.raises(al.StoreError, match="cannot be written"):
        run(tmp_path / "file" / "run")


def test_run_json_says_what_was_run(tmp_path: Path) -> None:
    run(tmp_path)
    data: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())
    assert data["identity"]["masks"] == {
        "design": "bernoulli",
        "alpha": 0.2,
        "seed": 0,
        "stream": "fit",
        "components": 33,
    }
    assert set(data["identity"]) == {"model", "registry", "ablation", "output", "data", "masks"}
    assert {"dtype", "device", "fingerprint"} <= set(data["identity"]["model"])
    assert data["record"]["packages"]["torch"]
    assert data["settings"]["threads"] >= 1


def test_repack_is_noted_and_keeps_everything_else(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY, SETTINGS, {"packages": {"x": "1"}})
    store.write(0, outputs(0))
    before = json.loads((tmp_path / "run.json").read_text())
    changed = store.repack(1, 2)
    assert changed == store.settings == Settings(4, 1, 2, 1)  # block and threads stay
    after = json.loads((tmp_path / "run.json").read_text())
    assert after.pop("settings") == vars(changed)
    before.pop("settings")
    assert after == before
    again = Store(tmp_path, IDENTITY, SETTINGS)
    assert again.settings == changed
    assert np.array_equal(again.read(0, 4, 3), outputs(0))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.partial"))
