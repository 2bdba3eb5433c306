"""What accuracy_per_pass.py makes of its measurements, and that its reference edits weights as masks do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ablationlens as al


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """The modules of the folder, which is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import curves
        import reference_coar

        yield curves, reference_coar
    finally:
        sys.path.remove(folder)


def line(curves: Any, method: str, asked: int, equivalents: float, pearson: float) -> Any:
    return curves.Line(method, asked, equivalents, 0.0, 0.0, pearson, (pearson,))


def test_where_a_curve_crosses(benchmarks: Any) -> None:
    curves, _ = benchmarks
    path = [line(curves, "path gradient", 0, compute, score) for compute, score in ((100, 0.8), (10, 0.6), (1000, 0.9))]
    middle = curves.crossing(path, 0.7)
    assert middle.equivalents == pytest.approx(10**1.5)  # halfway on a logarithmic axis
    assert (str(middle), middle.ratio(3162.3)) == ("32", "100")
    assert str(curves.crossing(path, 0.5)) == "<= 10"
    assert curves.crossing(path, 0.5).ratio(1000) == ">= 100"
    assert str(curves.crossing(path, 0.95)) == "> 1,000"
    assert curves.crossing(path, 0.95).ratio(20_000) == "< 20"


def test_the_better_regression_of_as_many_draws(benchmarks: Any) -> None:
    curves, _ = benchmarks
    lines = [
        line(curves, "ridge", 100, 101, 0.5),
        line(curves, "least squares", 100, 101, 0.6),
        line(curves, "ridge", 200, 201, 0.9),
        line(curves, "lasso", 100, 101, 0.99),
    ]
    assert curves.best_regression(lines, 100).method == "least squares"
    assert curves.with_least_squares([100, 200], 150) == {"ridge": [100, 200], "least_squares": [200]}
    assert curves.with_least_squares([100], 150) == {"ridge": [100]}


@pytest.mark.parametrize("copies", [False, True])
def test_the_references_way_gives_the_same_outputs(benchmarks: Any, copies: bool) -> None:
    _, reference_coar = benchmarks
    zoo = al.zoo.load("domains")
    adapter = al.adapt(zoo.model)
    data = al.batch(zoo.texts("python", tokens=16)[:2], tokenizer=zoo.tokenizer)
    registry = adapter.registry("row")
    way = reference_coar.Reference(zoo.model, registry, data, copies=copies)
    design = al.Bernoulli(len(registry), 0.05, 5)
    assert way.largest_difference(al.MaskedModel(adapter, registry), data, design) < 1e-4
