"""Writing the page: what is in it, and that it replaces a file at once or not at all."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablationlens.errors import InputError
from ablationlens.report import report, write


def without_plotly(text: str) -> str:
    return re.sub(r"<script>\s*/\*\*\s*\* plotly\.js.*?</script>", "", text, flags=re.S)


def content(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, flags=re.S)
    assert found
    return json.loads(found[1])


def test_loads_nothing(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    page = without_plotly(text)
    assert len(page) < len(text) - 1_000_000
    assert text.count("plotly.js v") == 1
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page


def test_all_components_are_there(world: Any, written: Path) -> None:
    tables = content(written.read_text(encoding="utf-8"))["tables"]
    for key, run in (("s0", world.rows), ("s1", world.heads)):
        labels = [column["label"] for column in tables[key]]
        assert labels[:3] == ["Component", "COAR\nweight", "COAR\nspread"]
        assert labels[3:] == ["leave-one-out\nweight", "leave-one-out\nspread", "Layer", "Module", "Kind"]
        names, weights = tables[key][0]["values"], tables[key][1]["values"]
        expected = run.attributions["COAR"].table()
        assert names == list(expected["component"])
        assert weights == pytest.approx(list(expected["weight"]), rel=1e-3)
        module = tables[key][labels.index("Module")]
        assert [module["names"][code] for code in module["values"]] == list(expected["module"])


def test_text_is_escaped(written: Path) -> None:
    page = without_plotly(written.read_text(encoding="utf-8"))
    assert "onerror=alert(1)>" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "<!--" not in page


def test_sections_and_sentences(written: Path) -> None:
    page = without_plotly(written.read_text(encoding="utf-8"))
    for words in (
        "Which parts of GPT2LMHeadModel matter for the margin?",
        "Short answer",
        "4,608 rows and 16 heads",
        "How it was run",
        "How far to trust it",
        "2 of 4,608 components cannot be told apart",
        "Not finite, and left out: 3 outputs",
    ):
        assert words in page, words


def test_one_registry_as_in_the_notebook(world: Any, tmp_path: Path) -> None:
    run = world.heads
    path = report(
        str(tmp_path / "new" / "python.html"),
        run.model,
        world.data,
        attributions=run.attributions,
        scores=run.scores,
        title="A <title>",
    )
    assert path == tmp_path / "new" / "python.html"
    page = without_plotly(path.read_text(encoding="utf-8"))
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "<h2>16 heads</h2>" in page


def test_without_scores_it_says_so(world: Any, tmp_path: Path) -> None:
    path = report(tmp_path / "a.html", world.heads.model, world.data, attributions=world.heads.attributions)
    page = without_plotly(path.read_text(encoding="utf-8"))
    assert "was not measured" in page
    assert "not tested on held-out ablations" in page


def test_a_failure_leaves_the_old_page(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(write.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report(path, world.heads.model, world.data, attributions=world.heads.attributions)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_others_may_read_the_page(written: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(written.stat().st_mode) == 0o666 & ~umask


def test_a_folder_is_no_page(world: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder.*report\.html"):
        report(tmp_path, world.heads.model, world.data, attributions=world.heads.attributions)


def test_importing_the_door_loads_no_plotly() -> None:
    code = "import sys, ablationlens.report; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
