"""Paths in a configuration: relative to the file that it was read from, or to where a command was typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablationlens.zoo.loader import NAMES

PATH_SIGNS = (".", "/", "~")
"""How the name of a model begins that can only be a directory."""


def anchored(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A configuration, or a part of one, with absolute paths where they were relative to `folder`.

    It is not checked yet: whatever does not have the form of a path is left as it is.
    """
    done = dict(content)
    model = done.get("model")
    if isinstance(model, str):
        done["model"] = _model(model, folder)
    elif isinstance(model, Mapping) and isinstance(model.get("name"), str):
        done["model"] = {**model, "name": _model(model["name"], folder)}
    done |= _data(done, folder)
    if "ablation" in done:
        done["ablation"] = _ablation(done["ablation"], folder)
    if "diagnose" in done:
        done["diagnose"] = _diagnostics(done["diagnose"], folder)
    return done


def _ablation(value: Any, folder: Path) -> Any:
    """The same with absolute files of replacements."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: _data(options, folder) if isinstance(options, Mapping) else options for name, options in value.items()
    }


def _diagnostics(value: Any, folder: Path) -> Any:
    """One, several, or some of several by their number."""
    if isinstance(value, list):
        return [_diagnostics(one, folder) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {
        name: _diagnostics(item, folder) if str(name).isdecimal() else _options(item, folder)
        for name, item in value.items()
    }


def _options(value: Any, folder: Path) -> Any:
    """Options of a diagnostic: its data sets and ablations have names."""
    done = dict(value) if isinstance(value, Mapping) else value
    for field, inner in (("data", _source), ("ablations", _ablation)):
        if isinstance(done, dict) and isinstance(done.get(field), Mapping):
            done[field] = {name: inner(item, folder) for name, item in done[field].items()}
    return done


def _source(value: Any, folder: Path) -> Any:
    """The same texts with an absolute file."""
    return _data({"data": value}, folder)["data"]


def _model(name: str, folder: Path) -> str:
    """A directory as its path; the name of a bundled model, or of one on the hub, as it is."""
    if name in NAMES or not (name.startswith(PATH_SIGNS) or (folder / name).is_dir()):
        return name
    return str((folder / Path(name).expanduser()).resolve())


def _data(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same with an absolute ``data.file``."""
    data = content.get("data")
    if not isinstance(data, Mapping) or "file" not in data:
        return dict(content)
    return {**content, "data": {**data, "file": _files(data["file"], folder)}}


def _files(value: Any, folder: Path) -> Any:
    """A file, or several by their number."""
    if isinstance(value, str):
        return str((folder / Path(value).expanduser()).resolve())
    if isinstance(value, list):
        return [_files(item, folder) for item in value]
    if isinstance(value, Mapping):
        return {key: _files(item, folder) for key, item in value.items()}
    return value
