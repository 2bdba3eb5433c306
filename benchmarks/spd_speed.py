"""What rank-one components cost beside the matrix products that they cannot do without.

    python benchmarks/spd_speed.py            # about two minutes on one core
    python benchmarks/spd_speed.py --quick    # seconds, to see that it runs

Masked forward: every attention projection of the bundled `induction` model in as many components as it has features, 16
rows. The time that random masks of all components and remainders add to a plain pass, over that of the products x @ V
and (x @ V) @ U alone.

Training: steps a second of `al.spd.train` (minimality, and stochastic reconstruction by all modules and by each) over
those of a bare loop, which does the same passes of the model and the same products for codes, importances and gated
outputs, takes the gradient of the same losses and makes the same step of Adam. It has hooks of PyTorch's own, no
remainders, one set of random numbers, and checks and notes nothing.

Both sides of a comparison are timed in turn with one thread; rows show medians, quartiles and the goal.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import ablationlens as al
from ablationlens.spd import Decomposition
from ablationlens.spd.forward import GatedModel
from ablationlens.spd.training import Recipe, Training, begin

ROWS, POSITIONS = 16, 64
MODULES = ("q", "k", "v", "o")
ADDED, STEPS = 1.3, 0.6
"""Goals: time added by a mask at most, steps a second at least."""
Work = Callable[[], object]


def model_and_data() -> tuple[al.Adapter, al.Batch, Decomposition, Recipe]:
    """The bundled model, rows of random tokens, and a decomposition that has learnt nothing yet."""
    adapter = al.adapt(al.zoo.load("induction").model)
    generator = torch.Generator().manual_seed(0)
    data = al.batch(torch.randint(0, adapter.vocabulary or 2, (ROWS, POSITIONS), generator=generator))
    names = adapter.layout.select_names(MODULES) or ()
    width = adapter.weight(0, "attn.q").shape[1]
    places = [(module.layer, module.name) for module in adapter.layout.modules if module.name in names]
    recipe = Recipe(dict.fromkeys(places, width), steps=1_000_000, rows=ROWS)
    return adapter, data, begin(adapter, recipe), recipe


def masked(adapter: al.Adapter, data: al.Batch, decomposition: Decomposition) -> Work:
    """A pass under random masks."""
    model = al.MaskedModel(adapter, decomposition.registry(adapter))
    mask = torch.rand(ROWS, len(model.registry), generator=torch.Generator().manual_seed(0))
    bound = model.bind(data)
    return lambda: _run(adapter, bound.data, model.plan.edits(mask, bound.stand_ins))


def plain(adapter: al.Adapter, data: al.Batch) -> Work:
    return lambda: _run(adapter, data, ())


def _run(adapter: al.Adapter, data: al.Batch, edits: Any) -> Tensor:
    with torch.no_grad():
        return adapter.run(data, edits)


def products(decomposition: Decomposition) -> Work:
    """x @ V and (x @ V) @ U of every module."""
    inputs = {where: torch.randn(ROWS, POSITIONS, part.V.shape[0]) for where, part in decomposition.items()}

    def work() -> None:
        with torch.no_grad():
            for where, part in decomposition.items():
                _ = (inputs[where] @ part.V) @ part.U

    return work


def ours(adapter: al.Adapter, data: al.Batch, recipe: Recipe) -> tuple[Any, Work]:
    """The session of a training, and a step in it."""
    training = Training(adapter, begin(adapter, recipe), recipe, data)
    session = GatedModel(adapter, training.decomposition).session()
    runs = session.__enter__()
    steps = iter(range(recipe.steps))
    return session, lambda: training._advance(runs, next(steps), noted=False)


class Bare:
    """The same products in a loop of plain PyTorch."""

    def __init__(self, adapter: al.Adapter, data: al.Batch, recipe: Recipe) -> None:
        self.decomposition = begin(adapter, recipe)
        self.optimiser = torch.optim.AdamW(self.decomposition.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
        self.model: Any = adapter.model
        self.model.requires_grad_(False)
        self.tokens = data.inputs["input_ids"]
        self.inputs: dict[Any, Tensor] = {}
        self.gates: Mapping[Any, Tensor] = {}
        self.handles = [
            self._module(where).register_forward_hook(
                lambda _, args, out, where=where: self._gated(where, args[0], out)
            )
            for where, _ in self.decomposition.items()
        ]

    def _module(self, where: tuple[int, str]) -> torch.nn.Module:
        return self.model.model.layers[where[0]].self_attn.get_submodule(f"{where[1].removeprefix('attn.')}_proj")

    def _gated(self, where: Any, x: Tensor, out: Tensor) -> Tensor:
        if not self.gates:
            self.inputs[where] = x
        if where not in self.gates:
            return out
        part = self.decomposition[where]
        return out + ((self.gates[where] - 1) * (x @ part.V)) @ part.U

    def step(self) -> None:
        self.gates = {}
        with torch.no_grad():
            target = self.model(input_ids=self.tokens).logits.log_softmax(-1)
        inputs = dict(self.inputs)
        lower = {where: part.importance(inputs[where]).clamp(0, 1) for where, part in self.decomposition.items()}
        loss = 3e-3 * torch.stack([one.flatten(0, -2).mean(0).sum() for one in lower.values()]).sum()
        gates = {where: one + (1 - one) * torch.rand_like(one) for where, one in lower.items()}
        passes = [gates, *({where: gate} for where, gate in gates.items())]
        for number, one in enumerate(passes):
            self.gates = one
            found = self.model(input_ids=self.tokens).logits.log_softmax(-1)
            kl = (target.exp() * (target - found)).sum(-1).mean()
            loss = loss + (kl if number == 0 else kl / len(gates))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round, after one that is not counted."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(seconds(work))
    return found


def show(name: str, values: list[float], goal: float, *, at_most: bool) -> bool:
    values = sorted(values)
    middle, low, high = statistics.median(values), values[len(values) // 4], values[-1 - len(values) // 4]
    met = middle <= goal if at_most else middle >= goal
    limit = f"{'<' if at_most else '>'} {goal:.1f}"
    print(f"{name:44} {middle:7.2f} {low:7.2f}-{high:.2f} {limit:>6}{'' if met else '  MISSED'}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    adapter, data, decomposition, recipe = model_and_data()
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {decomposition!r}, {ROWS} rows of {POSITIONS}")
    works = {
        "plain": plain(adapter, data),
        "masked": masked(adapter, data, decomposition),
        "products": products(decomposition),
    }
    times = in_turn(works, rounds)
    print("milliseconds: " + ", ".join(f"{name} {1e3 * statistics.median(one):.1f}" for name, one in times.items()))
    added = [(a - b) / c for b, a, c in zip(*times.values(), strict=True)]
    met = show("time that a mask adds over the products", added, ADDED, at_most=True)
    session, step = ours(adapter, data, recipe)
    try:  # the hooks of both sides do not meet: each has a model of its own
        other = al.adapt(al.zoo.load("induction").model)
        bare = Bare(other, data, recipe)
        times = in_turn({"ours": step, "bare": bare.step}, max(2, rounds // 4))
        bare.close()
    finally:
        session.__exit__(None, None, None)
    rates = [b / a for a, b in zip(*times.values(), strict=True)]
    print("steps a second: " + ", ".join(f"{name} {1 / statistics.median(one):.2f}" for name, one in times.items()))
    met = show("steps a second over those of a bare loop", rates, STEPS, at_most=False) and met
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
