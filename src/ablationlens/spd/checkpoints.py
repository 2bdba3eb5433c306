"""Checkpoints of a training: components, importance functions, the optimiser's state and the history, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ablationlens.errors import StoreError
from ablationlens.files import load_arrays, save_arrays
from ablationlens.spd.decomposition import Decomposition

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam keeps of each parameter."""
HEADER: dict[str, Any] = {"step": int, "seconds": int | float, "history": list, "tensors": list}


class Progress(NamedTuple):
    """How far a training is.

    Attributes:
        step: how many steps are done.
        seconds: spent on them.
        history: losses on the way.
        decomposition: what learns.
        optimiser: Adam.
        identity: what tells the training from another.
    """

    step: int
    seconds: float
    history: list[dict[str, Any]]
    decomposition: Decomposition
    optimiser: torch.optim.AdamW
    identity: dict[str, Any]


def save_progress(path: Path, progress: Progress) -> None:
    """Write a checkpoint, whole or not at all."""
    arrays = {f"weight/{name}": value.detach().cpu().numpy() for name, value in _weights(progress).items()}
    for name, parameter in progress.decomposition.named_parameters():
        state = progress.optimiser.state.get(parameter, {})
        arrays |= {f"{moment}/{name}": state[moment].cpu().numpy() for moment in MOMENTS if moment in state}
    header = {
        "identity": progress.identity,
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
        "tensors": sorted(arrays),
    }
    save_arrays(path, arrays, header)


def load_progress(path: Path, progress: Progress) -> tuple[int, float, list[dict[str, Any]]]:
    """Put a checkpoint into a decomposition and its optimiser; the step, the seconds and the history.

    Raises:
        StoreError: if it is of another training, or damaged.
    """
    arrays, header = load_arrays(path, "the checkpoint of a decomposition")
    found = header.get("identity")
    if found != progress.identity:
        different = _different(found, progress.identity)
        raise StoreError(f"{path} is of another training ({different}); choose another file, or delete this one")
    weights = _weights(progress)
    _check_whole(path, arrays, header, weights)
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
    for name, parameter in progress.decomposition.named_parameters():
        kept = {
            moment: torch.from_numpy(arrays[f"{moment}/{name}"]) for moment in MOMENTS if f"{moment}/{name}" in arrays
        }
        if kept:
            progress.optimiser.state[parameter] = {
                moment: value.reshape(()) if moment == "step" else value.to(parameter) for moment, value in kept.items()
            }
    return int(header["step"]), float(header["seconds"]), list(header["history"])


def _check_whole(
    path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Refuse a checkpoint that lacks something, or holds it in another shape."""
    for name, kinds in HEADER.items():
        if name not in header:
            raise StoreError(f"{path} is damaged: it lacks {name}; delete it, and train again")
        if not isinstance(header[name], kinds):
            raise StoreError(f"{path} is damaged: its {name} is {header[name]!r:.40}; delete it, and train again")
    needed = [f"weight/{name}" for name in weights] + [str(name) for name in header["tensors"]]
    extra = sorted(arrays.keys() - set(needed))
    if extra:
        raise StoreError(f"{path} is damaged: {extra[0]} is one too many; delete it, and train again")
    for name in needed:
        if name not in arrays:
            raise StoreError(f"{path} is damaged: it lacks {name}; delete it, and train again")
        moment, own = name.split("/", 1)
        shape = (1,) if moment == "step" else tuple(weights[own].shape)
        if arrays[name].shape != shape:
            raise StoreError(
                f"{path} is damaged: {name} is {list(arrays[name].shape)} and not {list(shape)}; delete it, and train "
                "again"
            )
        if not np.isfinite(arrays[name]).all():
            raise StoreError(f"{path} is damaged: {name} holds NaN or infinity; delete it, and train again")


def _weights(progress: Progress) -> dict[str, Tensor]:
    return dict(progress.decomposition.state_dict(keep_vars=False))


def _different(found: Any, own: dict[str, Any]) -> str:
    """Which setting differs."""
    if not isinstance(found, dict):
        return "it says nothing of its settings"
    for name in ("model", "data"):
        if found.get(name) != own[name]:
            return f"the {name}"
    theirs, ours = found.get("recipe") or {}, own["recipe"]
    return ", ".join(name for name in ours if theirs.get(name) != ours[name]) or "its settings"
