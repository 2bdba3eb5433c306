"""The demo, with few rows and passes; and what the real one asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablationlens.runs import demo
from ablationlens.runs.config import RunConfig
from tests.runs.tiny_runs import Command

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]


def test_demo(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo itself, with few rows and passes."""
    small = {"host": "torch", "name": "domains"}
    rows, heads = (
        {**demo.RUNS[name], "model": small, "data": {"domain": "python", "tokens": 8, "count": 2}} for name in demo.RUNS
    )
    rows |= {
        "registry": {"kinds": "row", "modules": ["attn.q"], "layers": [0]},
        "evaluate": {"alphas": [0.05], "draws": 10},
    }
    rows["method"] = [{"attribute": {"alpha": 0.05, "budget": 90}}, "leave_one_out", "gradient_x_parameter"]
    heads["method"] = [{"attribute": {"alpha": 0.125, "budget": 90, "name": "attribute (12.5%)"}}, "leave_one_out"]
    heads["evaluate"] = {"alphas": [0.25], "draws": 10}
    monkeypatch.setattr(demo, "RUNS", {"rows": rows, "heads": heads})
    code, out, err = command("demo", "--out", tmp_path / "demo")
    assert code == 0, err
    assert out.index("Estimate: ") < out.index("rows, attribute: ") < out.index("heads, attribute (12.5%): ")
    assert out.index("heads, attribute") < out.index("Correlation of predicted") < out.index("Report: ")
    # rows: 128 of them, by a budget, one by one, by a gradient, and 10 tests; heads: 16, likewise
    assert f"at most {2 * (90 + 129 + 3 + 10 + 90 + 17 + 10):,} forward rows, a gradient counted as three, about" in out
    assert (tmp_path / "demo" / "report.html").is_file()
    code, out, err = command("demo", "--out", tmp_path / "demo")
    assert code == 0 and "Going on with what is in" in out and err.count("finished already, in") == 5
    (tmp_path / "demo" / "report.html").unlink()
    assert command("report", tmp_path / "demo")[0] == 0
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_real_demo_asks_what_it_promises() -> None:
    rows, heads = (RunConfig.model_validate(content) for content in demo.RUNS.values())
    assert [method.choice[0] for method in rows.method] == ["attribute", "leave_one_out", "gradient_x_parameter"]
    assert rows.method[0].attribute is not None and rows.method[0].attribute.budget == demo.BUDGET == 1000
    assert rows.method[0].alpha in rows.alphas and rows.registry.layers is rows.registry.modules is None
    assert [method.alpha for method in heads.method[:2]] == heads.alphas == [0.125, 0.25]
