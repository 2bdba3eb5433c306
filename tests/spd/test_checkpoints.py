"""Checkpoints: a training that was stopped and goes on is the one that was not, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from math import cos
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from ablationlens.files import load_arrays, save_arrays
from ablationlens.spd import Ascent, Decomposition, Minimality, Reconstruction, train
from tests import models
from tests.conftest import Host, host_of

LOSSES = (
    Minimality(p=2.0, p_end=1.0),
    Reconstruction(routing="subset"),
    Reconstruction(adversary=Ascent(1, 1.0), remainder=False),
)


class StoppedError(Exception):
    """Someone pulled the plug."""


def learn(host: Host, path: Path | None, *, stop: int | None = None, data: Any = None, **options: Any) -> Decomposition:
    def function(step: int) -> al.Batch:
        if step == stop:
            raise StoppedError
        return host.data(6, seed=step)

    settings: dict[str, Any] = {"steps": 10, "warmup": 5, "hidden": (4,), "losses": LOSSES, "every": 4} | options
    given = function if data is None else data
    modules = ["q", "mlp.out"] if host.transformer else None
    return train(host.adapter, modules, 5, given, checkpoint=path, show_bar=False, **settings)


def begun(host: Host, path: Path) -> Path:
    with pytest.raises(StoppedError):
        learn(host, path, stop=6)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "spd.safetensors"


@pytest.mark.parametrize("name", ["mlp", "llama"])
@pytest.mark.parametrize("stop", [4, 6, 9])
def test_a_resumed_training_is_the_uninterrupted_one(name: str, stop: int, path: Path) -> None:
    host = host_of("torch", name)
    whole = learn(host, None)
    with pytest.raises(StoppedError):
        learn(host, path, stop=stop)
    steps: list[int] = []

    def data(step: int) -> al.Batch:
        steps.append(step)
        return host.data(6, seed=step)

    resumed = learn(host, path, data=data)
    assert steps == list(range(stop // 4 * 4, 10))
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.history.equals(whole.history)
    assert resumed.provenance["seconds"] >= 0


def test_examples_that_are_drawn_from_a_batch_are_drawn_again(small: Host, path: Path) -> None:
    data, failing = small.data(20), pytest.MonkeyPatch()
    whole = learn(small, None, data=data, rows=4)
    with failing.context() as patch, pytest.raises(StoppedError):
        patch.setattr("ablationlens.spd.training.math.cos", _cosine_until(7))
        learn(small, path, data=data, rows=4)
    assert learn(small, path, data=data, rows=4).fingerprint == whole.fingerprint


def _cosine_until(calls: int) -> Callable[[float], float]:
    """A cosine that stops a training at one of its steps."""
    left = [calls]

    def cosine(x: float) -> float:
        left[0] -= 1
        if not left[0]:
            raise StoppedError
        return cos(x)

    return cosine


def test_a_training_that_is_done_is_read_and_not_repeated(small: Host, path: Path) -> None:
    first = learn(small, path)

    def data(step: int) -> al.Batch:
        raise AssertionError("nothing is left to do")

    again = learn(small, path, data=data)
    assert again.fingerprint == first.fingerprint
    assert again.history.equals(first.history)


def test_a_checkpoint_does_not_change_the_training(small: Host, path: Path) -> None:
    assert learn(small, path).fingerprint == learn(small, None).fingerprint
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"steps": 11}, "steps"),
        ({"seed": 1}, "seed"),
        ({"hidden": (5,)}, "hidden"),
        ({"losses": (Reconstruction(),)}, "losses"),
        ({"losses": (*LOSSES[:2], Reconstruction(adversary=Ascent(2, 1.0), remainder=False))}, "losses"),
        ({"learning_rate": 1e-2}, "learning_rate"),
        ({"sigmoid": "hard", "warmup": 6}, "sigmoid, warmup"),
    ],
)
def test_a_checkpoint_of_another_recipe(options: Any, name: str, small: Host, path: Path) -> None:
    begun(small, path)
    before = path.read_bytes()
    with pytest.raises(al.StoreError, match=rf"is of another training \({name}\); choose another file, or delete"):
        learn(small, path, **options)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_model(small: Host, path: Path) -> None:
    begun(small, path)
    other = Host("torch", "mlp", None, al.adapt(models.mlp(seed=1), example=small.inputs(1)))
    with pytest.raises(al.StoreError, match=r"another training \(the model\)"):
        learn(other, path)


def test_a_checkpoint_of_other_data(small: Host, path: Path) -> None:
    learn(small, path, data=small.data(20))
    with pytest.raises(al.StoreError, match=r"another training \(the data\)"):
        learn(small, path, data=small.data(20, seed=1))


def test_a_truncated_checkpoint(small: Host, path: Path) -> None:
    content = begun(small, path).read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(al.StoreError, match="does not hold the checkpoint of a decomposition, or it is damaged"):
            learn(small, path)


def test_a_checkpoint_that_lacks_any_tensor(small: Host, path: Path) -> None:
    arrays, header = load_arrays(begun(small, path), "a checkpoint")
    moments = {name.split("/")[0] for name in arrays}
    assert moments == {"weight", "exp_avg", "exp_avg_sq", "step"}
    for moment in moments:
        lost = next(name for name in arrays if name.startswith(f"{moment}/"))
        save_arrays(path, {name: one for name, one in arrays.items() if name != lost}, header)
        with pytest.raises(al.StoreError, match=f"is damaged: it lacks {lost}; delete it, and train again"):
            learn(small, path)


def test_a_tensor_of_another_shape(small: Host, path: Path) -> None:
    arrays, header = load_arrays(begun(small, path), "a checkpoint")
    name = next(name for name in arrays if name.endswith("0.V"))
    save_arrays(path, arrays | {name: arrays[name][:1]}, header)
    with pytest.raises(al.StoreError, match=r"is damaged: .*0.V is \[1, 5\] and not \["):
        learn(small, path)


@pytest.mark.parametrize("lost", ["step", "history", "tensors", "identity"])
def test_a_header_that_lacks_something(lost: str, small: Host, path: Path) -> None:
    arrays, header = load_arrays(begun(small, path), "a checkpoint")
    save_arrays(path, arrays, {name: value for name, value in header.items() if name != lost})
    with pytest.raises(al.StoreError, match="it lacks|it says nothing of its settings"):
        learn(small, path)


@pytest.mark.parametrize(
    "header", [{"step": None}, {"step": "x"}, {"seconds": None}, {"history": 5}, {"history": "x"}, {"tensors": None}]
)
def test_a_header_that_holds_something_else(header: dict[str, Any], small: Host, path: Path) -> None:
    arrays, before = load_arrays(begun(small, path), "a checkpoint")
    save_arrays(path, arrays, before | header)
    name = next(iter(header))
    with pytest.raises(al.StoreError, match=f"is damaged: its {name} is .*; delete it, and train again"):
        learn(small, path)


@pytest.mark.parametrize("moment", ["weight", "exp_avg", "exp_avg_sq"])
def test_a_tensor_of_no_numbers(moment: str, small: Host, path: Path) -> None:
    """A finished training would be given back as it is, and one that goes on would end in a lower learning rate."""
    arrays, header = load_arrays(begun(small, path), "a checkpoint")
    name = next(name for name in arrays if name.startswith(f"{moment}/"))
    save_arrays(path, arrays | {name: arrays[name] * np.nan}, header)
    with pytest.raises(al.StoreError, match=f"is damaged: {name} holds NaN or infinity; delete it"):
        learn(small, path)


def test_a_tensor_that_is_one_too_many(small: Host, path: Path) -> None:
    arrays, header = load_arrays(begun(small, path), "a checkpoint")
    save_arrays(path, arrays | {"weight/more": np.ones(2)}, header)
    with pytest.raises(al.StoreError, match="is damaged: weight/more is one too many; delete it"):
        learn(small, path)


def test_a_folder_is_no_checkpoint(small: Host, tmp_path: Path) -> None:
    with pytest.raises(al.InputError, match=r"checkpoint is a file, and .* is a folder: give .*spd.safetensors"):
        learn(small, tmp_path)
