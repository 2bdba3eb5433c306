"""Accuracy per forward pass: how well each method predicts ablations that it has not seen, and what that costs.

    python benchmarks/accuracy_per_pass.py            # everything: about an hour and a half on one core
    python benchmarks/accuracy_per_pass.py --quick    # a smoke run, under a minute; its figures mean nothing
    python benchmarks/accuracy_per_pass.py --only methods --alphas 0.05 --seeds 0

Nothing is trained: the model is the bundled `domains` (GPT-2 architecture, 4 layers, d_model 128) in TransformerLens,
its components are its 4,608 weight rows, zero-ablated, and the examples are texts of 16 tokens, several of each of its
five domains. A score is the Pearson correlation between the outputs under fresh random masks and their prediction, as
al.evaluate measures it: the same masks for every method, mean over examples and seeds. fe are forward-equivalents:
forward passes of all examples, a pass with its gradient counted at what it is measured to cost. Four parts:

methods     every method at several budgets, for each alpha, with the highest correlation that a linear prediction can
            have ("ceiling"), and how much less than ridge or least squares the path gradient spends for as good a score
components  that ratio for fewer and for more components
budgets     al.attribute beside the best single method at the same budget, rows and heads, and what stopping early saves
reference   seconds against the COAR reference's way: one mask at a time, weights set to zero in place, all examples in
            one batch; timed on some masks, and multiplied up to the draws of the regression

Threads are fixed to one, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # NumPy's libraries read it when they are imported

import numpy as np
import torch
import transformers
from curves import Bench, Line, best_regression, crossing, of_method, with_least_squares
from reference_coar import Reference, seconds_per_mask

import ablationlens as al

DOMAINS = ("python", "cpp", "maths", "prose", "data")
TOKENS = 16
PARTS = ("methods", "components", "budgets", "reference")
GOAL_BUDGET = 1000
GOALS = {0.02: -0.005, 0.05: 0.0, 0.1: 0.0}
"""alpha -> what the path gradient with GOAL_BUDGET fe may lack to the regression with most draws."""
GOAL_RATIOS = {0.05: 40}
"""alpha -> times that the regression with most draws spends what the path gradient needs for its correlation."""
DRAWS_PER_COMPONENT = 5
"""Of a regression, where `components` compares different numbers of them."""
GOAL_CHOICE = -0.01
"""What al.attribute may lack to the best single method at the same budget."""
EARLY = 0.005
"""Tolerance of al.attribute where it stops early: its default."""
TOLERANCE = 1e-3
"""Between the outputs of edited weights and those of masks: they differ by rounding only."""
GOALS_REFERENCE = {1: 100, 16: 40}
"""Examples at once -> times fewer seconds than the reference's way."""


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    alphas: tuple[float, ...] = (0.02, 0.05, 0.1)
    seeds: tuple[int, ...] = (0, 1)
    draws: tuple[int, ...] = (2500, 5000, 10_000, 20_000)
    lasso_draws: tuple[int, ...] = (5000, 20_000)
    gradient_budgets: tuple[int, ...] = (30, 100, 300, 1000, 3000)
    attribute_budgets: tuple[int, ...] = (100, 300, 1000, 3000)
    domains: int = len(DOMAINS)
    examples: int = 2
    held_out: int = 2000
    components: tuple[int, ...] = (500, 2000, 4608, 6144)
    components_alpha: float = 0.05
    budgets: tuple[int, ...] = (100, 300, 1000, 3000, 10_000, 30_000)
    budgets_examples: int = 2
    budgets_kinds: tuple[tuple[str, float], ...] = (("row", 0.05), ("head", 0.125))
    reference_budgets: tuple[int, ...] = (20, 30, 50, 80, 120, 180, 270, 400, 600, 1000, 2000)
    reference_examples: int = 16
    reference_singles: int = 5
    reference_seconds: float = 10.0
    repeats: int = 5


QUICK = Plan(
    alphas=(0.05,),
    seeds=(0,),
    draws=(300, 600),
    lasso_draws=(),
    gradient_budgets=(30, 100),
    attribute_budgets=(100,),
    domains=2,
    examples=1,
    held_out=100,
    components=(100, 4608),
    budgets=(30, 100),
    reference_budgets=(20, 100),
    reference_examples=4,
    reference_singles=1,
    reference_seconds=0.5,
    repeats=1,
)


