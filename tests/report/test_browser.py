"""The page in a real browser."""

from __future__ import annotations

import csv
import io
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablationlens import MaskedModel, leave_one_out
from ablationlens.diagnostics import AblationTable, ablation_table
from ablationlens.report import report
from ablationlens.spd import PGD, Deterministic, Stochastic
from ablationlens.spd_experiment import ablation_experiment
from tests.conftest import host_of
from tests.spd.small import decomposed

COLUMN = """[...document.querySelectorAll('[data-table=s0] tbody tr')].map(row => row.cells[{}].textContent)"""


def numbers(tab: Any, column: int) -> list[float]:
    return [float(text.replace("\u2212", "-")) for text in tab.run(COLUMN.format(column))]


def header(column: int) -> str:
    return f"document.querySelectorAll('[data-table=s0] thead th')[{column}]"


def test_no_error_nothing_loaded_every_figure_drawn(page: Any) -> None:
    assert page.problems() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:", "blob:"))] == []
    figures = page.run("[...document.querySelectorAll('.plot')].map(plot => plot.id)")
    # Per section: a ranking, a heat map and a scatter of each of two methods, a correlation and a histogram of it.
    assert len(figures) == 2 * 8
    empty = page.run(
        """[...document.querySelectorAll('.plot')].filter(plot => {
            const box = plot.querySelector('svg.main-svg')?.getBoundingClientRect();
            const marks = plot.querySelectorAll('.bars path, .heatmaplayer image, .scatterlayer .point').length;
            return !box || box.width < 200 || box.height < 150 || marks === 0;
        }).map(plot => plot.id)"""
    )
    assert empty == []


def test_text_is_not_markup(page: Any) -> None:
    assert page.run("document.title").startswith("Which parts of GPT2LMHeadModel")
    assert page.run("document.querySelectorAll('img').length") == 0
    assert "</script>" in page.run("document.querySelector('#data').textContent").replace(" ", "")


def test_buttons_send_nothing_away(page: Any) -> None:
    contexts = page.run(
        "[...document.querySelectorAll('.plot')].map(p => [p._context.showSendToCloud, p._context.plotlyServerURL])"
    )
    assert contexts == [[False, ""]] * 16


def test_a_click_on_a_heading_sorts(tab: Any, written: Path) -> None:
    tab.open(written)
    first = numbers(tab, 1)
    assert len(first) == 15
    assert [abs(value) for value in first] == sorted((abs(value) for value in first), reverse=True)
    assert tab.run(header(1) + ".getAttribute('aria-sort')") == "other"
    for order, reverse in (("descending", True), ("ascending", False)):
        tab.run(header(1) + ".querySelector('button').click()")
        assert tab.run(header(1) + ".getAttribute('aria-sort')") == order
        values = numbers(tab, 1)
        assert values == sorted(values, reverse=reverse)
        assert (values[0] > 0) == reverse
    tab.run(header(0) + ".querySelector('button').click()")
    assert tab.run(COLUMN.format(0))[:3] == ["L0.attn.k row 0", "L0.attn.k row 1", "L0.attn.k row 2"]
    assert tab.run(header(1) + ".getAttribute('aria-sort')") is None


