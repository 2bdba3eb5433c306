"""Runs in a directory: what a configuration can ask for, and going on after a stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablationlens as al
from tests.runs.tiny_runs import TEXTS, Command, Refused, WriteConfig, environment

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

KILLED_AFTER_A_BLOCK = """
import os, signal, sys
from ablationlens import cli
from ablationlens.counterfactuals.store import Store

whole_write = Store.write

def write(self, block, outputs):
    whole_write(self, block, outputs)
    if block == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Store.write = write
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "fields",
    [
        {"ablation": {"zero": {"include_bias": True}}, "output": "cross_entropy"},
        {"ablation": {"scale": {"gamma": 0.5}}, "output": {"logit": {"token": "w3"}}},
        {"ablation": "mean", "output": {"logit_difference": {"a": 1, "b": "w2"}}},
        {"ablation": {"mean": {"data": {"file": "texts.txt", "count": 2}, "per_position": True}}, "output": "kl"},
        {"ablation": "resample", "registry": {"kinds": "row_block", "modules": "mlp.in", "size": 32}},
        {"ablation": {"resample": {"data": {"file": "texts.txt"}}}, "registry": {"kinds": "matrix", "layers": 0}},
        {
            "ablation": {"noise": {"sigma": 1, "relative": True}},
            "registry": {"kinds": "rank_one", "svd": 2, "layers": 1},
        },
        {"data": {"file": "texts.jsonl", "field": "text", "positions": -2}},
    ],
)
def test_what_a_configuration_can_ask_for(
    command: Command, write_config: WriteConfig, tmp_path: Path, fields: dict[str, Any]
) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    config = write_config(method="leave_one_out", evaluate={"alphas": 0.5, "draws": 5}, **fields)
    code, _, err = command("run", config, "--out", tmp_path / "out")
    assert code == 0, err


@pytest.mark.parametrize("host", ["transformer_lens", "nnsight"])
def test_hosts_say_the_same_as_pytorch(
    command: Command, write_config: WriteConfig, tmp_path: Path, tiny_directory: Path, host: str
) -> None:
    (tmp_path / "uneven.txt").write_text("\n".join(["w1 w2 w3 w4 w5", "w6 w7", "w2 w2 w4 w4 w6 w1 w3"]))
    small = {"method": "leave_one_out", "evaluate": {"alphas": 0.5, "draws": 5}, "data": {"file": "uneven.txt"}}
    for name in ("torch", host):
        config = write_config(model={"name": str(tiny_directory), "host": name}, **small)
        code, _, err = command("run", config, "--out", tmp_path / name)
        assert code == 0, err
    torch, other = (al.Attribution.load(tmp_path / name / "leave_one_out.safetensors") for name in ("torch", host))
    assert other.components == torch.components
    np.testing.assert_allclose(other.weights.values, torch.weights.values, atol=1e-4)


def test_a_directory_with_a_run_is_refused_without_resume(
    command: Command, refused: Refused, write_config: WriteConfig, tmp_path: Path
) -> None:
    config, out = write_config(), tmp_path / "out"
    assert command("run", config, "--out", out, "--resume")[0] == 0  # nothing to resume: it begins
    before = al.Attribution.load(out / "coar.safetensors")
    assert "holds a run already: add --resume" in refused("run", config, "--out", out)
    (out / "coar.safetensors").unlink()
    code, _, err = command("run", config, "--out", out, "--resume")
    assert code == 0 and "blocks are in" in err
    np.testing.assert_array_equal(al.Attribution.load(out / "coar.safetensors").weights, before.weights)

    kept = (out / "config.yaml").read_text()
    code, _, err = command("run", write_config(seed=1), "--out", out, "--resume")
    assert code == 2 and "masks.seed is 0 in the store and 1 now" in err.splitlines()[-1]
    assert (out / "config.yaml").read_text() == kept


def test_a_killed_run_resumes_and_ends_with_the_same_outputs(
    command: Command, refused: Refused, write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(method={"coar": {"alpha": 0.25, "draws": 3000}})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    call = [sys.executable, "-c", KILLED_AFTER_A_BLOCK, "run", str(config), "--out", str(killed)]
    done = subprocess.run(call, env=environment(), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    blocks = killed / "stores" / "coar" / "blocks"
    assert [path.name for path in blocks.iterdir()] == ["000000.npz"]
    assert "is not finished" in refused("report", killed)
    assert command("run", config, "--out", killed, "--resume")[0] == 0
    assert command("run", config, "--out", whole)[0] == 0
    names = sorted(path.name for path in blocks.iterdir())
    assert len(names) > 1
    assert names == sorted(path.name for path in (whole / "stores" / "coar" / "blocks").iterdir())
    for name in names:
        with np.load(blocks / name) as one, np.load(whole / "stores" / "coar" / "blocks" / name) as other:
            np.testing.assert_array_equal(one["outputs"], other["outputs"])
    first, second = (al.Attribution.load(folder / "coar.safetensors") for folder in (killed, whole))
    np.testing.assert_array_equal(first.weights.values, second.weights.values)


def test_without_a_method_it_is_attribute(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = write_config(method=None, evaluate={"draws": 20})
    text = config.read_text().replace("texts.txt", "../texts.txt")
    (out / "config.yaml").write_text(text)
    code, printed, err = command("run", out / "config.yaml", "--out", out)
    assert code == 0, err
    assert al.Attribution.load(out / "attribute.safetensors").provenance["alpha"] == 0.0625  # 8 heads allow no less
    assert list(al.Scores.load(out / "scores.safetensors").table()["alpha"]) == [0.0625]
    assert printed.startswith("attribute: least squares, ")
    assert (out / "config.yaml").read_text() == text
    assert command("run", out / "config.yaml", "--out", out, "--resume")[0] == 0
    assert command("report", out)[0] == 0


def test_the_configuration_may_lie_in_the_directory(
    command: Command, write_config: WriteConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    text = "# mine\n" + write_config(method="leave_one_out", data={"file": "../texts.txt"}).read_text()
    (out / "config.yaml").write_text(text)
    assert command("run", out / "config.yaml", "--out", out)[0] == 0
    assert (out / "config.yaml").read_text() == text
    assert command("report", out)[0] == 0
