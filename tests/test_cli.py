"""The command line: every command on a tiny model; every wrong input has exit code 2 and one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ablationlens as al
from ablationlens.runs import config_file
from tests.runs.tiny_runs import Command, Refused, WriteConfig, environment

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]


def test_version_and_help(command: Command) -> None:
    assert command("--version") == (0, f"ablationlens {al.__version__}\n", "")
    for arguments in ([], ["--help"]):
        code, out, err = command(*arguments)
        assert (code, err) == (0, "") and all(name in out for name in ("demo", "run", "components", "report"))


def test_run_writes_everything_and_prints_a_table(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, err = command("run", write_config(), "--out", out)
    assert code == 0, err
    assert "pearson" in printed and "leave-one-out" in printed and str(out / "report.html") in printed
    assert printed.startswith("COAR: 41 forward passes of the data\n  held-out correlation 0.")
    assert "\nleave-one-out: 9 forward passes of the data\n" in printed
    assert "COAR: 40 masks x 3 examples = 120 forward rows" in err
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.yaml", "stores", "coar.safetensors", "leave_one_out.safetensors", "scores.safetensors", "report.html"
    }  # fmt: skip
    assert al.Attribution.load(out / "coar.safetensors").weights.shape == (3, 8)
    assert list(al.Scores.load(out / "scores.safetensors").table()["alpha"]) == [0.25, 0.25, 0.5, 0.5]
    (out / "report.html").unlink()
    code, printed, err = command("report", out)
    assert (code, printed) == (0, f"Report: {out / 'report.html'}\n"), err
    assert "leave-one-out" in (out / "report.html").read_text()


def test_run_with_fields_set_on_the_command_line(
    command: Command, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, here = write_config(), tmp_path / "here"
    here.mkdir()
    (here / "mine.txt").write_text("w1 w2 w3\nw4 w5 w6\n")
    monkeypatch.chdir(here)  # a path in a value is relative to it, whatever those in the file are relative to
    changes = [
        "data.file=mine.txt",
        "data.count=1",
        "method=leave_one_out",
        "registry.layers=[1]",
        "output=cross_entropy",
    ]
    options = [word for change in changes for word in ("--set", change)]
    code, _, err = command("run", config, "--out", tmp_path / "out", *options)
    assert code == 0, err
    attribution = al.Attribution.load(tmp_path / "out" / "leave_one_out.safetensors")
    assert attribution.weights.shape == (1, 4) and set(attribution.weights["layer"].values) == {1}
    ran = config_file.load(tmp_path / "out" / "config.yaml")  # which is whole: it needs no option to run again
    assert (ran.data.file, ran.data.count, ran.output.choice[0]) == (str(here / "mine.txt"), 1, "cross_entropy")
    assert ran.evaluate.alphas == [0.25, 0.5]
    assert command("run", config, "--out", tmp_path / "out", *options, "--resume")[0] == 0
    assert command("report", tmp_path / "out")[0] == 0
    code, _, err = command("run", config, "--out", tmp_path / "out", "--resume")
    assert code == 2 and "store" in err


def test_components(command: Command, tiny_directory: Path) -> None:
    code, out, err = command("components", tiny_directory)
    assert code == 0, err
    kinds = {line.split()[0] for line in out.splitlines()[1:] if line.strip()}
    assert {"head", "row", "column", "matrix", "neuron"} <= kinds and "filter" not in kinds
    assert "row_block with --size, rank_one with --svd" in out
    for kind, option, total in (
        ("head", [], "8"),
        ("row_block", ["--size", "16"], "36"),
        ("rank_one", ["--svd", "2"], "36"),
    ):
        code, out, err = command("components", tiny_directory, "--kind", kind, *option)
        assert code == 0 and out.split()[-1] == total, (out, err)


def test_control_c_says_how_to_go_on(
    command: Command, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablationlens.runs import running as runs

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "execute", interrupted)
    config, out = write_config(), tmp_path / "a folder"
    code, printed, err = command("run", config, "--out", out, "--set", "registry.layers=[0, 1]", "--set", "seed=3")
    assert (code, printed) == (130, "")
    again = f"{config} --out '{out}' --set 'registry.layers=[0, 1]' --set seed=3 --resume"
    assert err.splitlines()[-1].endswith(f"Go on with: ablationlens run {again}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["run"], "Missing argument 'CONFIG.yaml'"),
        (["run", "x.yaml"], "Missing option '--out'"),
        (["run", "--what", "x.yaml"], "No such option: --what"),
        (["run", "none.yaml", "--out", "o"], "none.yaml: the configuration cannot be read: No such file"),
        (["run", "x.yaml", "--out", "o", "--set", "seed"], "--set seed: expected a field and its value"),
        (["run", "x.yaml", "--out", "o", "--set"], "Option '--set' requires an argument"),
        (["report", "none"], "there is no directory none"),
        (["report", "."], "holds no run"),
        (["components", "./none"], "there is no directory ./none"),
        (["components", "domains", "--kind", "heads"], "--kind heads: the kinds are head, head_query"),
        (["components", "domains", "--kind", "rank_one"], "--kind rank_one needs --svd"),
    ],
)
def test_wrong_calls(
    refused: Refused,
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"methods": "coar"}, "run.yaml: methods: unknown field"),
        ({"registry": "heads"}, "registry.kinds: should be 'head'"),
        ({"method": {"coar": {"alpha": 1.5, "draws": 9}}}, "method.coar.alpha: should be less than 1; got 1.5"),
        ({"data": {"file": "none.txt"}}, "none.txt cannot be read: No such file"),
        ({"data": {"file": "texts.txt", "count": 9}}, "data.count: 9 texts were asked for, and there are 3"),
        ({"data": {"file": "empty.txt"}}, "empty.txt holds no text"),
        ({"data": {"file": "bad.jsonl", "field": "text"}}, "text 2 of"),
        ({"data": {"file": "other.jsonl", "field": "text"}}, "it is an object with body, title"),
        ({"model": {"name": "./none", "host": "torch"}}, "there is no directory"),
        ({"registry": {"kinds": "head", "layers": [7]}}, "7"),
        ({"registry": {"kinds": "row", "modules": ["mlp.inn"]}}, "mlp.in"),
        ({"registry": {"kinds": ["row", "matrix"]}}, "overlap"),
        ({"registry": {"kinds": "head", "size": 4}}, "size= belongs to kind 'row_block'"),
        ({"method": {"coar": {"alpha": 0.01, "draws": 9}}}, "smallest alpha"),
        ({"method": {"coar": {"alpha": 0.25, "draws": 8, "solver": "least_squares"}}}, "draws"),
        ({"method": {"attribute": {"alpha": 0.01}}}, "smallest alpha"),
        ({"method": {"path_gradient": {"alpha": 0.25, "draws": 9, "rho": 0.9}}}, "at most 2 * alpha = 0.5"),
        ({"method": "activation_patching"}, "in Python: al.activation_patching(model, clean, corrupt)"),
        ({"output": {"logit": {"token": 99}}}, "99"),
        ({"output": {"logit": {"token": "w1 w2"}}}, "2 tokens"),
        ({"output": {"margin": {"classes": ["w1", "w2"]}}}, "which is none of the classes ['w1', 'w2']"),
        ({"data": {"file": "long.txt"}}, "the longest text has 33 tokens, and the model reads at most 32"),
        ({"evaluate": {"alphas": [0.01]}}, "smallest alpha"),
        ({"ablation": {"mean": {"data": {"file": "one.txt"}, "per_position": True}}}, "same length"),
    ],
)
def test_wrong_configurations(
    refused: Refused,
    write_config: WriteConfig,
    tmp_path: Path,
    fields: dict[str, Any],
    expected: str,
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "one.txt").write_text("w1 w2")
    (tmp_path / "long.txt").write_text(" ".join(["w1"] * 33))
    (tmp_path / "bad.jsonl").write_text('{"text": "w1 w2"}\n{"text": \n')
    (tmp_path / "other.jsonl").write_text('{"body": "w1 w2", "title": "w3"}\n')
    assert expected in refused("run", write_config(**fields), "--out", tmp_path / "out")


def test_wrong_fields_on_the_command_line(refused: Refused, write_config: WriteConfig, tmp_path: Path) -> None:
    config, out = write_config(), tmp_path / "out"
    line = refused("run", config, "--out", out, "--set", "data.count=many", "--set", "registry.layer=0")
    assert "--set data.count=many: data.count: should be a valid integer; got 'many'" in line
    assert "--set registry.layer=0: registry.layer: unknown field; there are kinds, layers" in line
    assert not out.exists()


def test_directories_that_are_taken(refused: Refused, write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for call in (["run", str(write_config())], ["run", str(write_config()), "--resume"], ["demo"]):
        assert "is not empty and holds no" in refused(*call, "--out", tmp_path / "full")
        assert "is a file: give a directory" in refused(*call, "--out", tmp_path / "file")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_the_process_has_the_exit_code_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: [")
    call = [sys.executable, "-m", "ablationlens.cli", "run", "run.yaml", "--out", "out"]
    done = subprocess.run(call, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: run.yaml: not valid YAML: line 1")


def test_help_loads_no_host() -> None:
    script = (
        "import sys; from ablationlens import cli; cli.main(['--help']); "
        "sys.exit([name for name in ('transformer_lens', 'transformers', 'plotly') if name in sys.modules] != [])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
