"""Configurations: defaults, shorthands, paths, and the way back to YAML."""

from __future__ import annotations

from pathlib import Path

from ablationlens.adapters.base import Adapter
from ablationlens.kinds import KINDS as LIBRARY_KINDS
from ablationlens.runs import config_file
from ablationlens.runs.config import KINDS, RunConfig

SHORT = """
model: domains
data: {domain: python}
registry: head
method: {coar: {alpha: 0.25, draws: 500}}
"""
FULL = """
model: {name: induction, host: torch, device: cpu, dtype: float32}
data: {file: texts.jsonl, field: text, count: 4, positions: [-1, -2]}
registry: {kinds: [head, neuron], layers: [0, 1], modules: [q], size: 4, svd: 2, allow_overlap: true}
ablation: {resample: {data: {file: others.txt}}}
output: {logit_difference: {a: " he", b: 7}}
method:
  - coar: {alpha: 5e-2, draws: 100, design: subset, solver: lasso, name: first}
  - coar: {alpha: 0.1, draws: 100, design: balanced, solver: least_squares, name: second}
  - leave_one_out
evaluate: {alphas: [0.02, 0.05], draws: 30}
seed: 3
"""


def test_defaults_and_shorthands() -> None:
    config = config_file.parse(SHORT, "c.yaml")
    assert (config.model.name, config.model.host, config.registry.kinds) == ("domains", "transformer_lens", ["head"])
    assert (config.ablation.choice[0], config.output.choice[0]) == ("zero", "margin")
    assert (config.alphas, config.seed) == ([0.25], 0)
    assert config_file.parse(SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "leave_one_out"), "c.yaml").alphas == [
        0.05
    ]


def test_every_field_reads_and_survives_a_round_trip() -> None:
    config = config_file.parse(FULL, "c.yaml")
    assert config.method[0].coar is not None and config.method[0].coar.alpha == 0.05
    assert [method.slug for method in config.method] == ["first", "second", "leave_one_out"]
    assert config_file.parse(config.to_yaml(), "again") == config


def test_kinds_are_those_of_the_library() -> None:
    assert set(KINDS) == {*LIBRARY_KINDS, "rank_one"}
    assert Adapter.registry.__doc__ is not None and all(kind in Adapter.registry.__doc__ for kind in KINDS)


def test_paths_are_relative_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "c.yaml").write_text(FULL.replace("induction", "weights"))
    config = config_file.load(tmp_path / "c.yaml")
    assert config.model.name == str(tmp_path / "weights")
    assert config.data.file == str(tmp_path / "texts.jsonl")
    assert config.ablation.resample is not None and config.ablation.resample.data is not None
    assert config.ablation.resample.data.file == str(tmp_path / "others.txt")
    elsewhere = tmp_path / "sub"
    elsewhere.mkdir()
    (elsewhere / "c.yaml").write_text(config.to_yaml())
    assert config_file.load(elsewhere / "c.yaml") == config
    hub: RunConfig = config_file.parse(SHORT.replace("domains", "org/name"), "c").relative_to(tmp_path)
    assert hub.model.name == "org/name"
