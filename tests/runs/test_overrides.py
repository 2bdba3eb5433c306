"""Fields that are set on the command line: read as YAML, put into the configuration, and named as they were typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ablationlens.errors import ConfigError
from ablationlens.runs import config_file
from ablationlens.runs.config import RunConfig
from ablationlens.runs.overrides import Override

HERE = Path("/here")
SHORT = """
model: domains
data: {file: texts.txt}
registry: head
output: margin
method: {coar: {alpha: 0.25, draws: 500}}
"""
SEVERAL = SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "[{coar: {alpha: 0.25, draws: 500}}, leave_one_out]")


def read(*changes: str, text: str = SHORT) -> RunConfig:
    return config_file.parse(text, "c.yaml", [Override.parse(change, HERE) for change in changes], Path("/there"))


def by_hand(text: str = SHORT, **fields: Any) -> RunConfig:
    """The configuration as if the fields had stood in the file."""
    content = yaml.safe_load(text.replace("texts.txt", "/there/texts.txt"))
    return RunConfig.model_validate({**content, **fields})


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (["seed=3"], {"seed": 3}),
        (["seed=3", "seed=4"], {"seed": 4}),
        (["model.host=torch"], {"model": {"name": "domains", "host": "torch"}}),
        (["model=induction"], {"model": "induction"}),
        (["model.name=./dir"], {"model": "/here/dir"}),
        (["model={name: ../dir, host: nnsight}"], {"model": {"name": "/dir", "host": "nnsight"}}),
        (["data.count=3"], {"data": {"file": "/there/texts.txt", "count": 3}}),
        (["data.file=a b.txt"], {"data": {"file": "/here/a b.txt"}}),
        (["data.file=[a.txt, /b.txt]"], {"data": {"file": ["/here/a.txt", "/b.txt"]}}),
        (["data.file=[a.txt, b.txt]", "data.file.1=c.txt"], {"data": {"file": ["/here/a.txt", "/here/c.txt"]}}),
        (["data={domain: python, tokens: 16}"], {"data": {"domain": "python", "tokens": 16}}),
        (["data.file=null", "data.domain=maths"], {"data": {"domain": "maths"}}),
        (["registry.layers=[0, 1]"], {"registry": {"kinds": "head", "layers": [0, 1]}}),
        (["registry.kinds=row", "registry.size=~"], {"registry": "row"}),
        (["method.coar.draws=9"], {"method": {"coar": {"alpha": 0.25, "draws": 9}}}),
        (["method.coar.alpha=5e-1"], {"method": {"coar": {"alpha": 0.5, "draws": 500}}}),
        (["output=kl"], {"output": "kl"}),
        (["output.margin.classes=[' yes', 3]"], {"output": {"margin": {"classes": [" yes", 3]}}}),
        (["output={logit: {token: ' a=b'}}"], {"output": {"logit": {"token": " a=b"}}}),
        (["ablation.mean.data.file=m.txt"], {"ablation": {"mean": {"data": {"file": "/here/m.txt"}}}}),
        ([" evaluate.draws = 7"], {"evaluate": {"draws": 7}}),
    ],
)
def test_fields_are_set(changes: list[str], fields: dict[str, Any]) -> None:
    assert read(*changes) == by_hand(**fields)


def test_one_of_several_methods() -> None:
    methods = [{"coar": {"alpha": 0.25, "draws": 9}}, {"leave_one_out": {"name": "LOO"}}]
    assert read("method.0.coar.draws=9", "method.1.leave_one_out.name=LOO", text=SEVERAL) == by_hand(method=methods)
    assert read("method.1={coar: {alpha: 0.5, draws: 8, name: b}}", text=SEVERAL).method[1].name == "b"


@pytest.mark.parametrize("number", ["", "0."])
@pytest.mark.parametrize(
    ("text", "method"),
    [
        (SHORT.partition("method:")[0], {"attribute": {"budget": 300}}),
        (SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "attribute"), {"attribute": {"budget": 300}}),
        (
            SHORT.replace("{coar: {alpha: 0.25, draws: 500}}", "{attribute: {alpha: 0.1}}"),
            {"attribute": {"alpha": 0.1, "budget": 300}},
        ),
    ],
)
def test_a_single_method_has_a_number_too(text: str, method: dict[str, Any], number: str) -> None:
    assert read(f"method.{number}attribute.budget=300", text=text) == by_hand(text, method=method)


def test_a_single_file_has_a_number_too() -> None:
    assert read("data.file.0=other.txt").data.file == ["/here/other.txt"]


def test_the_configuration_that_is_given_stays_as_it_is() -> None:
    content: dict[str, Any] = {"data": {"count": 1}, "method": [{"coar": {"draws": 1}}]}
    for change in ("data.count=2", "method.0.coar.draws=2", "evaluate.draws=3"):
        Override.parse(change, HERE).applied(content)
    assert content == {"data": {"count": 1}, "method": [{"coar": {"draws": 1}}]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("data.count", "--set data.count: expected a field and its value, for example --set data.count=50"),
        ("=3", "--set =3: expected a field and its value"),
        ("data..count=3", "expected a field and its value"),
        ("data.count=", "--set data.count=: there is no value; type null for none"),
        ("data.file=#1.txt", "there is no value"),
        ("data.count=[1", "--set data.count=[1: the value is not valid YAML"),
        ("data.file=!!python/object/apply:os.getcwd []", "the value is not valid YAML"),
        ("data.count=abc", "--set data.count=abc: data.count: should be a valid integer; got 'abc'"),
        ("data.count='3'", "--set data.count='3': data.count: should be a valid integer; got '3'"),
        ("method.1.coar.draws=5", "method is a list: say which of method.0, or set the whole of it"),
        ("method.attribute.budget=5", "method is coar here; set the whole of it, --set method=attribute"),
        ("dta.count=3", "--set dta.count=3: dta: unknown field; there are model, data"),
        ("data.cuont=3", "--set data.cuont=3: data.cuont: unknown field; there are domain, tokens, sequences"),
        ("data.cuont=3", "(did you mean count?)"),
        ("registry=heads", "--set registry=heads: registry.kinds: should be 'head'"),
        ("seed.x=3", "--set seed.x=3: seed: should be a valid integer; got {'x': 3}"),
        ("data.file.x=3", "--set data.file.x=3: data.file is '/there/texts.txt', which has no field 'x'"),
        ("data.domain=python", "c.yaml with --set data.domain=python: data: give either domain (with tokens) or file"),
        ("method.coar.draws=0", "--set method.coar.draws=0: method.coar.draws: should be greater than or equal to 1"),
        (
            "method.coarse.draws=5",
            "--set method.coarse.draws=5: method.coarse: unknown; choose one of attribute, path_gradient, coar",
        ),
        ("output.klx=1", "--set output.klx=1: output.klx: unknown; choose one of margin"),
        (
            "output.kl.direction=x",
            "--set output.kl.direction=x: output is margin here; set the whole of it, --set output=kl",
        ),
    ],
)
def test_what_is_wrong_is_named_as_it_was_typed(change: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(change)
    assert expected in str(caught.value)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("method.coar.draws=5", "method is a list: say which of method.0, method.1, or set the whole of it"),
        ("method.2.coar.draws=5", "method is a list: say which of method.0, method.1"),
        ("method.-1.coar.draws=5", "method is a list"),
        ("method.0.coar.draws=0", "--set method.0.coar.draws=0: method.0.coar.draws: should be greater"),
        ("method.1.leave_one_out.alpha=1", "method.1.leave_one_out.alpha: unknown field; there are name"),
    ],
)
def test_members_of_a_list(change: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(change, text=SEVERAL)
    assert expected in str(caught.value)


def test_errors_of_the_file_are_the_files() -> None:
    with pytest.raises(ConfigError) as caught:
        read("seed=3", "data.count=x", text=SHORT.replace("500", "0"))
    assert sorted(line.partition(": ")[0] for line in str(caught.value).splitlines()) == [
        "--set data.count=x",
        "c.yaml",
    ]
