"""Diagnostics of a configuration: each is the function of its name, costs what is said of it, and is kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from transformers import PreTrainedModel

import ablationlens as al
from ablationlens.errors import ConfigError
from ablationlens.evaluate import studies
from ablationlens.masks.designs import random_design
from ablationlens.runs import config_file, diagnostic_plans, diagnostics
from ablationlens.runs import running as runs
from ablationlens.runs.diagnostic_configs import DiagnosticConfig
from ablationlens.runs.running import Prepared, Results
from ablationlens.runs.summary import planned
from tests.runs.test_methods import Rows
from tests.runs.tiny_runs import TEXTS, Command, Refused, WriteConfig

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]

SEED = 3
METHODS: list[Any] = [{"coar": {"alpha": 0.25, "draws": 20}}, "leave_one_out"]
LAST = "w4 w3 w2 w1 w9"
SETS = {"first": {"file": "first.txt"}, "second": {"file": "second.txt"}}
FIT: dict[str, Any] = {"alpha": 0.25, "fit_draws": 6, "draws": 5}
Call = Callable[[Prepared, Results], Any]


def texts_of(prepared: Prepared, texts: list[str]) -> al.Batch:
    return al.batch([*texts, LAST], tokenizer=prepared.data.tokenizer)


def both(prepared: Prepared) -> dict[str, al.Batch]:
    """What `SETS` names."""
    return {"first": texts_of(prepared, TEXTS), "second": texts_of(prepared, TEXTS[::-1])}


def again(prepared: Prepared) -> dict[str, al.Attribution]:
    return {"COAR": al.coar(prepared.model, prepared.data, alpha=0.25, draws=20, seed=SEED + 1)}


CASES: dict[str, tuple[str, dict[str, Any], Call]] = {
    "drift of components": (
        "drift",
        {},
        lambda p, _: al.drift(p.model, p.data, {name: name for name in p.model.registry.names}),
    ),
    "drift of layers": (
        "drift",
        {"by": "layer"},
        lambda p, _: al.drift(p.model, p.data, {"L0": [0, 1, 2, 3], "L1": [4, 5, 6, 7]}),
    ),
    "drift of the top": (
        "drift",
        {"top": 2},
        lambda p, r: al.drift(
            p.model,
            p.data,
            {name: name for name in np.array(r.attributions["COAR"].components)[
                np.argsort(-abs(r.attributions["COAR"].weights.values.mean(0)))[:2]
            ].tolist()},
        ),
    ),
    "drift by names": (
        "drift",
        {"without": {"a head": "L0.head 1", "two": ["L0.head 0", "L1.head 2"]}},
        lambda p, _: al.drift(p.model, p.data, {"a head": "L0.head 1", "two": ["L0.head 0", "L1.head 2"]}),
    ),
    "drift of random masks": (
        "drift",
        {"alpha": 0.25, "draws": 7},
        lambda p, _: al.drift(p.model, p.data, random_design("bernoulli", 8, 0.25, 7, SEED)),
    ),
    "table": ("ablation_table", {}, lambda p, _: al.ablation_table(p.model, p.data)),
    "table of groups": (
        "ablation_table",
        {"by": ["layer", "kind"], "patterns": False, "scored_only": True},
        lambda p, _: al.ablation_table(p.model, p.data, by=["layer", "kind"], patterns=False, scored_only=True),
    ),
    "domains": (
        "domains",
        {"data": SETS, "alpha": 0.25, "method": "coar", "draws": 12, "held_out": 6},
        lambda p, _: al.domains(p.model, both(p), alpha=0.25, method=al.coar, draws=12, held_out=6, seed=SEED),
    ),
    "domains by default": (
        "domains",
        {"data": SETS, "draws": 5, "held_out": 0},
        lambda p, _: al.domains(p.model, both(p), alpha=0.0625, draws=5, held_out=0, seed=SEED),
    ),
    "stability": (
        "stability",
        {"data": SETS, "alpha": 0.25, "draws": 4, "times": [1, 2], "seeds": 3, "kind": "cosine"},
        lambda p, _: al.stability(
            p.model, both(p), alpha=0.25, draws=4, times=[1, 2], seeds=3, kind="cosine", seed=SEED
        ),
    ),
    "stability of the run's data": (
        "stability",
        {"alpha": 0.25, "draws": 4, "times": 1},
        lambda p, _: al.stability(p.model, p.data, alpha=0.25, draws=4, times=[1], seed=SEED),
    ),
    "ceiling": (
        "ceiling",
        {"draws": 10},
        lambda p, r: al.ceiling(
            p.model, p.data, r.attributions, again=again(p), alphas=[0.25, 0.5], draws=10, seed=SEED
        ),
    ),
    "compare": ("compare", {"top": 2}, lambda _, r: al.compare(r.attributions, top=2)),
    "compare with a ceiling": (
        "compare",
        {"ceiling": True},
        lambda p, r: al.compare(r.attributions, ceiling=again(p)),
    ),
    "completeness": ("completeness", {}, lambda p, r: al.completeness(p.model, p.data, r.attributions)),
    "faithfulness": (
        "faithfulness",
        {"counts": [2, 4], "order": "absolute", "ranking": "example", "random_orders": 3},
        lambda p, r: al.faithfulness(
            p.model,
            p.data,
            r.attributions,
            counts=[2, 4],
            order="absolute",
            ranking="example",
            random_orders=3,
            seed=SEED,
        ),
    ),
    "fit_alpha": (
        "fit_alpha",
        {"fit_alphas": [0.25, 0.5], "alphas": 0.25, "fit_draws": 6, "draws": 5},
        lambda p, _: studies.fit_alpha(
            p.model, p.data, fit_alphas=[0.25, 0.5], alphas=[0.25], fit_draws=6, draws=5, seed=SEED
        ),
    ),
    "sample_size": (
        "sample_size",
        {"fit_draws": [3, 6], "alpha": 0.25, "draws": 5},
        lambda p, _: studies.sample_size(p.model, p.data, fit_draws=[3, 6], alpha=0.25, draws=5, seed=SEED),
    ),
    "model_effect": (
        "model_effect",
        {"draws": 5},
        lambda p, _: studies.model_effect(p.model, p.data, draws=5, seed=SEED),
    ),
    "ablation_method": (
        "ablation_method",
        {"ablations": {"zero": "zero", "mean": {"mean": {"data": {"file": "first.txt"}}}}, **FIT},
        lambda p, _: studies.ablation_method(
            p.model, p.data, ablations={"zero": al.Zero(), "mean": al.Mean(texts_of(p, TEXTS))}, seed=SEED, **FIT
        ),
    ),
    "output_function": (
        "output_function",
        {"outputs": {"loss": "cross_entropy", "w3": {"logit": {"token": "w3"}}}, **FIT},
        lambda p, _: studies.output_function(
            p.model, p.data, outputs={"loss": al.CrossEntropy(), "w3": al.Logit("w3")}, seed=SEED, **FIT
        ),
    ),
    "out_of_distribution": (
        "out_of_distribution",
        {"data": SETS, **FIT},
        lambda p, _: studies.out_of_distribution(p.model, both(p), seed=SEED, **FIT),
    ),
}  # fmt: skip


def with_texts(path: Path) -> Path:
    """The folder of a configuration, with the files that it names."""
    for name, texts in (("first", TEXTS), ("second", TEXTS[::-1]), ("four", TEXTS)):
        (path.parent / f"{name}.txt").write_text("\n".join([*texts, LAST]) + "\n")
    return path


@pytest.fixture
def write(write_config: WriteConfig) -> WriteConfig:
    """As `write_config`, for diagnostics: two methods, and two more files of texts."""

    def with_files(**fields: Any) -> Path:
        return with_texts(write_config(**{"method": METHODS, "seed": SEED, "data": {"file": "four.txt"}, **fields}))

    return with_files


@pytest.fixture(scope="module")
def everything(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path]:
    """A finished run that asks for every case, and its directory."""
    folder = tmp_path_factory.mktemp("everything")
    content = {
        "model": {"name": str(tiny_directory), "host": "torch"},
        "data": {"file": "four.txt"},
        "registry": "head",
        "method": METHODS,
        "evaluate": {"alphas": [0.25, 0.5], "draws": 20},
        "seed": SEED,
        "diagnose": [{name: {**options, "name": case}} for case, (name, options, _) in CASES.items()],
    }
    path = with_texts(folder / "run.yaml")
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    config = config_file.load(path)
    one, out = runs.prepare(config), folder / "out"
    runs.begin(config, out, resume=False)
    runs.execute(one, out)
    return one, out


def prepared(write: WriteConfig, diagnose: Any, **fields: Any) -> Prepared:
    return runs.prepare(config_file.load(write(diagnose=diagnose, **fields)))


def same(found: Any, wanted: Any) -> None:
    """Two results hold the same."""
    pd.testing.assert_frame_equal(found.table(), wanted.table(), check_dtype=False)
    if isinstance(wanted, al.Drift):
        np.testing.assert_array_equal(found.values["kl"].values, wanted.values["kl"].values)


@pytest.mark.parametrize("case", CASES)
def test_each_is_the_function_of_its_name_and_costs_what_is_said(everything: tuple[Prepared, Path], case: str) -> None:
    one, out = everything
    found = runs.read(out)[1]
    rows = Rows(cast("PreTrainedModel", one.model.adapter.model))
    wanted = CASES[case][2](one, found)
    made = rows.count
    same(found.diagnostics[case], wanted)
    assert found.diagnostics[case].provenance.keys() == wanted.provenance.keys()

    subject = one.subjects[case]
    asked = next(each for each in one.config.diagnostics.values() if each.name == case)
    kept = diagnostics.load(asked, runs.diagnostic_path(out, asked))
    assert kept.provenance["asked"]["diagnostic"] == CASES[case][0]
    told = diagnostic_plans.rows(asked, subject)
    means = len(texts_of(one, TEXTS)) if case == "ablation_method" else 0  # what a mean is taken over is read once
    assert made == told + means
    assert (made > 0) == (case != "compare")
    cost = f"{told:,} forward rows, a gradient counted as three" if told else "no forward passes"
    assert f"diagnose {case}: {cost}" in list(planned(one))


def test_what_is_printed_and_shown(command: Command, write: WriteConfig, tmp_path: Path) -> None:
    diagnose = ["drift", {"ablation_table": {"by": "layer"}}, {"domains": {"data": SETS, "draws": 5, "held_out": 3}}]
    config, out = write(diagnose=diagnose, method="leave_one_out"), tmp_path / "out"
    code, printed, err = command("run", config, "--out", out)
    assert code == 0, err
    assert "diagnose drift: 36 forward rows, a gradient counted as three\ndiagnose ablation table: 12 forward" in err
    assert err.index("diagnose drift") < err.index("forward rows of 5 positions")
    assert "\ndrift: Predictions drift most" in printed and "\nablation table: Of 2 parts" in printed
    titles = ("How do predictions change?", "What is lost without each part?", "Do domains use the same parts?")
    for _ in ("as it was written", "as it is written again"):
        page = (out / "report.html").read_text()
        assert all(title in page for title in titles)
        (out / "report.html").unlink()
        assert command("report", out)[0] == 0


def test_names_that_were_given_tell_diagnostics_apart(command: Command, write: WriteConfig, tmp_path: Path) -> None:
    diagnose = ["drift", {"drift": {"by": "layer", "name": "<i>layers</i>"}}, {"drift": {"top": 1, "name": "first"}}]
    out = tmp_path / "out"
    code, _, err = command("run", write(diagnose=diagnose, method="leave_one_out"), "--out", out)
    assert code == 0, err
    heads = re.findall(r'<h4 class="question">(.*?)</h4>', (out / "report.html").read_text())
    asked = "How do predictions change?"
    assert heads == [asked, f"{asked} (&lt;i&gt;layers&lt;/i&gt;)", f"{asked} (first)"]
    assert all("name" not in one.provenance for one in runs.read(out)[1].diagnostics.values())


def test_every_diagnostic_is_tested() -> None:
    assert {name for name, _, _ in CASES.values()} == set(DiagnosticConfig.model_fields) == set(diagnostics.LOADS)


@pytest.mark.parametrize(
    ("diagnose", "expected"),
    [
        ({"drift": {"top": 99}}, "diagnose.drift: top is 99, and there are 8 components"),
        ({"drift": {"without": {"it": "L0.head 9"}}}, "diagnose.drift: .*L0.head 9"),
        ({"drift": {"alpha": 1e-3, "draws": 5}}, "diagnose.drift: .*smallest alpha"),
        (["drift", {"ablation_table": {"attention": "cross", "patterns": True}}], "diagnose.1.ablation_table: no att"),
        ({"domains": {"data": SETS, "alpha": 0.001}}, "diagnose.domains: .*smallest alpha"),
        (
            {"domains": {"data": {"first": {"file": "first.txt"}, "second": {"file": "none.txt"}}}},
            "diagnose.domains.data.second.file: .*none.txt cannot be read",
        ),
        ({"stability": {"data": {"few": {"file": "first.txt", "count": 3}}}}, "diagnose.stability: data.'few'. has 3"),
        ({"compare": {"top": 99}}, "diagnose.compare: top is 99"),
        ({"faithfulness": {"counts": [0, 99]}}, "diagnose.faithfulness: counts are from 0 to 8"),
        ({"fit_alpha": {"alphas": 0.001}}, "diagnose.fit_alpha: .*smallest alpha"),
        (
            {"output_function": {"outputs": {"far": {"pattern_mass": {"layer": 0, "head": 9}}}}},
            "diagnose.output_function.outputs.far.pattern_mass.head: layer 0 has heads 0 to 3; got 9",
        ),
    ],
)
def test_what_would_fail_is_found_before_anything_runs(write: WriteConfig, diagnose: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        prepared(write, diagnose)


def test_heads_by_name_are_of_a_registry_of_heads(write: WriteConfig) -> None:
    with pytest.raises(ConfigError, match="diagnose.drift: by: head is for a registry of heads alone, registry: head;"):
        prepared(write, {"drift": {"by": "head"}}, registry="matrix")


# --- going on with a run ----------------------------------------------------------------------------------------------


TWO: list[Any] = [{"drift": {"by": "layer"}}, {"domains": {"data": SETS, "alpha": 0.25, "draws": 5, "held_out": 3}}]


@pytest.fixture
def out(write: WriteConfig, tmp_path: Path) -> Path:
    """A directory with a finished run."""
    folder = tmp_path / "out"
    config = config_file.load(write(diagnose=TWO))
    runs.begin(config, folder, resume=False)
    runs.execute(runs.prepare(config), folder)
    return folder


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "diagnostics").iterdir()}


def test_what_is_finished_is_not_computed_again(
    command: Command, write: WriteConfig, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(diagnostics, "run_diagnostic", never)
    before = kept(out)
    assert set(before) == {"drift.safetensors", "domains.safetensors"}
    code, printed, err = command("run", write(diagnose=TWO), "--out", out, "--resume")
    assert code == 0, err
    assert "drift: finished already, in" in err and "domains: finished already, in" in err
    assert "\ndrift: Predictions drift most" in printed
    assert kept(out) == before


@pytest.mark.parametrize("damage", [b"", b"damaged"])
def test_a_run_that_was_stopped_goes_on(
    command: Command, refused: Refused, write: WriteConfig, out: Path, damage: bytes
) -> None:
    before, path = runs.read(out)[1].diagnostics["drift"], out / "diagnostics" / "drift.safetensors"
    path.write_bytes(damage) if damage else path.unlink()
    line = refused("report", out)
    assert ("has no diagnostics/drift.safetensors; go on with it" in line) == (not damage)
    code, _, err = command("run", write(diagnose=TWO), "--out", out, "--resume")
    assert code == 0, err
    assert "drift: finished already" not in err and "domains: finished already, in" in err
    same(runs.read(out)[1].diagnostics["drift"], before)


def test_more_work_another_method_and_another_diagnostic(command: Command, write: WriteConfig, out: Path) -> None:
    more = [TWO[0], {"domains": {**TWO[1]["domains"], "held_out": 5}}, "completeness"]
    code, _, err = command("run", write(diagnose=more), "--out", out, "--resume")
    assert code == 0, err
    assert "drift: finished already, in" in err and "domains: finished already" not in err
    assert runs.read(out)[1].diagnostics["domains"].provenance["held_out"] == 5
    methods = [*METHODS, "gradient_x_parameter"]
    code, _, err = command("run", write(diagnose=more, method=methods), "--out", out, "--resume")
    assert code == 0, err
    found = cast("al.Completeness", runs.read(out)[1].diagnostics["completeness"])
    assert list(found.table()["method"]) == ["COAR", "leave-one-out", "gradient x parameter"]


@pytest.mark.parametrize(
    ("diagnose", "fields", "expected"),
    [
        ({"drift": {"by": "component"}}, {}, 'drift.safetensors belongs to another run: by is ["layer"] there and'),
        (TWO, {"ablation": "mean"}, 'ablation.ablation is "Zero" there and "Mean" now'),
        (TWO, {"data": {"file": "four.txt", "count": 2}}, "data.examples is 4 there and 2 now"),
        (TWO[1], {"seed": 4}, "seed is 3 there and 4 now"),
        (
            {"domains": {**TWO[1]["domains"], "data": {**SETS, "second": {"file": "first.txt"}}}},
            {},
            "sets.second.fingerprint is",
        ),
    ],
)
def test_another_run_is_refused(
    command: Command, write: WriteConfig, out: Path, diagnose: Any, fields: dict[str, Any], expected: str
) -> None:
    before = kept(out)
    code, _, err = command("run", write(diagnose=diagnose, **fields), "--out", out, "--resume")
    assert expected in err
    assert code == 2 and kept(out) == before
    assert "forward rows of" not in err  # it is refused before anything runs
    own = "or give this diagnostic a name of its own, name: ..."
    assert err.rstrip().endswith(own if not fields else "Choose another directory for this one")


def test_another_diagnostic_of_the_same_name_has_a_file_of_its_own(
    command: Command, write: WriteConfig, out: Path
) -> None:
    before = kept(out)
    code, _, err = command("run", write(diagnose={"ablation_table": {"name": "drift"}}), "--out", out, "--resume")
    assert code == 0, err
    assert "damaged" not in err and "computed again" not in err
    after = kept(out)
    assert {name: after[name] for name in before} == before
    assert set(after) == {*before, "ablation_table.drift.safetensors"}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"model_effect": {"alphas": 0.25, "draws": 3}}, {"model_effect": {"alphas": [0.25, 0.5], "draws": 3}}),
        (
            {"fit_alpha": {"fit_alphas": 0.25, "alphas": 0.25, "fit_draws": 3, "draws": 3}},
            {"fit_alpha": {"fit_alphas": [0.25, 0.5], "alphas": 0.25, "fit_draws": 3, "draws": 3}},
        ),
    ],
)
def test_more_shares_are_more_work(command: Command, write: WriteConfig, tmp_path: Path, first: Any, then: Any) -> None:
    for diagnose in (first, then):
        code, _, err = command("run", write(diagnose=diagnose), "--out", tmp_path / "out", "--resume")
        assert code == 0, err
        assert "model effect: finished already" not in err and "fit alpha: finished already" not in err
