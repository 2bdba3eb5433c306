"""Configurations: defaults, shorthands, and the way back to YAML."""

from __future__ import annotations

import pytest

from ablationlens.adapters.base import Adapter
from ablationlens.kinds import KINDS as LIBRARY_KINDS
from ablationlens.runs import config_file
from ablationlens.runs.config import KINDS
from ablationlens.runs.data_config import names_in
from ablationlens.runs.method_configs import AttributeConfig

SHORT = """
model: domains
data: {domain: python}
registry: head
method: {coar: {alpha: 0.25, draws: 500}}
"""
FULL = """
model: {name: induction, host: torch, device: auto, dtype: float32}
data: {file: texts.jsonl, field: text, count: 4, truncate: 9, positions: [-1, -2]}
registry: {kinds: [head, neuron], layers: [0, 1], modules: [q], size: 4, svd: 2, allow_overlap: true}
ablation: {resample: {data: {file: others.txt}}}
output: {logit_difference: {a: " he", b: 7}}
method:
  - coar: {alpha: 5e-2, draws: 100, design: subset, solver: lasso, name: first}
  - coar: {alpha: 0.1, draws: 100, design: balanced, solver: least_squares, name: second}
  - leave_one_out
  - attribute: {alpha: 0.05, budget: 300, tolerance: null}
  - path_gradient: {alpha: 0.05, draws: 100, rho: 0.02}
  - gradient_x_parameter: {name: gxp}
  - integrated_gradients: {steps: 8}
  - shapley: {method: kernel, samples: 99}
  - conductance: {steps: 8}
  - internal_influence
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
    assert [method.slug for method in config.method[:5]] == [
        "first", "second", "leave_one_out", "attribute", "path_gradient"
    ]  # fmt: skip
    assert config.method[3].attribute is not None and config.method[3].attribute.tolerance is None
    again = config_file.parse(config.to_yaml(), "again")
    assert again == config and again.for_components(100) == config


def test_without_a_method_it_is_attribute() -> None:
    config = config_file.parse(SHORT.partition("method:")[0], "c.yaml")
    assert [method.attribute for method in config.method] == [AttributeConfig()]
    assert config.method[0].attribute is not None and config.method[0].attribute.budget == 1000
    assert config_file.parse(config.to_yaml(), "again") == config
    assert config == config_file.parse(SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "attribute"), "c.yaml")


@pytest.mark.parametrize(("components", "alpha"), [(2, 0.25), (8, 0.0625), (10, 0.05), (4608, 0.05)])
def test_alphas_that_are_left_open(components: int, alpha: float) -> None:
    methods = "[attribute, {path_gradient: {alpha: 0.25, draws: 5}}, leave_one_out]"
    config = config_file.parse(SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", methods), "c.yaml")
    whole = config.for_components(components)
    assert [method.alpha for method in whole.method] == [alpha, 0.25, None]
    assert whole.alphas == list(dict.fromkeys([alpha, 0.25]))
    assert whole.for_components(components) == whole
    alone = config_file.parse(SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "leave_one_out"), "c.yaml")
    assert alone.for_components(components).alphas == [alpha]
    asked = config_file.parse(SHORT + "evaluate: {alphas: 0.1}", "c.yaml")
    assert asked.for_components(components).alphas == [0.1]


def test_kinds_are_those_of_the_library() -> None:
    assert set(KINDS) == {*LIBRARY_KINDS, "rank_one"}
    assert Adapter.registry.__doc__ is not None and all(kind in Adapter.registry.__doc__ for kind in KINDS)


def test_labels_templates_and_several_files() -> None:
    text = """
model: domains
data:
  file: [a.jsonl, b.jsonl]
  template: "{passage} {question}?"
  label: {field: answer, tokens: {true: " yes", no: " no", 3: 7, "x": " x"}}
registry: head
output: {margin: {classes: [" yes", 7]}}
method: leave_one_out
"""
    config = config_file.parse(text, "c.yaml")
    assert config.data.files == ["a.jsonl", "b.jsonl"]
    assert config.data.label is not None
    assert config.data.label.tokens == {"true": " yes", "false": " no", "3": 7, "x": " x"}  # a bare no is false
    assert config.output.margin is not None and config.output.margin.classes == [" yes", 7]
    assert config_file.parse(config.to_yaml(), "again") == config
    short = config_file.parse(text.replace("{field: answer, ", "answer #"), "c.yaml").data.label
    assert short is not None and (short.field, short.tokens) == ("answer", None)


def test_names_in_a_template() -> None:
    assert names_in("{a}: {b c}{{}}\n{a}") == ["a", "b c", "a"]
