"""Runs of goodfire-ai/spd as decompositions, read without that package.

Names, shapes and settings are those of its PyTorch trainer; see `run_state` for the keys and `run_settings` for the
configuration. Remainders are in no checkpoint: they are what the components leave of the target's weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter
from ablationlens.errors import InputError, StoreError
from ablationlens.layout import IDENTITY, after_identity
from ablationlens.spd.decomposition import Decomposition, Part, Where, name_of
from ablationlens.spd.places import places_of
from ablationlens.spd.restoring import restored
from ablationlens.spd.run_files import CONFIG, latest_checkpoint, read_state, read_yaml, step_of
from ablationlens.spd.run_settings import Settings, settings_of
from ablationlens.spd.run_state import COMPONENTS, FUNCTIONS, State, sorted_state

SOURCE = "goodfire-ai/spd"


def load_run(path: Path, adapter: Adapter | None, *, skip: Sequence[str] = ()) -> Decomposition:
    """Read a run; see `ablationlens.spd.load`."""
    file = latest_checkpoint(path)
    config = read_yaml(file.parent / CONFIG)
    settings = settings_of(config)
    try:
        state = sorted_state(read_state(file))
        parts = _parts(state, settings)
    except StoreError as error:
        raise StoreError(f"{file}: {error}") from error
    places = _places(parts, state, adapter, skip)
    if adapter is not None:
        _check_same_model(places, state, adapter)
    provenance = {
        "from": SOURCE,
        "file": file.name,
        "step": step_of(file),
        "paths": {name_of(where): module for module, where in places.items()},
        "skipped": [module for module in parts if module not in places],
        "config": json.loads(json.dumps(config, default=str)),
    }
    kept: dict[Where, Part] = {where: parts[module] for module, where in places.items()}
    decomposition = Decomposition(kept, sigmoid=settings.sigmoid, provenance=provenance)
    return decomposition if adapter is None else decomposition.to(adapter.device).made_of(adapter)


# -- parts ------------------------------------------------------------------------------------------------------------


def _parts(state: State, settings: Settings) -> dict[str, Part]:
    """The components of each decomposed module, by its path.

    Raises:
        StoreError: if checkpoint and configuration, or the checkpoint's own tensors, do not fit together.
    """
    known = {key.removesuffix(".weight") for key in state.target if key.endswith(".weight")}
    asked = settings.components(sorted(known | {f"{path}.{IDENTITY}" for path in known}))
    for path in asked:
        if path not in state.components:
            raise StoreError(f"the key {_key(COMPONENTS, path)}V is missing: {CONFIG} asks for components of {path}")
    for path in state.components:
        if path not in asked:
            raise StoreError(f"the key {_key(COMPONENTS, path)}V is one too many: {CONFIG} asks for none of {path}")
    for path in state.functions:
        if path not in asked:
            key = f"{_key(FUNCTIONS, path)}{next(iter(state.functions[path]))}"
            raise StoreError(f"the key {key} is one too many: {path} has no components")
    return {path: _part(path, state, settings, count) for path, count in asked.items()}


def _part(path: str, state: State, settings: Settings, count: int) -> Part:
    factors, prefix = state.components[path], _key(COMPONENTS, path)
    for name in ("V", "U"):
        if name not in factors:
            raise StoreError(f"the key {prefix}{name} is missing")
        if factors[name].ndim != 2 or not factors[name].is_floating_point():
            raise StoreError(f"{prefix}{name} is no matrix of floats: it has shape {list(factors[name].shape)}")
    V, U = factors["V"], factors["U"]
    if (V.shape[1], U.shape[0]) != (count, count):
        raise StoreError(
            f"{prefix}V {list(V.shape)} and {prefix}U {list(U.shape)} are of {V.shape[1]} and {U.shape[0]} components, "
            f"and {CONFIG} says {count}"
        )
    _check_target(path, state.target, factors, prefix)
    made = state.functions.get(path, {})
    return Part(V, U, restored(settings.kind, count, V.shape[0], settings.hidden, made, _key(FUNCTIONS, path)))


def _check_target(path: str, target: Mapping[str, Tensor], factors: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse factors that are of another shape than the weight, which is [out, in], or [in, out] in a Conv1D."""
    rows, columns = factors["U"].shape[1], factors["V"].shape[0]
    if path.endswith(f".{IDENTITY}"):
        before = target[f"{path.removesuffix(f'.{IDENTITY}')}.weight"]
        if rows != columns or rows not in before.shape:
            raise StoreError(
                f"{prefix}V and U are {rows} x {columns}, which is no identity before {list(before.shape)}"
            )
        return
    weight = target[f"{path}.weight"]
    if tuple(weight.shape) not in ((rows, columns), (columns, rows)):
        raise StoreError(
            f"{prefix}V {list(factors['V'].shape)} and {prefix}U {list(factors['U'].shape)} do not fit the weight of "
            f"{path}, {list(weight.shape)}"
        )
    bias, own = factors.get("bias"), target.get(f"{path}.bias")
    if bias is not None and (own is None or not torch.equal(bias, own)):
        raise StoreError(f"{prefix}bias is not the bias of {path} in the target model")


