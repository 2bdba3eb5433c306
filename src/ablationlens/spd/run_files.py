"""Files of a run of goodfire-ai/spd: which checkpoint, and how it is read without that package or its pickles."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from ablationlens.errors import StoreError

CHECKPOINT_ENDINGS = (".pth", ".pt")
CONFIG = "final_config.yaml"
STEP = re.compile(r"model_(?:step_)?(\d+)\.(?:pth|pt)")


def latest_checkpoint(path: Path) -> Path:
    """The checkpoint of a path: the file itself, or the one of the highest step in a folder.

    Raises:
        StoreError: if there is none.
    """
    if path.is_dir():
        steps = {own: step for own in path.iterdir() if (step := step_of(own)) is not None}
        if not steps:
            raise StoreError(
                f"{path} holds no model_<step>.pth, so it is no run of goodfire-ai/spd; runs of its successor "
                "param-decomp, which trains with JAX, are not read"
            )
        return max(steps, key=lambda own: steps[own])
    if not path.is_file():
        raise StoreError(
            f"there is no {path}: give the folder of a run, or its model_<step>.pth; download a run of wandb before"
        )
    return path


def step_of(file: Path) -> int | None:
    """The step in a checkpoint's name."""
    found = STEP.fullmatch(file.name)
    return None if found is None else int(found.group(1))


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint on the CPU, by name. Whatever else a pickle could do is refused.

    Raises:
        StoreError: if it is damaged, or holds something else.
    """
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise StoreError(f"{file} is damaged or no checkpoint ({reason}); copy it again") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise StoreError(f"{file} holds a {type(found).__name__}, and a checkpoint of goodfire-ai/spd is a state dict")
    state = {str(name): value for name, value in cast("Mapping[Any, Tensor]", found).items()}
    for name, value in state.items():
        if value.layout != torch.strided:
            raise StoreError(f"{file}: {name} is a sparse tensor, and those of a checkpoint are not")
    return state


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; no objects are made.

    Raises:
        StoreError: if it is missing, or damaged.
    """
    if not file.is_file():
        raise StoreError(f"there is no {file.name} beside the checkpoint, in {file.parent}: copy it there from the run")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise StoreError(f"{file} is damaged or no YAML ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(found, dict):
        raise StoreError(f"{file} holds no settings, but a {type(found).__name__}")
    return {str(name): value for name, value in cast("dict[Any, Any]", found).items()}