class Benchmark:
    """The bundled model, its texts, and what was measured so far."""

    def __init__(self, plan: Plan, device: str) -> None:
        self.plan = plan
        self.zoo = al.zoo.load("domains")
        self.device = device
        bridge = self.zoo.bridge()
        self.adapter = al.adapt(bridge if device == "cpu" else bridge.to(device))
        self.texts = [self.zoo.texts(domain, tokens=TOKENS) for domain in DOMAINS[: plan.domains]]
        self.found: dict[str, Any] = {"plan": asdict(plan), **{part: [] for part in PARTS}}
        self._rows: dict[float, list[Line]] = {}

    def data(self, examples: int) -> al.Batch:
        """The first of each domain, the second of each, and so on."""
        turns = [texts[turn] for turn in range(-(-examples // len(self.texts))) for texts in self.texts]
        return al.batch(turns[:examples], tokenizer=self.zoo.tokenizer)

    def bench(self, registry: al.Registry, data: al.Batch) -> Bench:
        made = Bench(self.adapter, registry, data, repeats=self.plan.repeats + 4)
        examples = "1 example" if len(data) == 1 else f"{len(data)} examples"
        print(f"{len(registry):,} components, {examples}: {made.cost}", flush=True)
        return made

    # -- the parts -----------------------------------------------------------------------------------------------

    def methods(self) -> None:
        """Every method on the rows, for each alpha."""
        plan = self.plan
        bench = self.bench(self.adapter.registry("row"), self.data(plan.examples * plan.domains))
        fixed = bench.fixed()
        draws = with_least_squares(plan.draws, len(bench.model.registry))
        if plan.lasso_draws:
            draws["lasso"] = plan.lasso_draws
        for alpha in plan.alphas:
            points = bench.sweeps(alpha, plan.seeds, draws, plan.gradient_budgets, plan.attribute_budgets)
            lines = bench.lines(points + fixed, alpha, plan.held_out)
            limit = bench.ceiling(points, alpha, plan.held_out)
            self._rows[alpha] = lines
            print_table(lines, alpha, plan.seeds)
            print_ceiling(limit)
            print_ratios(lines, plan.draws)
            print_goals(lines, alpha, max(plan.draws))
            self.found["methods"].append(
                {
                    "alpha": alpha,
                    "cost": asdict(bench.cost),
                    "ceiling": limit,
                    "lines": [asdict(line) for line in lines],
                }
            )

    def components(self) -> None:
        """The ratio of compute at equal correlation for several numbers of components."""
        plan, alpha, most = self.plan, self.plan.components_alpha, max(self.plan.draws)
        print(f"\ncompute at equal correlation by the number of components, alpha {alpha:.0%}")
        rows: list[dict[str, Any]] = []
        for count in plan.components:
            registry, words = components_of(self.adapter, count)
            draws = sorted({min(DRAWS_PER_COMPONENT * len(registry), most), most})
            done = alpha in self._rows and set(draws) <= set(plan.draws)
            if done and registry == self.adapter.registry("row"):
                lines = self._rows[alpha]
            else:
                bench = self.bench(registry, self.data(plan.examples * plan.domains))
                wanted = with_least_squares(draws, len(registry))
                points = bench.sweeps(alpha, plan.seeds, wanted, plan.gradient_budgets)
                lines = bench.lines(points, alpha, plan.held_out)
            for one in draws:
                row = equal_correlation(lines, best_regression(lines, one))
                rows.append({"components": len(registry), "which": words, **row})
        print(
            f"\n{'components':>10}{'draws':>8} {'best of the two':16}{'pearson':>8}{'path gradient':>15}{'ratio':>10}"
        )
        for row in rows:
            print(
                f"{row['components']:>10,}{row['draws']:>8,} {row['method']:16}{row['pearson']:>8.4f}"
                f"{row['reached']:>12} fe{row['ratio']:>10}   {row['which']}"
            )
        self.found["components"] = rows

    def budgets(self) -> None:
        """al.attribute at several budgets, beside every single method that could have been chosen."""
        plan, data = self.plan, self.data(self.plan.budgets_examples)
        for kind, alpha in plan.budgets_kinds:
            bench = self.bench(self.adapter.registry(kind), data)
            draws = with_least_squares(plan.budgets, len(bench.model.registry))
            points = bench.sweeps(alpha, plan.seeds, draws, plan.budgets, plan.budgets)
            points += [bench.attribute(alpha, seed, budget, EARLY) for seed in plan.seeds for budget in plan.budgets]
            lines = bench.lines(points, alpha, plan.held_out)
            print_table(lines, alpha, plan.seeds)
            chosen, early = of_method(lines, "attribute"), of_method(lines, "attribute, early")
            heads = f"{'budget':>8} {'best single method':20}{'pearson':>8}"
            print(heads + f"{'attribute':>10}{'early':>8}{'passes saved':>14}")
            lacks: list[float] = []
            for one, stopped in zip(chosen, early, strict=True):
                assert one.asked is not None
                best = best_affordable(lines, one.asked)
                lacks.append(one.pearson - best.pearson)
                print(
                    f"{one.asked:>8,} {best.method:20}{best.pearson:>8.4f}{one.pearson:>10.4f}{stopped.pearson:>8.4f}"
                    f"{1 - stopped.equivalents / one.equivalents:>14.0%}"
                )
            print(
                f"attribute against the best: {min(lacks):+.4f} at worst" + verdict(min(lacks), GOAL_CHOICE), flush=True
            )
            self.found["budgets"].append({"kind": kind, "alpha": alpha, "lines": [asdict(line) for line in lines]})

    def reference(self) -> None:
        """Seconds to equal correlation against the reference's way, for single examples and for many at once."""
        plan, alpha, most = self.plan, self.plan.components_alpha, max(self.plan.draws)
        together = self.data(plan.reference_examples)
        alone = [together.take(torch.tensor([example])) for example in range(plan.reference_singles)]
        print(
            f"\nseconds to equal correlation against one mask at a time in the weights, alpha {alpha:.0%}", flush=True
        )
        rows: list[dict[str, Any]] = []
        for data in [*alone, together]:
            bench = self.bench(self.adapter.registry("row"), data)
            draws = with_least_squares([most], len(bench.model.registry))
            points = bench.sweeps(alpha, plan.seeds[:1], draws, plan.reference_budgets)
            rows.append(self.race(bench, bench.lines(points, alpha, plan.held_out)))
        columns = f"{'of passes':>11}{'in place':>10}{'copies':>10}{'regression':>12}"
        print(f"\n{'':9}{'path gradient':>27}   the reference's way, {most:,} masks (seconds, extrapolated)")
        print(f"{'examples':9}{'pearson':>9}{'fe':>9}{'seconds':>9}   {'pearson':>8}{columns}{'ratio':>8}")
        for row in rows:
            print(
                f"{row['examples']:<9}{row['pearson']:>9.4f}{row['equivalents']:>9.0f}{row['seconds']:>9.3f}   "
                f"{row['regression_pearson']:>8.4f}{row['passes']:>11.1f}{row['in_place']:>10.1f}{row['copies']:>10.1f}"
                f"{row['fitting']:>12.1f}{row['ratio']:>8.0f}" + ("" if row["reached"] else "  NOT REACHED")
            )
        for examples, goal in GOALS_REFERENCE.items():
            ratios = [row["ratio"] if row["reached"] else 0.0 for row in rows if row["examples"] == examples]
            if ratios:
                ratio = statistics.median(ratios)
                print(
                    f"{examples} example(s) at once: {ratio:.0f} times fewer seconds, the regression not counted "
                    f"(median of {len(ratios)}, smallest {min(ratios):.0f})" + verdict(ratio, goal)
                )
        self.found["reference"] = rows

    def race(self, bench: Bench, lines: Sequence[Line]) -> dict[str, Any]:
        """Time both ways in turn: the path gradient with the fewest draws that reach the regression, and some masks."""
        plan, alpha, seed = self.plan, self.plan.components_alpha, self.plan.seeds[0]
        best = best_regression(lines, max(plan.draws))
        curve = sorted(of_method(lines, "path gradient"), key=lambda line: line.equivalents)
        chosen = next((line for line in curve if line.pearson >= best.pearson), curve[-1])
        assert chosen.asked is not None
        data, registry = bench.data.to(self.device), bench.model.registry
        design = al.Bernoulli(len(registry), alpha, 1000, seed)
        ways = {copies: Reference(self.hugging_face, registry, data, copies=copies) for copies in (False, True)}
        for way in ways.values():
            difference = way.largest_difference(bench.model, bench.data, design)
            assert difference < TOLERANCE, f"the reference's way gives other outputs, by {difference:.1e}"
        ours: list[float] = []
        masks: dict[bool, list[float]] = {copies: [] for copies in ways}
        for _ in range(plan.repeats):
            ours.append(bench.path_gradient(alpha, seed, chosen.asked).seconds)
            for copies, way in ways.items():
                masks[copies].append(seconds_per_mask(way, design, plan.reference_seconds / plan.repeats))
        seconds = statistics.median(ours)
        in_place, copies = (max(plan.draws) * statistics.median(masks[which]) for which in (False, True))
        return {
            "examples": len(bench.data),
            "pearson": chosen.pearson,
            "draws": chosen.asked,
            "equivalents": chosen.equivalents,
            "seconds": seconds,
            "reached": chosen.pearson >= best.pearson,
            "regression": best.method,
            "regression_pearson": best.pearson,
            "in_place": in_place,
            "copies": copies,
            "passes": min(in_place, copies),
            "fitting": best.fitting,
            "ratio": min(in_place, copies) / seconds,
        }

    @cached_property
    def hugging_face(self) -> Any:
        model: Any = self.zoo.model  # whose own type says that .to takes no text
        return model.to(self.device)


def components_of(adapter: al.Adapter, count: int) -> tuple[al.Registry, str]:
    """So many components that cut all of the model, and what they are.

    Fewer than there are rows: blocks of rows, of the largest size that gives enough of them, and of these an even
    choice. More: the weights that the MLP reads out of are cut by columns (the neurons) and the others by rows; then
    all by rows and by columns at once, where every weight is under two components.
    """
    rows = adapter.registry("row")
    if count == len(rows):
        return rows, "rows"
    if count < len(rows):
        sizes = [size for size in (64, 32, 16, 8, 4, 2, 1) if len(adapter.registry("row_block", size=size)) >= count]
        blocks = adapter.registry("row_block", size=sizes[0])
        return evenly(blocks, count), f"of {len(blocks):,} blocks of {sizes[0]} rows"
    disjoint = adapter.registry("row", modules=["q", "k", "v", "o", "mlp.in"]) + adapter.registry("neuron")
    if count <= len(disjoint):
        return evenly(disjoint, count), "rows, but of mlp.out the columns (neurons)"
    both = adapter.registry(["row", "column"], allow_overlap=True)
    if count > len(both):
        raise SystemExit(f"--components {count}: this model has {len(both):,} rows and columns")
    return evenly(both, count), "rows and columns of the same weights"


def evenly(registry: al.Registry, count: int) -> al.Registry:
    """So many components of a registry, evenly spread over it."""
    names = {registry.names[column] for column in np.linspace(0, len(registry) - 1, count).round().astype(int)}
    return registry.select(where=lambda component: component.name in names)


def equal_correlation(lines: Sequence[Line], regression: Line) -> dict[str, Any]:
    """What the path gradient spends for the correlation of a regression."""
    reached = crossing(of_method(lines, "path gradient"), regression.pearson)
    return {
        "draws": regression.asked,
        "method": regression.method,
        "pearson": regression.pearson,
        "reached": str(reached),
        "ratio": reached.ratio(regression.equivalents),
    }


def best_affordable(lines: Sequence[Line], budget: int) -> Line:
    """The best of the single methods that spend no more than a budget."""
    single = [line for line in lines if not line.method.startswith("attribute")]
    return max((line for line in single if line.equivalents <= 1.01 * budget + 1), key=lambda line: line.pearson)


# -- printing ------------------------------------------------------------------------------------------------------


def print_ceiling(limit: float | None) -> None:
    if limit is not None:
        print(f"{'ceiling':48}{limit:10.4f}   of any linear prediction (al.ceiling of two least squares fits)")


def print_table(lines: Sequence[Line], alpha: float, seeds: Sequence[int]) -> None:
    print(f"\nalpha {alpha:.3g}")
    by_seed = "".join(f"{f'seed {seed}':>9}" for seed in seeds)
    print(f"{'':22}{'asked':>8}{'fe':>9}{'seconds':>9}{'+fitting':>9}{'pearson':>10}{by_seed}")
    for line in lines:
        asked = "" if line.asked is None else f"{line.asked:,}"
        scores = "" if line.asked is None else "".join(f"{score:9.4f}" for score in line.by_seed)
        print(
            f"{line.method:22}{asked:>8}{line.equivalents:9,.0f}{line.seconds:9.2f}{line.fitting:9.2f}"
            f"{line.pearson:10.4f}{scores}"
        )


def print_ratios(lines: Sequence[Line], draws: Sequence[int]) -> None:
    """Compute at equal correlation."""
    print("equal correlation: the better of ridge and least squares (and lasso), against the path gradient")
    for regression in [*(best_regression(lines, count) for count in draws), *of_method(lines, "lasso")]:
        row = equal_correlation(lines, regression)
        print(
            f"  {row['method']:14}{row['draws']:>7,} draws {row['pearson']:.4f}   reached at {row['reached']:>8} fe   "
            f"ratio {row['ratio']}"
        )


def print_goals(lines: Sequence[Line], alpha: float, draws: int) -> None:
    best = best_regression(lines, draws)
    affordable = [line for line in of_method(lines, "path gradient") if line.equivalents <= GOAL_BUDGET * 1.005]
    ours = max(affordable, key=lambda line: line.equivalents)
    ahead = ours.pearson - best.pearson
    print(
        f"path gradient at {ours.equivalents:,.0f} fe {ours.pearson:.4f}, {best.method} on {draws:,} draws "
        f"{best.pearson:.4f}: {ahead:+.4f}" + verdict(ahead, GOALS.get(alpha))
    )
    reached = crossing(of_method(lines, "path gradient"), best.pearson)
    times = 0.0 if reached.bound == "more than" else best.equivalents / reached.equivalents
    print(f"times fewer passes for equal correlation: {reached.ratio(best.equivalents)}", end="")
    print(verdict(times, GOAL_RATIOS.get(alpha)), flush=True)


def verdict(value: float, goal: float | None) -> str:
    if goal is None:
        return ""
    return f"  (goal: at least {goal:g}{', met' if value >= goal else ''})" + (
        "" if value >= goal else "  BELOW THE GOAL"
    )


# -- the command line ----------------------------------------------------------------------------------------------


def numbers(kind: type) -> Any:
    def parse(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(",") if part)

    parse.__name__ = f"comma-separated {kind.__name__}s"
    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run in less than a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--alphas", type=numbers(float), help="shares of components to ablate: 0.02,0.05,0.1")
    parser.add_argument("--seeds", type=numbers(int), help="of the draws: 0,1")
    parser.add_argument("--draws", type=numbers(int), help="of the regressions, prefixes of one sweep: 5000,20000")
    parser.add_argument("--lasso-draws", type=numbers(int), help="of lasso, a few seconds for each example")
    parser.add_argument("--gradient-budgets", type=numbers(int), help="fe of the path gradient: 30,100,300,1000,3000")
    parser.add_argument("--attribute-budgets", type=numbers(int), help="budgets of al.attribute: 100,1000,10000")
    parser.add_argument("--examples", type=int, help="of each domain")
    parser.add_argument("--held-out", type=int, help="held-out masks for each alpha")
    parser.add_argument("--components", type=numbers(int), help="numbers of components: 500,2000,4608,6144")
    parser.add_argument("--repeats", type=int, help="rounds of each timing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    given = {name: value for name, value in vars(asked).items() if name in Plan.__annotations__ and value is not None}
    plan = replace(QUICK if asked.quick else Plan(), **given)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    begun = time.perf_counter()
    name = f", {torch.cuda.get_device_name(asked.device)}" if asked.device.startswith("cuda") else ""
    print(f"{platform.machine()}{name}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    benchmark = Benchmark(plan, asked.device)
    for part in PARTS:
        if part in asked.only:
            getattr(benchmark, part)()
            if asked.json:
                asked.json.write_text(json.dumps(benchmark.found, indent=1))
    print(f"\n{(time.perf_counter() - begun) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
