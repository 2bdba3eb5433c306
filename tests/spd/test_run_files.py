"""Which files make a run of goodfire-ai/spd; nothing in one is executed, and damaged ones are refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import ablationlens as al
from tests.spd import runs


def test_the_latest_step_counts_by_number(tmp_path: Path) -> None:
    folder, state = runs.run_of(tmp_path)
    later = {key: value + 1 if key.endswith(".V") else value for key, value in state.items()}
    runs.write(folder, later, runs.config_of(), step=1500)
    (folder / "model_notes.pth").write_bytes(b"")
    found = al.spd.load(folder)
    assert found.provenance["step"] == 1500
    assert torch.equal(found[0, "attn.q"].V, later["_components.h-0-attn-q_proj.V"])
    earlier = al.spd.load(folder / "model_500.pth")
    assert torch.equal(earlier[0, "attn.q"].V, state["_components.h-0-attn-q_proj.V"])


def test_folders_and_files_that_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(al.StoreError, match="model_<step>.pth.*param-decomp"):
        al.spd.load(tmp_path / "empty")
    with pytest.raises(al.StoreError, match="there is no .*model_7.pth"):
        al.spd.load(tmp_path / "model_7.pth")
    folder, _ = runs.run_of(tmp_path / "run")
    (folder / "final_config.yaml").unlink()
    with pytest.raises(al.StoreError, match="there is no final_config.yaml"):
        al.spd.load(folder)
    (folder / "final_config.yaml").write_text("a: [1")
    with pytest.raises(al.StoreError, match="no YAML"):
        al.spd.load(folder)
    (folder / "final_config.yaml").write_text("- a")
    with pytest.raises(al.StoreError, match="a list"):
        al.spd.load(folder)


def test_yaml_and_pickles_make_no_objects(tmp_path: Path) -> None:
    folder, _ = runs.run_of(tmp_path / "run")
    marker = tmp_path / "made"
    (folder / "final_config.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{marker}']")
    with pytest.raises(al.StoreError):
        al.spd.load(folder)
    folder, _ = runs.run_of(tmp_path / "run")

    class Touch:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (folder / "model_500.pth").write_bytes(pickle.dumps(Touch(), protocol=2))
    with pytest.raises(al.StoreError, match="damaged or no checkpoint"):
        al.spd.load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    folder, _ = runs.run_of(tmp_path)
    file = folder / "model_500.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(al.StoreError, match="model_500.pth is damaged"):
        al.spd.load(folder)


def test_something_else_than_a_state_dict_is_refused(tmp_path: Path) -> None:
    folder, _ = runs.run_of(tmp_path)
    torch.save([1, 2], folder / "model_500.pth")
    with pytest.raises(al.StoreError, match="holds a list"):
        al.spd.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda W: W * torch.nan, "layers.0.W holds NaN or infinity"),
        (lambda W: W.int(), "layers.0.W is torch.int32: the weights of a function are of one float type"),
        (lambda W: W.to(torch.complex64), "layers.0.W is torch.complex64"),
        (lambda W: W.to_sparse(), "layers.0.W is a sparse tensor"),
    ],
)
def test_weights_of_an_importance_function_that_are_none(change: Any, message: str, tmp_path: Path) -> None:
    folder, _ = runs.run_of(tmp_path)
    state = torch.load(folder / "model_500.pth", weights_only=True)
    key = "_ci_fns.h-0-attn-q_proj.layers.0.W"
    torch.save({**state, key: change(state[key])}, folder / "model_500.pth")
    with pytest.raises(al.StoreError, match=message):
        al.spd.load(folder)