def test_sorts_from_the_keyboard(tab: Any, written: Path) -> None:
    tab.open(written)
    tab.run(header(2) + ".querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        tab.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert tab.run(header(2) + ".getAttribute('aria-sort')") == "descending"
    assert numbers(tab, 2) == sorted(numbers(tab, 2), reverse=True)


def test_filter_and_pages(tab: Any, written: Path) -> None:
    tab.open(written)
    status = "document.querySelector('[data-table=s0] [role=status]').textContent"
    assert tab.run(status) == "1\u201315 of 4,608"
    tab.run("document.querySelector('[data-table=s0] [data-do=last]').click()")
    assert tab.run(status) == "4,606\u20134,608 of 4,608"
    tab.run(
        "{ const box = document.querySelector('[data-table=s0] input'); box.value = 'L3 ATTN.Q'; "
        "box.dispatchEvent(new Event('input')) }"
    )
    assert tab.run(status) == "1\u201315 of 128 (of 4,608)"
    assert all(name.startswith("L3.attn.q row ") for name in tab.run(COLUMN.format(0)))
    tab.run("document.querySelector('[data-table=s0] [data-do=next]').click()")
    assert tab.run(status) == "16\u201330 of 128 (of 4,608)"


def test_fits_a_phone(tab: Any, written: Path) -> None:
    tab.size(390, 844)
    tab.open(written)
    assert tab.problems() == []
    assert tab.run("document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
    wide = "[...document.querySelectorAll('.plot .main-svg')].filter(e => e.getBoundingClientRect().right > 390).length"
    assert tab.run(wide) == 0
    _keep(tab, "phone")


def test_figures_follow_the_window(page: Any) -> None:
    width = "document.querySelector('.plot .main-svg').getBoundingClientRect().width"
    before = page.run(width)
    page.size(700)
    page.until(f"{width} !== {before}")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    page.size(1280)
    page.until(f"{width} === {before}")


def test_dark_mode(page: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('.plot .xtick text').style.fill"
    light = page.run(ground), page.run(ink)
    _keep(page, "light")
    page.dark(True)
    page.settle()
    dark = page.run(ground), page.run(ink)
    assert light[0] == "rgb(243, 245, 248)"
    assert dark[0] == "rgb(15, 18, 23)"
    assert (light[1], dark[1]) == ("rgb(28, 35, 48)", "rgb(228, 232, 238)")
    assert page.problems() == []
    _keep(page, "dark")
    page.dark(False)


# -- what a click on a cell opens, and tables of studies ---------------------------------------------------------------

MAP, OPENED = "s0-study-0-1", "s0-study-0-opened"
CAPTION = f"document.querySelector('[data-opened={OPENED}] figcaption strong').textContent"
STUDY = "[...document.querySelectorAll('[data-table=s0-study-0] tbody tr')].map(row => row.cells[{}].textContent)"


@pytest.fixture(scope="module")
def table(world: Any) -> AblationTable:
    """16 heads of 4 layers, each ablated alone."""
    return ablation_table(world.heads.model, world.data, example=2)


@pytest.fixture(scope="module")
def studied(world: Any, table: AblationTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = world.heads
    path = tmp_path_factory.mktemp("studied") / "report.html"
    return report(path, run.model, world.data, attributions=run.attributions, scores=run.scores, studies=[table])


def click(tab: Any, part: int, head: int) -> None:
    """Press the mouse on a cell of the heat map, of 16 parts and 16 heads."""
    left, top, width, height = tab.run(
        f"""(() => {{ const plot = document.getElementById('{MAP}'); plot.scrollIntoView({{ behavior: 'instant' }});
        const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
        return [box.left, box.top, box.width, box.height]; }})()"""
    )
    at = {"x": left + width * (head + 0.5) / 16, "y": top + height * (part + 0.5) / 16}
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", **at)
    tab.settle()
    for kind in ("mousePressed", "mouseReleased"):
        tab.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
    tab.settle()


def drawn(tab: Any) -> list[np.ndarray]:
    """What the three panels show."""
    return [np.array(z) for z in tab.run(f"document.getElementById('{OPENED}').data.map(panel => panel.z)")]


def is_open(tab: Any, table: AblationTable, part: str, layer: int, head: int) -> None:
    """The page shows this pattern, says so, and frames its cell."""
    assert tab.run(CAPTION) == f"Attention of L{layer}.head {head} without {part}"
    assert tab.run(f"document.getElementById('{OPENED}').getAttribute('aria-label')") == tab.run(CAPTION)
    clean, without = table.pattern(part, layer=layer, head=head).values[:, 0, 0, 0]
    for found, expected in zip(drawn(tab), (clean, without, without - clean), strict=True):
        np.testing.assert_allclose(found, expected, atol=0.008)
    frame = tab.run(f"document.getElementById('{MAP}').layout.shapes[0]")
    names = [str(name) for name in table.parts["part"]]
    assert (frame["x0"] + 0.5, frame["y0"] + 0.5) == (4 * layer + head, names.index(part))
    boxes = f"[...document.querySelectorAll('[data-opened={OPENED}] select')]"
    chosen = tab.run(f"{boxes}.map(box => box.selectedOptions[0].textContent)")
    assert chosen == [f"L{layer}.head {head}", part]


def test_a_click_on_a_cell_opens_its_pattern(tab: Any, table: AblationTable, studied: Path) -> None:
    tab.open(studied)
    first = table.kept.cells.iloc[0]  # pyright: ignore[reportOptionalMemberAccess]
    is_open(tab, table, str(first["part"]), int(first["layer"]), int(first["head"]))
    _keep(tab, "opened")
    click(tab, 1, 9)
    is_open(tab, table, "L0.head 1", 2, 1)
    click(tab, 9, 0)
    assert tab.run(CAPTION) == "Attention of L0.head 0 without L2.head 1: it does not change in this example"
    assert tab.run(f"document.getElementById('{OPENED}').hidden")
    click(tab, 2, 15)
    assert not tab.run(f"document.getElementById('{OPENED}').hidden")
    is_open(tab, table, "L0.head 2", 3, 3)
    assert tab.problems() == []


def test_a_pattern_opens_without_a_mouse(tab: Any, table: AblationTable, studied: Path) -> None:
    tab.open(studied)

    def choose(name: str, text: str) -> None:
        tab.run(
            f"""{{ const box = document.querySelector('[data-opened={OPENED}] [data-do={name}]');
            box.value = [...box.options].find(option => option.textContent === '{text}').value;
            box.dispatchEvent(new Event('change')); }}"""
        )
        tab.settle()

    choose("part", "L0.head 3")
    choose("head", "L1.head 2")
    is_open(tab, table, "L0.head 3", 1, 2)
    choose("part", "L2.head 0")  # which the heads of layer 1 do not see: the head that it changes most
    most = table.pattern("L2.head 0")
    is_open(tab, table, "L2.head 0", int(most["layer"][0]), int(most["head"][0]))
    click(tab, 9, 0)
    choose("head", "L3.head 1")
    assert tab.run(CAPTION).startswith("Attention of L3.head 1 without L2.head 1")


def test_parts_of_equal_shortened_names_open_their_own_patterns(tab: Any, world: Any, tmp_path: Path) -> None:
    run, names = world.heads, [f"encoder.attention.heads <{place:>18}> of all of the heads" for place in range(16)]
    found = ablation_table(run.model, world.data, example=2)
    assert found.kept is not None and found.patterns is not None
    renamed = dict(zip(found.parts["part"], names, strict=True))
    table = replace(
        found,
        parts=found.parts.assign(part=names),
        patterns=found.patterns.assign_coords(part=names),
        values=found.values.assign_coords(part=names),
        kept=replace(found.kept, cells=found.kept.cells.assign(part=found.kept.cells["part"].map(renamed))),
    )
    path = tmp_path / "report.html"
    tab.open(report(path, run.model, world.data, attributions=run.attributions, scores=run.scores, studies=[table]))
    for part, head in ((1, 9), (7, 15), (0, 5)):
        click(tab, part, head)
        is_open(tab, table, names[part], head // 4, head % 4)
    assert tab.problems() == []


def test_a_pattern_that_was_hidden_has_the_width_of_the_window(tab: Any, studied: Path) -> None:
    tab.open(studied)
    click(tab, 9, 0)
    assert tab.run(f"document.getElementById('{OPENED}').hidden")
    tab.size(390, 844)
    tab.settle()
    click(tab, 2, 15)
    tab.until(f"document.querySelector('#{OPENED} .main-svg').getBoundingClientRect().width <= 390")
    assert tab.run("document.documentElement.scrollWidth") == 390
    assert tab.problems() == []


def test_opened_patterns_fit_a_phone_and_the_dark(tab: Any, studied: Path) -> None:
    tab.size(390, 844)
    tab.dark(True)
    tab.open(studied)
    assert tab.run("document.documentElement.scrollWidth <= innerWidth && innerWidth === 390")
    boxes = tab.run(
        f"""[...document.querySelectorAll('#{OPENED} .heatmaplayer')].map(e => {{
        const box = e.getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]; }})"""
    )
    assert all(left >= 0 and right <= 390 and right - left > 200 for left, right, _, _ in boxes)
    assert all(above[3] < below[2] for above, below in pairwise(boxes))  # one below the other
    heights = [bottom - top for _, _, top, bottom in boxes]
    assert max(heights) - min(heights) < 2
    assert tab.problems() == []
    _keep(tab, "opened-phone")


def test_panels_with_titles_stand_below_one_another_on_a_phone(tab: Any, tmp_path: Path) -> None:
    host = host_of("torch", "gpt2")
    own, data = decomposed(host), host.data(2)
    modes = [Deterministic(own), Stochastic(own), PGD(own, 1)]
    found = ablation_experiment(
        host.adapter, own, data, {"a head": "L0.head 1"}, modes=modes, patterns=None, gaps="whole"
    )
    model = MaskedModel(host.adapter, host.registry("head"), output=lambda logits: logits.flatten(1)[:, 0])
    path = report(tmp_path / "r.html", model, data, attributions={"a": leave_one_out(model, data)}, studies=[found])
    titles = """[...document.querySelectorAll('.annotation')].filter(e => /gap/.test(e.textContent)).map(e => {
        const box = e.getBoundingClientRect(); return [box.left, box.right, box.top, box.bottom]; })"""
    for width, below in ((390, True), (1280, False)):
        tab.size(width)
        tab.open(path)
        assert tab.problems() == []
        boxes = tab.run(titles)
        assert len(boxes) == 3 and all(left >= 0 and right <= width for left, right, _, _ in boxes)
        for one, other in pairwise(boxes):
            assert one[3] < other[2] if below else one[1] < other[0]


def test_a_long_table_of_a_study_pages_and_sorts(tab: Any, table: AblationTable, studied: Path) -> None:
    names = table.frame["part"].tolist()
    text = studied.read_text(encoding="utf-8")
    assert all(f"<td>{name}</td>" in text for name in names)  # without a script all of it is there
    tab.open(studied)
    status = "document.querySelector('[data-table=s0-study-0] [role=status]').textContent"
    assert tab.run(STUDY.format(0)) == names[:15]
    assert tab.run(status) == "1\u201315 of 16"
    head = "document.querySelectorAll('[data-table=s0-study-0] thead th')[{}].querySelector('button').click()"
    tab.run(head.format(2))
    largest = table.frame.sort_values("kl", ascending=False, kind="stable")["part"].tolist()
    assert tab.run(STUDY.format(0))[:3] == largest[:3]
    tab.run(head.format(2))
    values = [float(text) for text in tab.run(STUDY.format(2))]
    assert values == sorted(values)
    tab.run(head.format(8))  # "\u2014", which is no number, is last
    assert tab.run(STUDY.format(8))[0] != "\u2014"
    tab.run("document.querySelector('[data-table=s0-study-0] [data-do=next]').click()")
    assert tab.run(STUDY.format(8)) == ["\u2014"]
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert len(tab.run(STUDY.format(0))) == 16  # on paper nothing can be turned
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert len(tab.run(STUDY.format(0))) == 1


def test_a_table_of_a_study_is_saved_as_numbers(tab: Any, table: AblationTable, studied: Path, tmp_path: Path) -> None:
    text = studied.read_text(encoding="utf-8")
    start = text.index('data-table="s0-study-0"')
    before, after = text[:start], text[start:]
    for number in ("1,234,567", "\u22120.125 to 0.250"):  # cells that a study may have, in the columns kl and its error
        after = re.sub(r'<td class="number">0\.\d+</td>', f'<td class="number"> {number}</td>', after, count=1)
    path = tmp_path / "report.html"
    path.write_text(before + after, encoding="utf-8")
    tab.open(path)
    tab.run("URL.createObjectURL = blob => { blob.text().then(text => { window.saved = text; }); return '#'; }; 0")
    tab.run("document.querySelector('[data-table=s0-study-0] [data-do=save]').click()")
    tab.until("Boolean(window.saved)")
    heads, *rows = csv.reader(io.StringIO(tab.run("window.saved")))
    assert [row[0] for row in rows] == table.frame["part"].tolist()
    assert rows[0][2:4] == [" 1234567", " -0.125 to 0.250"]
    changes = [row[heads.index("Pattern")] for row in rows]
    missing = table.frame["pattern"].isna().tolist()
    assert any(missing) and [change == "" for change in changes] == missing


def test_empty_texts_come_last(tab: Any, table: AblationTable, studied: Path) -> None:
    tab.open(studied)
    heads = tab.run("[...document.querySelectorAll('[data-table=s0-study-0] thead th')].map(cell => cell.textContent)")
    place = heads.index("Pattern at")
    empty = int((table.frame["pattern_at"] == "").sum())
    tab.run("document.querySelector('[data-table=s0-study-0] select').value = '50'")
    for _ in range(2):
        tab.run(f"document.querySelectorAll('[data-table=s0-study-0] thead th button')[{place}].click()")
        texts = tab.run(STUDY.format(place))
        assert texts[-empty:] == [""] * empty and "" not in texts[:-empty]


def test_a_short_table_sorts(tab: Any, studied: Path) -> None:
    tab.open(studied)
    rows = "[...document.querySelectorAll('[data-table=s0-scores] tbody tr')].map(row => row.cells[{}].textContent)"
    assert tab.run("document.querySelectorAll('[data-table=s0-scores] .controls').length") == 0
    before = tab.run(rows.format(2))
    tab.run("document.querySelectorAll('[data-table=s0-scores] thead th')[2].querySelector('button').click()")
    after = tab.run(rows.format(2))
    assert sorted(after) == sorted(before)
    assert [float(text) for text in after] == sorted((float(text) for text in before), reverse=True) != before
    tab.run("document.querySelectorAll('[data-table=s0-scores] thead th')[1].querySelector('button').click()")
    assert tab.run(rows.format(1)) == ["25%", "25%", "12.5%", "12.5%"]


def _keep(tab: Any, name: str) -> None:
    """Keep a picture where SCREENSHOTS says, for people to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.picture(Path(folder) / f"report-{name}.png")
