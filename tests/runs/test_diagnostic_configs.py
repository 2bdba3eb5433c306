"""What a configuration can say of diagnostics: shorthands, the way back to YAML, and wrong fields by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ablationlens.errors import ConfigError
from ablationlens.runs import config_file
from ablationlens.runs.config import RunConfig
from ablationlens.runs.overrides import Override

SHORT: dict[str, Any] = {
    "model": "domains",
    "data": {"domain": "python"},
    "registry": "head",
    "method": ["attribute", "leave_one_out"],
}
SETS = {"python": {"domain": "python"}, "mine": {"file": "mine.txt", "count": 4}}
ALL: list[Any] = [
    "drift",
    {"drift": {"by": ["layer", "module"], "name": "by module"}},
    {"drift": {"without": {"pair": ["L0.head 0", "L0.head 1"], "one": "L0.head 2"}, "name": "named"}},
    {"drift": {"alpha": 5e-2, "draws": 9, "name": "random"}},
    {"drift": {"top": 3, "name": "top"}},
    {"ablation_table": {"by": "head", "patterns": False, "attention": "attn", "scored_only": True}},
    {"domains": {"data": SETS, "alpha": 0.1, "method": "coar", "draws": 8, "held_out": 0}},
    {"stability": {"data": SETS, "times": [1, 2], "seeds": 3, "kind": "cosine"}},
    {"ceiling": {"alphas": [0.1, 0.2], "draws": 30}},
    {"compare": {"top": [2, 3], "ceiling": True}},
    "completeness",
    {"faithfulness": {"counts": [0, 2], "order": "absolute", "ranking": "example", "random_orders": 5}},
    {"fit_alpha": {"fit_alphas": [0.1], "alphas": 0.2, "method": "coar", "fit_draws": 9, "draws": 9}},
    {"sample_size": {"fit_draws": [9, 20]}},
    {"model_effect": {"alphas": 0.5}},
    {"ablation_method": {"ablations": {"half": {"scale": {"gamma": 0.5}}, "mean": {"mean": {"data": SETS["mine"]}}}}},
    {"output_function": {"outputs": {"loss": "cross_entropy", "head": {"pattern_mass": {"layer": 0, "head": 1}}}}},
    {"out_of_distribution": {"data": SETS}},
]


def parsed(folder: Path | None = None, *changes: str, **fields: Any) -> RunConfig:
    overrides = [Override.parse(change, Path("/here")) for change in changes]
    return config_file.parse(yaml.safe_dump({**SHORT, **fields}), "c.yaml", overrides, folder)


def test_every_option_reads_and_survives_a_round_trip() -> None:
    config = parsed(diagnose=ALL)
    assert {one.choice[0] for one in config.diagnose or ()} == set(type((config.diagnose or [])[0]).model_fields)
    assert [one.slug for one in config.diagnose or ()][:3] == ["drift", "by_module", "named"]
    assert [one.file for one in config.diagnose or ()][:6:2] == ["drift", "drift.named", "drift.top"]
    again = config_file.parse(config.to_yaml(), "again")
    assert again == config
    whole = config.for_components(8)
    assert whole != config and config_file.parse(whole.to_yaml(), "again").for_components(8) == whole
    domains, stability = (whole.diagnose or [])[6].domains, (whole.diagnose or [])[7].stability
    assert domains is not None and stability is not None
    assert (domains.alpha, stability.alpha) == (0.1, 0.0625)


def test_nothing_by_default_and_one_alone() -> None:
    assert parsed().diagnose is None and parsed().diagnostics == {}
    assert "diagnose" not in yaml.safe_load(parsed().to_yaml())
    one = parsed(diagnose="drift")
    assert one == parsed(diagnose=["drift"]) == parsed(diagnose={"drift": None})
    assert list(one.diagnostics) == ["diagnose.drift"]
    assert list(parsed(diagnose=["drift", "completeness"]).diagnostics) == [
        "diagnose.0.drift",
        "diagnose.1.completeness",
    ]


def test_files_are_relative_to_the_configuration() -> None:
    config = parsed(Path("/there"), diagnose=ALL)
    files = [one.sets["mine"].file for one in config.diagnose or () if one.sets]
    assert files == ["/there/mine.txt"] * 3
    method = (config.diagnose or [])[15].ablation_method
    assert method is not None and method.ablations is not None
    mean = method.ablations["mean"].mean
    assert mean is not None and mean.data is not None and mean.data.file == "/there/mine.txt"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (["diagnose=drift"], "drift"),
        (["diagnose=drift", "diagnose.drift.by=layer"], {"drift": {"by": "layer"}}),
        (["diagnose=[drift, completeness]", "diagnose.0.drift.top=3"], [{"drift": {"top": 3}}, "completeness"]),
        (
            ["diagnose={domains: {data: {a: {domain: cpp}, b: {domain: data}}}}", "diagnose.domains.data.a.file=x.txt",
             "diagnose.domains.data.a.domain=null", "diagnose.domains.draws=3"],
            {"domains": {"data": {"a": {"file": "/here/x.txt"}, "b": {"domain": "data"}}, "draws": 3}},
        ),
        (
            ["diagnose=[drift]", "diagnose.0={domains: {data: {a: {file: x.txt}, b: {file: y.txt}}}}"],
            [{"domains": {"data": {"a": {"file": "/here/x.txt"}, "b": {"file": "/here/y.txt"}}}}],
        ),
    ],
)  # fmt: skip
def test_fields_are_set_on_the_command_line(changes: list[str], wanted: Any) -> None:
    assert parsed(None, *changes) == parsed(diagnose=wanted)


@pytest.mark.parametrize(
    ("diagnose", "expected"),
    [
        ("drfit", "c.yaml: diagnose.drfit: unknown; choose one of drift, ablation_table, domains, stability"),
        ("drfit", "(did you mean drift?)"),
        (["drift", "what"], "diagnose.1.what: unknown; choose one of drift"),
        ("attention_patterns", "in Python: al.attention_patterns(model, data, mask)"),
        ([], "c.yaml: diagnose: name at least one, as in diagnose: [drift, ablation_table], or leave it out; got []"),
        (["drift", "drift"], "diagnose: every diagnostic needs a name of its own, name: ...; got 'drift' twice"),
        ({"drift": {"by": "laier"}}, "diagnose.drift.by: should be 'component', 'head', 'layer', 'module', 'kind' or"),
        ({"ablation_table": {"by": ["layer", "hed"]}}, "diagnose.ablation_table.by.1: should be 'component', 'head'"),
        ({"ablation_table": {"by": ["layer", "head"]}}, "diagnose.ablation_table.by: component and head stand alone"),
        (
            {"ablation_table": {"by": []}},
            "diagnose.ablation_table.by: say what the components of a part share: by: layer, or [layer",
        ),
        (
            {"ablation_table": {"patern": True}},
            "diagnose.ablation_table.patern: unknown field; there are name, by, pat",
        ),
        ({"drift": {"by": "layer", "top": 3}}, "diagnose.drift: choose the masks by one of by, top, without, or alpha"),
        ({"drift": {"alpha": 0.1}}, "diagnose.drift: random masks need both, a share and their number: {alpha: 0.05"),
        ({"drift": {"top": 0}}, "diagnose.drift.top: should be greater than or equal to 1; got 0"),
        ({"drift": {"without": {}}}, "diagnose.drift.without: "),
        ({"drift": {"without": {"x": []}}}, "diagnose.drift.without: give a name and components, as in {copying: [L0."),
        ({"drift": {"without": {"": "L0.head 1"}}}, "diagnose.drift.without: give a name and components, as in {copyi"),
        ({"drift": {"name": "\u5934"}}, "the name of a diagnostic needs a letter from a to z or a digit, for its file"),
        ({"drift": {"name": "x" * 101}}, "gives its file: choose one of at most 100 letters; got 101: 'xxxxxxxxxxxx"),
        (
            [{"drift": {"name": "a b"}}, {"compare": {"name": "A-b"}}],
            "every diagnostic needs a name of its own, name: ...; got 'a b' and 'A-b', which give one file",
        ),
        ("domains", "diagnose.domains.data: missing"),
        (
            {"domains": {"data": {"python": {"domain": "python"}}}},
            "diagnose.domains.data: should be texts by name, at least 2, as in data: {python: {domain: python}, prose: "
            "{domain: prose}}; got python",
        ),
        (
            {"domains": {"data": {"a": {"domain": "python"}, "b": {"domain": "perl"}}}},
            "diagnose.domains.data.b.domain: should be 'python', 'cpp'",
        ),
        (
            {"domains": {"data": {"a": {"domain": "python"}, "b": {"domian": "cpp"}}}},
            "diagnose.domains.data.b.domian: unknown field; there are domain, tokens",
        ),
        (
            {"domains": {"data": SETS, "held_out": -1}},
            "diagnose.domains.held_out: should be greater than or equal to 0",
        ),
        ({"domains": {"data": SETS, "held_out": 2}}, "diagnose.domains.held_out: a correlation needs at least 3 masks"),
        (
            {"domains": {"data": SETS, "draws": 0}},
            "diagnose.domains.draws: should be greater than or equal to 1; got 0",
        ),
        ({"domains": {"data": SETS, "method": "cor"}}, "diagnose.domains.method: should be 'path_gradient' or 'coar'"),
        ({"stability": {"data": {}}}, "diagnose.stability.data: should be texts by name, at least 1"),
        ({"stability": {"seeds": 1}}, "diagnose.stability.seeds: should be greater than or equal to 2; got 1"),
        ({"stability": {"times": [1, 1]}}, "diagnose.stability.times: should be different multiples of draws"),
        ({"out_of_distribution": {"data": {"a": {"domain": "cpp"}}}}, "diagnose.out_of_distribution.data: should be"),
        ({"output_function": {"outputs": {"a": "loss"}}}, "diagnose.output_function.outputs.a.loss: unknown; choose"),
    ],
)
def test_wrong_fields_are_named(diagnose: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(diagnose=diagnose)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("diagnose", "method", "expected"),
    [
        ("ceiling", "leave_one_out", "c.yaml: diagnose: ceiling runs methods with random masks again, and there is no"),
        ({"compare": {"ceiling": True}}, "leave_one_out", "diagnose: compare runs methods with random masks again"),
        ("compare", "attribute", "diagnose: compare needs two methods, method: [attribute, leave_one_out], or"),
    ],
)
def test_diagnostics_of_attributions_have_those_that_they_need(diagnose: Any, method: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(diagnose=diagnose, method=method)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"head": 0}, "output.pattern_mass.layer: missing"),
        ({"layer": -1, "head": 0}, "output.pattern_mass.layer: should be greater than or equal to 0; got -1"),
        ({"layer": 0, "head": 0, "target": "next"}, "output.pattern_mass.target: should be 'induction', 'previous'"),
        (
            {"layer": 0, "head": 0, "targt": 1},
            "unknown field; there are layer, head, target, attention (did you mean t",
        ),
    ],
)
def test_pattern_mass(options: dict[str, Any], expected: str) -> None:
    for target in ("induction", "previous", "first", "current", 3, -1):
        found = parsed(output={"pattern_mass": {"layer": 1, "head": 2, "target": target}}).output.pattern_mass
        assert found is not None and (found.layer, found.head, found.target) == (1, 2, target)
    with pytest.raises(ConfigError) as caught:
        parsed(output={"pattern_mass": options})
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"sequences": 1}, "data.sequences: should be greater than or equal to 2; got 1"),
        ({"sequences": 8, "domain": "cpp"}, "or sequences; got domain and sequences"),
        ({"sequences": 8, "truncate": 4}, "truncate is for the texts of a file; sequences is a length"),
        ({"sequences": 8, "tokens": 9}, "tokens is the length of a domain's texts"),
    ],
)
def test_sequences(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(data=data)
    assert expected in str(caught.value)