def _key(prefix: str, path: str) -> str:
    return f"{prefix}{path.replace('.', '-')}."


# -- places -----------------------------------------------------------------------------------------------------------


def _places(parts: Mapping[str, Part], state: State, adapter: Adapter | None, skip: Sequence[str]) -> dict[str, Where]:
    """Where each module that is not left out is.

    Raises:
        InputError: if one is nowhere, or a pattern leaves out nothing.
    """
    for pattern in skip:
        if not any(fnmatchcase(path, pattern) for path in parts):
            raise InputError(f"skip={pattern!r} is no decomposed module: this run has {', '.join(parts)}")
    wanted = [path for path in parts if not any(fnmatchcase(path, pattern) for pattern in skip)]
    if not wanted:
        raise InputError("skip= leaves out every module of this run")
    places = places_of(wanted, adapter)
    lost = [path for path in wanted if path not in places]
    if lost:
        raise InputError(_advice(lost, parts, state, adapter))
    return places


def _advice(lost: Sequence[str], parts: Mapping[str, Part], state: State, adapter: Adapter | None) -> str:
    uncut = [path for path in lost if after_identity(path) is None and _is_embedding(path, parts[path], state)]
    if uncut:
        return (
            f"{', '.join(uncut)}: of embeddings, only that of tokens can be ablated, where it gives rows of its weight "
            f"as they are; leave the others out, al.spd.load(path, skip={list(uncut)!r})"
        )
    if adapter is None:
        return (
            f"{', '.join(lost)}: no family of models that is known has a module there; say which model it is, "
            "al.spd.load(path, al.adapt(model)), or leave it out with skip=[...]"
        )
    return (
        f"{', '.join(lost)}: this model has no such modules to cut; it has {', '.join(adapter.layout.names)}. Leave "
        "them out with skip=[...]; a bridge splits fused matrices, so for these adapt the model itself, al.adapt(model)"
    )


def _is_embedding(path: str, part: Part, state: State) -> bool:
    """Whether the weight is [in, out] without a bias, which of the modules that spd decomposes only embeddings are."""
    columns, rows = part.V.shape[0], part.U.shape[1]
    weight = state.target[f"{path}.weight"]
    return f"{path}.bias" not in state.target and rows != columns and tuple(weight.shape) == (columns, rows)


def _check_same_model(places: Mapping[str, Where], state: State, adapter: Adapter) -> None:
    """Refuse a model with other weights than the run's target has.

    Raises:
        InputError: naming the first module that differs.
    """
    for path, where in places.items():
        stem = after_identity(path)
        at = where if stem is None else (where[0], after_identity(where[1]) or where[1])
        own, stored = adapter.weight(*at).detach(), state.target[f"{stem or path}.weight"]
        # Conv1D stores the transpose
        fitting = [stored] * (stored.shape == own.shape) + [stored.T] * (stored.T.shape == own.shape)
        if not any(torch.equal(own.cpu(), one.to(own.dtype)) for one in fitting):
            raise InputError(
                f"the weight of {name_of(at)} in this model is not that of {stem or path} in the run: this is another "
                "model, or its weights were processed (folded). The run holds its target: al.spd.load_target(path)"
            )
