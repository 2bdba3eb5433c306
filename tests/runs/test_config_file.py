"""Wrong configurations: every wrong field is named, with what came and what could stand there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ablationlens.errors import ConfigError
from ablationlens.runs import config_file

SHORT = """
model: domains
data: {domain: python}
registry: head
method: {coar: {alpha: 0.25, draws: 500}}
"""


def changed(**fields: object) -> str:
    return yaml.safe_dump({**yaml.safe_load(SHORT), **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modle": "x"}, "c.yaml: modle: unknown field; there are model, data"),
        ({"modle": "x"}, "(did you mean model?)"),
        ({"registry": {"kinds": "head", "layer": [0]}}, "registry.layer: unknown field; there are kinds, layers"),
        ({"registry": "heads"}, "registry.kinds: should be 'head', 'head_query',"),
        (
            {"model": {"name": "x", "host": "jax"}},
            "model.host: should be 'transformer_lens', 'torch' or 'nnsight'; got 'jax'",
        ),
        ({"model": 3}, "model: should be a mapping; got 3"),
        ({"method": {"coar": {"alpha": 1.5, "draws": 5}}}, "method.coar.alpha: should be less than 1; got 1.5"),
        ({"method": {"coar": {"alpha": 0, "draws": 5}}}, "method.coar.alpha: should be greater than 0; got 0"),
        ({"method": [{"coar": {"alpha": 0.5}}]}, "method.0.coar.draws: missing"),
        ({"method": {"coar": {"alpha": 0.5, "draws": True}}}, "method.coar.draws: should be a valid integer; got True"),
        ({"method": "coarse"}, "method.coarse: unknown; choose one of attribute, path_gradient, coar, leave_one_out, "),
        ({"method": "coarse"}, "(did you mean coar?)"),
        ({"method": {"attribute": {"alpha": 2}}}, "method.attribute.alpha: should be less than 1; got 2"),
        ({"method": {"attribute": {"budget": 9}}}, "method.attribute.budget: should be greater than or equal to 10"),
        ({"method": {"attribute": {"budget": 1e3}}}, "method.attribute.budget: should be a valid integer; got 1000.0"),
        ({"method": {"attribute": {"tolerance": 0}}}, "method.attribute.tolerance: should be greater than 0; got 0"),
        ({"method": {"attribute": {"draws": 9}}}, "method.attribute.draws: unknown field; there are alpha, budget"),
        ({"method": {"path_gradient": {"draws": 9}}}, "method.path_gradient.alpha: missing"),
        ({"method": {"path_gradient": {"alpha": 0.1, "draws": 9, "rho": 0}}}, "rho: should be greater than 0; got 0"),
        ({"method": {"integrated_gradients": {"steps": 0}}}, "steps: should be greater than or equal to 1; got 0"),
        ({"method": {"gradient_x_parameter": {"alpha": 0.1}}}, "alpha: unknown field; there are name"),
        ({"method": {"shapley": {"method": "all"}}}, "should be 'sampling', 'kernel' or 'exact'; got 'all'"),
        ({"method": "activation_patching"}, "in Python: al.activation_patching(model, clean, corrupt)"),
        ({"method": "attribution_patching"}, "method.attribution_patching: it compares every text with a corrupt one"),
        (
            {"method": {"attribute": {"name": "Scores"}}},
            "no method can have the name 'Scores', which is that of a file",
        ),
        ({"method": []}, "method: "),
        ({"method": ["leave_one_out", "leave_one_out"]}, "name of its own, name: ...; got 'leave-one-out' twice"),
        ({"ablation": "scale"}, "ablation.scale.gamma: missing"),
        ({"ablation": {"zero": None, "scale": {"gamma": 0.5}}}, "ablation: choose exactly one of zero, scale, mean"),
        ({"ablation": {"mean": {"data": {"fil": "x"}}}}, "ablation.mean.data.fil: unknown field"),
        ({"output": {"kl": {"direction": "both"}}}, "output.kl.direction: should be 'clean||ablated' or"),
        (
            {"output": {"cross_entropy": {"x": 1}}},
            "output.cross_entropy.x: unknown field; there is nothing to set here",
        ),
        ({"output": {"margin": {"classes": [" yes"]}}}, "output.margin.classes: List should have at least 2"),
        (
            {"output": {"margin": {"classes": [True, 1]}}},
            "output.margin.classes.0: should be a valid integer; got True",
        ),
        ({"output": {"logit": {"token": [1]}}}, "integer; got [1], or should be a valid string; got [1]"),
        ({"data": {"domain": "py"}}, "data.domain: should be 'python', 'cpp'"),
        ({"data": {}}, "data: give either domain (with tokens) or file"),
        ({"data": {"file": "x.jsonl"}}, "data: field names the text in a .jsonl file"),
        ({"data": {"file": "x.jsonl", "field": "a", "template": "{a}"}}, "or template makes it; got both"),
        ({"data": {"file": "x.txt", "field": "a"}}, "data: field is for the objects of a .jsonl file"),
        ({"data": {"file": "x.txt", "template": "{a}"}}, "data: template is for the objects of a .jsonl file"),
        ({"data": {"domain": "python", "label": "a"}}, "data: label is for the objects of a .jsonl file"),
        ({"data": {"file": ["x.jsonl", "x.txt"], "field": "a"}}, "data: file: give .jsonl files only, or text files"),
        ({"data": {"file": []}}, "got [], or List should have at least 1 item"),
        (
            {"data": {"file": "x.jsonl", "template": "{}"}},
            "data.template: between the braces of a template stand names",
        ),
        ({"data": {"file": "x.jsonl", "template": "a"}}, "data.template: between the braces of a template stand names"),
        ({"data": {"file": "x.jsonl", "template": "{a!r}"}}, "data.template: between the braces"),
        ({"data": {"file": "x.jsonl", "template": "{a"}}, "data.template: names stand in braces, as {question}"),
        ({"data": {"file": "x.jsonl", "field": "a", "label": 3}}, "data.label: should be a mapping; got 3"),
        ({"data": {"file": "x.jsonl", "field": "a", "label": {"field": "b", "tokens": {}}}}, "data.label.tokens: "),
        ({"data": {"file": "x.jsonl", "field": "a", "label": "b", "truncate": 5}}, "data: truncate would take the end"),
        ({"data": {"file": "x.txt", "tokens": 9}}, "data: tokens is the length of a domain's texts"),
        ({"data": {"domain": "python", "truncate": 9}}, "data: truncate is for the texts of a file"),
        ({"evaluate": {"alphas": [0.1, 2]}}, "evaluate.alphas.1: should be less than 1; got 2"),
        ({"seed": -1}, "seed: should be greater than or equal to 0; got -1"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(changed(**fields), "c.yaml")
    assert expected in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_one_line_for_each_wrong_field_unknown_ones_first() -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse("modle: domains\ndata: {domain: python}\nregistry: head\nmethod: leave_one_out", "c.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "did you mean model?" in lines[0] and lines[1] == "c.yaml: model: missing"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "c.yaml: not valid YAML: line 1, column 5"),
        ("- 1", "a configuration is a mapping with the fields model, data"),
        ("", "a configuration is a mapping"),
        ("model: !!python/object/apply:os.getcwd []", "not valid YAML: line 1, column 8: could not determine"),
    ],
)
def test_text_that_is_no_configuration(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.parse(text, "c.yaml")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        config_file.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config_file.load(tmp_path / "binary.yaml")
