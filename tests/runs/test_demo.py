"""The demo, with few rows and draws; and what the real one asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablationlens.runs import demo
from tests.runs.tiny_runs import Command

pytest_plugins = ["tests.runs.tiny_runs_fixtures"]


def test_demo(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo itself, with few rows and draws."""
    small = {"host": "torch", "name": "domains"}
    rows, heads = (
        {**demo.RUNS[name], "model": small, "data": {"domain": "python", "tokens": 8, "count": 2}} for name in demo.RUNS
    )
    rows |= {
        "registry": {"kinds": "row", "modules": ["attn.q"], "layers": [0]},
        "evaluate": {"alphas": [0.05], "draws": 10},
    }
    rows["method"] = [{"coar": {"alpha": 0.05, "draws": 200}}, "leave_one_out"]
    heads["method"] = [{"coar": {"alpha": 0.125, "draws": 60, "name": "COAR (12.5%)"}}, "leave_one_out"]
    heads["evaluate"] = {"alphas": [0.25], "draws": 10}
    monkeypatch.setattr(demo, "RUNS", {"rows": rows, "heads": heads})
    code, out, err = command("demo", "--out", tmp_path / "demo")
    assert code == 0, err
    assert out.index("Estimate: ") < out.index("Correlation of predicted") < out.index("Report: ")
    assert "forward rows, about" in out and "COAR (12.5%)" in out and (tmp_path / "demo" / "report.html").is_file()
    code, out, err = command("demo", "--out", tmp_path / "demo")
    assert code == 0 and "Going on with what is in" in out and "blocks are in" in err
    (tmp_path / "demo" / "report.html").unlink()
    assert command("report", tmp_path / "demo")[0] == 0
    assert (tmp_path / "demo" / "report.html").is_file()


def test_the_real_demo_asks_what_it_promises() -> None:
    assert demo.ROWS_DRAWS >= 15_000
    rows, heads = demo.RUNS.values()
    assert rows["method"][0]["coar"] == {"alpha": 0.05, "draws": demo.ROWS_DRAWS} and 0.05 in rows["evaluate"]["alphas"]
    assert [method["coar"]["alpha"] for method in heads["method"][:2]] == [0.125, 0.25]
