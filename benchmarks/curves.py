"""Curves of held-out correlation against compute, for one model and its data: what accuracy_per_pass.py prints.

Compute is counted where every method must pass: the output that is measured counts the rows that it is called with, and
whether a gradient will be asked of them. One forward-equivalent is one forward pass of all examples; what a pass with a
gradient is worth in them is timed, both kinds in turn.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

import ablationlens as al
from ablationlens.attribution.level import level_draws
from ablationlens.attribution.path_sums import PathSums
from ablationlens.counterfactuals import record
from ablationlens.evaluate import ceiling
from ablationlens.packing import choose

FIXED: dict[str, Callable[..., al.Attribution]] = {
    "leave-one-out": al.leave_one_out,
    "gradient x parameter": al.attribution.gradient_x_parameter,
    "integrated gradients": al.attribution.integrated_gradients,
}
"""Methods that take neither draws nor alpha."""
TIMED_PASSES = 5
"""Full passes that are timed at once to find the cost of a gradient: a quarter of a second of the bundled model."""


class Counted(al.Output):
    """An output that counts the rows it is called with: without a gradient, and with one."""

    def __init__(self, output: al.Output) -> None:
        self._output = output
        self.reset()

    def reset(self) -> None:
        self._forward = self._gradient = 0

    @property
    def rows(self) -> tuple[int, int]:
        return self._forward, self._gradient

    def __call__(self, logits: Tensor, batch: al.Batch, reference: Tensor | None = None) -> Tensor:
        if torch.is_grad_enabled() and logits.requires_grad:
            self._gradient += len(logits)
        else:
            self._forward += len(logits)
        return self._output(logits, batch, reference)


@dataclass(frozen=True)
class Cost:
    """Seconds of a draw of all examples, sampling of its mask included.

    Attributes:
        forward: of an ordinary draw.
        gradient: of a draw of a path gradient, with what it keeps of it.
        ratio: forward passes that a gradient counts for: median over rounds in which both were timed in turn.
        low: the smallest of these ratios.
        high: the largest.
    """

    forward: float
    gradient: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"a forward draw takes {1e3 * self.forward:.2f} ms, one with its gradient {1e3 * self.gradient:.2f} ms: "
            f"{self.ratio:.2f} forward-equivalents ({self.low:.2f} to {self.high:.2f})"
        )


@dataclass(frozen=True)
class Point:
    """One attribution and what it cost.

    Attributes:
        method: its name.
        asked: draws, or the budget, that it was given; None for methods that take neither.
        equivalents: its passes, in forward passes of all examples.
        seconds: of these passes and all that goes with them.
        fitting: seconds of a regression, which come on top.
        attribution: the weights.
    """

    method: str
    asked: int | None
    equivalents: float
    seconds: float
    fitting: float
    attribution: al.Attribution


@dataclass(frozen=True)
class Line:
    """A line of the table: a method at one setting, the mean over seeds.

    Attributes:
        pearson: mean over examples and seeds of the correlation with held-out ablations.
        by_seed: mean over examples, for each seed.
    """

    method: str
    asked: int | None
    equivalents: float
    seconds: float
    fitting: float
    pearson: float
    by_seed: tuple[float, ...]


class Bench:
    """One model, one data set, and the cost of a gradient there."""

    def __init__(
        self,
        adapter: al.Adapter,
        registry: al.Registry,
        data: al.Batch,
        output: al.Output | None = None,
        repeats: int = 9,
        alpha: float = 0.05,
    ) -> None:
        self.counted = Counted(al.Margin() if output is None else output)
        self.model = al.MaskedModel(adapter, registry, output=self.counted)
        self.data = data
        self.cost = self._gradient_cost(repeats, alpha)

    def _gradient_cost(self, repeats: int, alpha: float) -> Cost:
        examples, components = len(self.data), len(self.model.registry)
        adapter = self.model.adapter
        draws = TIMED_PASSES * choose(examples, self.data.length, adapter.device, adapter.vocabulary).draws
        forward = al.Bernoulli(components, alpha, draws)
        gradient = al.Paths(components, alpha, draws)
        sums = PathSums.empty(examples, components)

        def without() -> None:
            self.model.sweep(forward, self.data, show_bar=False)

        def with_gradient() -> None:
            self.model.sweep_gradient(gradient, self.data, reduce=sums.add, show_bar=False)

        seconds: list[tuple[float, float]] = []
        for _ in range(1 + repeats):
            before, middle, after = timed(without), timed(with_gradient), timed(without)
            seconds.append(((before + after) / 2 / draws, middle / draws))
        rounds = seconds[1:]  # the first also pays for what is set up once
        ratios = [both / one for one, both in rounds]
        one, both = (statistics.median(column) for column in zip(*rounds, strict=True))
        return Cost(one, both, statistics.median(ratios), min(ratios), max(ratios))

    def point(self, method: str, asked: int | None, call: Callable[[], al.Attribution]) -> Point:
        """Run a method, with a clock and a count of its passes."""
        self.counted.reset()
        start = time.perf_counter()
        found = call()
        return Point(method, asked, self._equivalents(), time.perf_counter() - start, 0.0, found)

    def _equivalents(self) -> float:
        forward, gradient = self.counted.rows
        return (forward + self.cost.ratio * gradient) / len(self.data)

    def draws_for(self, equivalents: float) -> int:
        """Draws of a path gradient that this compute pays for, with its hard masks and the pass that keeps all."""
        most = max(1, int((equivalents - 1) / self.cost.ratio))
        return next(d for d in range(most, 0, -1) if d == 1 or self.cost.ratio * d + level_draws(d) + 1 <= equivalents)

    def path_gradient(self, alpha: float, seed: int, draws: int) -> Point:
        def run() -> al.Attribution:
            return al.path_gradient(self.model, self.data, alpha=alpha, draws=draws, seed=seed, show_bar=False)

        return self.point("path gradient", draws, run)

    def attribute(self, alpha: float, seed: int, budget: int, tolerance: float | None = None) -> Point:
        def run() -> al.Attribution:
            return al.attribute(
                self.model, self.data, alpha=alpha, budget=budget, tolerance=tolerance, seed=seed, show_bar=False
            )

        return self.point("attribute" if tolerance is None else "attribute, early", budget, run)

    def fixed(self) -> list[Point]:
        """The methods that take neither draws nor alpha."""
        return [
            self.point(name, None, partial(method, self.model, self.data, show_bar=False))
            for name, method in FIXED.items()
        ]

    def sweeps(
        self,
        alpha: float,
        seeds: Sequence[int],
        draws: Mapping[str, Sequence[int]],
        gradient_budgets: Sequence[int],
        attribute_budgets: Sequence[int] = (),
    ) -> list[Point]:
        """What is drawn anew for each seed."""
        points: list[Point] = []
        for seed in seeds:
            points += [self.path_gradient(alpha, seed, self.draws_for(budget)) for budget in gradient_budgets]
            points += [self.attribute(alpha, seed, budget) for budget in attribute_budgets]
            points += self.regressions(alpha, seed, draws)
        return points

    def regressions(self, alpha: float, seed: int, draws: Mapping[str, Sequence[int]]) -> list[Point]:
        """Fits of several solvers on the first draws of one sweep.

        Args:
            alpha: share of components that a draw ablates.
            seed: of the draws.
            draws: solver -> numbers of draws, each the length of a prefix.
        """
        most = max(count for counts in draws.values() for count in counts)
        design = al.Bernoulli(len(self.model.registry), alpha, most, seed)
        points: list[Point] = []
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            record(self.model, self.data, design, store=f"{folder}/run", show_bar=False)
            sweep = time.perf_counter() - start
            for solver, counts in draws.items():
                for count in counts:
                    start = time.perf_counter()
                    # the store holds the outputs already, so what is timed is the regression
                    fitted = al.coar(
                        self.model,
                        self.data,
                        alpha=alpha,
                        draws=count,
                        seed=seed,
                        solver=solver,  # pyright: ignore[reportArgumentType]
                        store=f"{folder}/run",
                        show_bar=False,
                    )
                    fitting = time.perf_counter() - start
                    name = solver.replace("_", " ")
                    points.append(Point(name, count, count + 1.0, sweep * count / most, fitting, fitted))
        return points

    def lines(self, points: Sequence[Point], alpha: float, held_out: int) -> list[Line]:
        """Score all points on the same held-out masks; one line for each method and setting, seeds averaged."""
        named = {str(number): point.attribution for number, point in enumerate(points)}
        scores = al.evaluate(self.model, self.data, named, alphas=[alpha], draws=held_out, show_bar=False).table()
        pearson = dict(zip(scores["method"], scores["pearson"], strict=True))
        groups: dict[tuple[str, int | None], list[tuple[Point, float]]] = {}
        for number, point in enumerate(points):
            groups.setdefault((point.method, point.asked), []).append((point, float(pearson[str(number)])))
        return [
            Line(
                method,
                asked,
                equivalents=statistics.mean(point.equivalents for point, _ in group),
                seconds=statistics.mean(point.seconds for point, _ in group),
                fitting=statistics.mean(point.fitting for point, _ in group),
                pearson=statistics.mean(score for _, score in group),
                by_seed=tuple(score for _, score in group),
            )
            for (method, asked), group in groups.items()
        ]

    def ceiling(self, points: Sequence[Point], alpha: float, held_out: int) -> float | None:
        """The correlation that least squares would reach with draws without end: the best of any linear prediction.

        None where there are not two seeds of it to tell.
        """
        fits = [point for point in points if point.method == "least squares"]
        most = [point.attribution for point in fits if point.asked == max(one.asked or 0 for one in fits)]
        if len(most) < 2:
            return None
        found = ceiling(self.model, self.data, most[0], again=most[1], alphas=[alpha], draws=held_out, show_bar=False)
        return float(found.table()["ceiling"].iloc[0])


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Crossing:
    """Compute at which a curve reaches a correlation.

    Attributes:
        equivalents: forward-equivalents, interpolated on a logarithmic axis.
        bound: "" where the curve crosses; "at most" where its first point is there already; "more than" where its last
            is not there yet.
    """

    equivalents: float
    bound: str

    def __str__(self) -> str:
        sign = {"": "", "at most": "<= ", "more than": "> "}[self.bound]
        return f"{sign}{self.equivalents:,.0f}"

    def ratio(self, equivalents: float) -> str:
        """How many times more another method spent."""
        sign = {"": "", "at most": ">= ", "more than": "< "}[self.bound]
        return f"{sign}{equivalents / self.equivalents:.3g}"


def crossing(lines: Iterable[Line], target: float) -> Crossing:
    """Where a curve first reaches a correlation."""
    curve = sorted((line.equivalents, line.pearson) for line in lines)
    if curve[0][1] >= target:
        return Crossing(curve[0][0], "at most")
    for (before, low), (after, high) in itertools.pairwise(curve):
        if high >= target:
            share = (target - low) / (high - low)
            return Crossing(float(np.exp(np.log(before) + share * (np.log(after) - np.log(before)))), "")
    return Crossing(curve[-1][0], "more than")


def of_method(lines: Iterable[Line], method: str) -> list[Line]:
    return [line for line in lines if line.method == method]


def best_regression(lines: Iterable[Line], draws: int) -> Line:
    """The better of ridge and least squares with so many draws."""
    found = [line for line in lines if line.method in ("ridge", "least squares") and line.asked == draws]
    return max(found, key=lambda line: line.pearson)


def with_least_squares(draws: Sequence[int], components: int) -> dict[str, Sequence[int]]:
    """The draws of ridge, and those of least squares, which needs more of them than there are components."""
    enough = [count for count in draws if count > components]
    return {"ridge": draws, "least_squares": enough} if enough else {"ridge": draws}
