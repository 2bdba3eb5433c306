"""Keys and shapes of a checkpoint of goodfire-ai/spd: of every version, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ablationlens as al
from tests.spd import runs
from tests.spd.runs import KINDS


def own_keys(kind: str) -> list[str]:
    target = runs.llama_simple().state_dict()
    return list(runs.random_parts(target, {"h.0.attn.q_proj": 5}, kind))


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in KINDS for key in own_keys(kind)])
def test_a_missing_key_or_wrong_shape_is_named(tmp_path: Path, kind: str, key: str) -> None:
    folder, state = runs.run_of(tmp_path, kind)
    config = runs.config_of(kind)
    runs.write(folder, {name: value for name, value in state.items() if name != key}, config)
    with pytest.raises(al.StoreError, match=f"{key} is missing"):
        al.spd.load(folder)
    for axis in range(state[key].ndim):
        runs.write(folder, {**state, key: torch.cat([state[key], state[key]], axis)}, config)
        with pytest.raises(al.StoreError, match=key.replace(".", r"\.")):
            al.spd.load(folder)


@pytest.mark.parametrize(
    "key",
    [
        "optimizer.lr",
        "_components.h-0-attn-q_proj.W",
        "_components.h-0-attn-q_proj",
        "_components.h-0-attn-z_proj.V",
        "_components.h-0-attn-k_proj.V",
        "_ci_fns.h-0-attn-k_proj.layers.0.W",
        "_ci_fns.h-0-attn-q_proj.layers.6.W",
        "_ci_fns.h-0-attn-q_proj.layers.1.W",
    ],
)
def test_a_key_too_many_is_named(tmp_path: Path, key: str) -> None:
    folder, state = runs.run_of(tmp_path)
    runs.write(folder, {**state, key: torch.zeros(3)}, runs.config_of())
    with pytest.raises(al.StoreError, match=f"{key}.* is one too many"):
        al.spd.load(folder)


def test_a_checkpoint_without_its_target_is_refused(tmp_path: Path) -> None:
    folder, state = runs.run_of(tmp_path)
    runs.write(folder, {k: v for k, v in state.items() if not k.startswith("target_model.")}, runs.config_of())
    with pytest.raises(al.StoreError, match="target_model"):
        al.spd.load(folder)


def test_a_bias_that_is_not_the_targets_is_refused(tmp_path: Path) -> None:
    model = runs.llama_simple(mlp_bias=True)
    parts = runs.random_parts(model.state_dict(), {"h.1.mlp.down_proj": 7}, "mlp")
    config = runs.config_of("mlp", patterns=[("h.1.mlp.down_proj", 7)])
    assert al.spd.load(runs.write(tmp_path, runs.whole_state(model.state_dict(), parts), config)).places
    parts["_components.h-1-mlp-down_proj.bias"] += 1
    runs.write(tmp_path, runs.whole_state(model.state_dict(), parts), config)
    with pytest.raises(al.StoreError, match="down_proj.bias is not the bias"):
        al.spd.load(tmp_path)


def older(state: dict[str, torch.Tensor], version: str) -> dict[str, torch.Tensor]:
    """The same checkpoint as an older or newer version wrote it."""
    found: dict[str, torch.Tensor] = {}
    decomposed = {name.replace("-", "."): name for name in {k.split(".")[1] for k in state if k[:4] == "_com"}}
    for key, value in state.items():
        new = key
        if version == "dev" and key.startswith("_ci_fns."):
            new = f"ci_fn.{key}"
        if version in ("gates", "patched"):
            new = new.replace("_ci_fns.", "_gates.", 1)
        if version == "patched":
            path = key.removeprefix("target_model.").removesuffix(".weight")
            if key.startswith("target_model."):
                end = (
                    f"{path}.original.weight" if path in decomposed else path + key[len("target_model.") + len(path) :]
                )
                new = f"patched_model.{end}"
            if key.startswith("_components."):
                _, name, factor = key.split(".")
                new = f"target_model.{name.replace('-', '.')}.components.{factor}"
        found[new] = value
    return found


@pytest.mark.parametrize("version", ["gates", "patched", "dev"])
def test_spd_requirement_26_keys_of_other_versions(tmp_path: Path, version: str) -> None:
    folder, state = runs.run_of(tmp_path / "now")
    written = older(state, version)
    assert set(written) != set(state)
    found = al.spd.load(runs.write(tmp_path / version, written, runs.config_of()))
    assert found.fingerprint == al.spd.load(folder).fingerprint


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    folder, state = runs.run_of(tmp_path)
    key = "_gates.h-0-attn-q_proj.layers.0.W"
    runs.write(folder, {**state, key: state[key.replace("_gates", "_ci_fns")]}, runs.config_of())
    with pytest.raises(al.StoreError, match="name the same tensor"):
        al.spd.load(folder)


def test_a_global_importance_function_is_refused(tmp_path: Path) -> None:
    folder, state = runs.run_of(tmp_path)
    runs.write(folder, {**state, "ci_fn._global_ci_fn.layers.0.W": torch.zeros(2)}, runs.config_of())
    with pytest.raises(al.InputError, match="global function.*not supported"):
        al.spd.load(folder)
    nested = {"mode": "global", "fn_type": "global_shared_transformer", "hidden_dims": None}
    runs.write(folder, state, {**runs.config_of(), "ci_config": nested})
    with pytest.raises(al.InputError, match="global_shared_transformer"):
        al.spd.load(folder)
