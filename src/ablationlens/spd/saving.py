"""Decompositions in files: our own, one safetensors file each, and the runs of goodfire-ai/spd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablationlens.adapters.base import Adapter, check_adapter
from ablationlens.errors import InputError, StoreError
from ablationlens.files import as_path, load_arrays, save_arrays
from ablationlens.sites import RankOne
from ablationlens.spd.decomposition import Decomposition, Part, Where, name_of
from ablationlens.spd.functions import FUNCTIONS
from ablationlens.spd.goodfire import load_run
from ablationlens.spd.restoring import restored
from ablationlens.spd.run_files import CHECKPOINT_ENDINGS

FORMAT_VERSION = 1
WHAT = "a decomposition"
HEADER = ("places", "sigmoid", "functions", "types", "provenance")


def save(decomposition: Decomposition, path: str | PathLike[str]) -> Path:
    """Write a decomposition to one safetensors file with a header of JSON, whole or not at all; folders are made.

    Everything comes back bit for bit: components, importance functions, the sigmoid, places and provenance. The model
    is not in the file.

    Args:
        decomposition: to be kept.
        path: of the file, such as ``"decomposition.safetensors"``; one that is there is replaced.

    Returns:
        The path.

    Raises:
        InputError: if it is no decomposition, or has what no file can hold, an importance function of your own or a
            provenance that is no JSON; for a name that `load` would take for a checkpoint of PyTorch.
        StoreError: if the disk is full or refuses.
    """
    if not isinstance(decomposition, Decomposition):
        raise InputError(f"al.spd.save(decomposition, path) writes a decomposition; got {type(decomposition).__name__}")
    target = as_path(path, "decomposition.safetensors")
    if target.suffix in CHECKPOINT_ENDINGS:
        raise InputError(f"{target.name} is the name of a checkpoint of PyTorch; write {target.stem}.safetensors")
    arrays: dict[str, np.ndarray] = {}
    functions: list[dict[str, Any] | None] = []
    types: dict[str, str] = {}
    for index, (where, part) in enumerate(decomposition.items()):
        function = part.function
        if function is not None and type(function) not in FUNCTIONS.values():
            raise InputError(
                f"a file holds importance functions of the kinds {', '.join(FUNCTIONS)}; {name_of(where)} has one of "
                f"your own, {type(function).__name__}: keep its state_dict() yourself"
            )
        functions.append(None if function is None else {"kind": function.kind, "hidden": list(function.hidden)})
        for name, value in part.state_dict().items():
            types[f"{index}/{name}"] = str(value.dtype).removeprefix("torch.")
            arrays[f"{index}/{name}"] = _array(value)
    header = {
        "format": FORMAT_VERSION,
        "what": "decomposition",
        "places": [list(where) for where in decomposition.places],
        "sigmoid": decomposition.sigmoid,
        "functions": functions,
        "types": types,
        "provenance": decomposition.provenance,
    }
    try:
        return save_arrays(target, arrays, header)
    except TypeError as error:  # of JSON
        raise InputError(f"decomposition.provenance is to be JSON: {error}; take that out of it") from error


def load(path: str | PathLike[str], adapter: Adapter | None = None, *, skip: Sequence[str] | str = ()) -> Decomposition:
    """Read a decomposition that `save` wrote, or a run of goodfire-ai/spd. Nothing in a file is ever executed.

    Runs need none of that package's code. A run is a folder with ``final_config.yaml`` and ``model_<step>.pth``, of
    which the latest step is read, or one such checkpoint beside its configuration, as trained by the PyTorch code of
    goodfire-ai/spd: layer-wise importance functions "mlp", "vector_mlp" and "shared_mlp", every sigmoid, and the names
    of older versions. Everything that shapes can tell is held against the configuration. A fused matrix, such as the
    ``c_attn`` of GPT-2, is read as it is (``attn.qkv``), for hosts that have it as one. An identity that was inserted
    before a module goes by the name of that module (``attn.q.pre_identity``), and the embedding of tokens is
    ``embed``. No forward passes.

    Args:
        path: the file that `save` wrote; or the folder or checkpoint of a run.
        adapter: the model that was decomposed. Its modules are then found by their paths in it, and the weights in the
            checkpoint compared with its own. Without it paths are looked up in the families of the architecture table
            and in those of goodfire-ai/spd (``h.0.attn.q_proj``, ``transformer.h.0.attn.c_attn``,
            ``model.layers.0.self_attn.q_proj``); other models, such as toys, need it.
        skip: for runs: patterns of module paths whose components are left out, such as ``"wte"`` or
            ``"*.pre_identity"``: embeddings of positions are no modules that a registry can cut.

    Returns:
        The decomposition, frozen, on the adapter's device if there is one. `provenance` of a run has its configuration,
        the name of the checkpoint, its step, the path of each module and what was left out.

    Raises:
        StoreError: if a file is missing, truncated or damaged, lacks a key or has one too many (it is named), or
            contradicts its configuration.
        InputError: for what is not supported (importances of all modules by one global function, modules that cannot
            be cut), or a model that the decomposition does not fit.
    """
    if str(path).startswith("wandb:"):
        raise InputError(
            "runs are read from the disk: download final_config.yaml and model_<step>.pth of the run into a folder, "
            "and give that folder"
        )
    if adapter is not None:
        check_adapter(adapter)
    target = as_path(path, "decomposition.safetensors")
    patterns: Any = [skip] if isinstance(skip, str) else skip
    if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"skip= are patterns of module paths, such as ['wte', '*.pre_identity']; got {skip!r}")
    if target.is_dir() or target.suffix in CHECKPOINT_ENDINGS:
        return load_run(target, adapter, skip=patterns).requires_grad_(False)
    if patterns:
        raise InputError(f"skip= leaves out modules of a run of goodfire-ai/spd, and {target.name} is none")
    decomposition = _read(target).requires_grad_(False)
    if adapter is None:
        return decomposition
    decomposition.weights(adapter)
    return decomposition.to(adapter.device)


def _read(path: Path) -> Decomposition:
    if not path.is_file():
        raise StoreError(
            f"there is no {path}: give the file that al.spd.save(decomposition, path) wrote, or the folder of a run of "
            "goodfire-ai/spd"
        )
    arrays, header = load_arrays(path, WHAT)
    if header.get("what") != "decomposition":
        raise StoreError(f"{path} does not hold {WHAT}: write one with al.spd.save(decomposition, '{path}')")
    if header.get("format") != FORMAT_VERSION:
        raise StoreError(f"{path} has format {header.get('format')}; this version reads format {FORMAT_VERSION}")
    absent = [key for key in HEADER if key not in header]
    if absent:
        raise StoreError(f"{path} is damaged: its header lacks {absent[0]}; make it again")
    try:
        parts = _parts(arrays, header)
        return Decomposition(parts, sigmoid=header["sigmoid"], provenance=header["provenance"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError, StoreError) as error:
        # InputError is a ValueError
        raise StoreError(f"{path} does not hold {WHAT}, or it is damaged ({error}); make it again") from error


def _parts(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> dict[Where, Part]:
    """The components of each module; anything but what `save` wrote ends in an error of some kind."""
    types = header["types"]
    odd = sorted(arrays.keys() ^ types.keys())
    if odd:
        raise StoreError(f"the array {odd[0]} is {'one too many' if odd[0] in arrays else 'missing'}")
    values = {name: _tensor(arrays[name], kind) for name, kind in types.items()}
    parts: dict[Where, Part] = {}
    for index, ((layer, module), made) in enumerate(zip(header["places"], header["functions"], strict=True)):
        own = {name.partition("/")[2]: values.pop(name) for name in [*values] if name.startswith(f"{index}/")}
        for name in ("V", "U"):
            if name not in own:
                raise StoreError(f"the array {index}/{name} is missing")
        V, U = own.pop("V"), own.pop("U")
        RankOne(V, U)
        function = None
        if made is not None:
            weights = {key.removeprefix("function."): value for key, value in own.items()}
            function = restored(made["kind"], V.shape[1], V.shape[0], made["hidden"], weights, f"{index}/function.")
        elif own:
            raise StoreError(f"the array {index}/{next(iter(own))} is one too many")
        if (layer, module) in parts:
            raise StoreError(f"L{layer}.{module} is there twice")
        parts[layer, module] = Part(V, U, function)
    if values:
        raise StoreError(f"the array {next(iter(values))} is one too many")
    return parts


def _array(value: Tensor) -> np.ndarray:
    """A tensor's numbers; NumPy has no bfloat16, whose bits are kept."""
    own = value.detach().cpu().contiguous()
    return (own.view(torch.int16) if own.dtype == torch.bfloat16 else own).numpy()


def _tensor(array: np.ndarray, kind: str) -> Tensor:
    found = torch.from_numpy(array)
    found = found.view(torch.bfloat16) if kind == "bfloat16" and found.dtype == torch.int16 else found
    if str(found.dtype) != f"torch.{kind}":
        raise StoreError(f"an array is {str(found.dtype).removeprefix('torch.')}, and the header says {kind}")
    return found
