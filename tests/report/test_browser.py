"""The page in a real browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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


def _keep(tab: Any, name: str) -> None:
    """Keep a picture where SCREENSHOTS says, for people to look at."""
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.picture(Path(folder) / f"report-{name}.png")
