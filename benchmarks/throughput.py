"""What masking costs: each ratio of the table is measured with both sides in turn, in one process.

    python benchmarks/throughput.py            # the whole table, about five minutes on two cores
    python benchmarks/throughput.py --runs 1   # a quick look

A row shows the median ratio over the runs, its range, and the goal. Threads are fixed to one: what is compared is work,
not how well the machine is shared. The model is that of the project's notes: GPT-2 architecture, 4 layers, d_model 128,
16 tokens, float32.
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nnsight
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import GPT2Config, GPT2LMHeadModel

import ablationlens as al
from ablationlens.counterfactuals import record
from ablationlens.sweep import Sweep

TOKENS, VOCAB = 16, 500
PASSES = 8
"""Forward passes of one timed round."""
Work = Callable[[], object]
HOLD: dict[str, Callable[[GPT2LMHeadModel], Any]] = {
    "torch": lambda model: model,
    "transformer_lens": lambda model: build_bridge_from_module(model, type(model).__name__, hf_config=model.config),
    "nnsight": nnsight.NNsight,
}


def language_model(vocab: int = VOCAB) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab, n_positions=64, n_embd=128, n_layer=4, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def ratio(plain: Work, ours: Work, seconds: float) -> float:
    """Speed of `ours` as a share of the speed of `plain`: median over short rounds in which both are timed in turn."""
    for work in (plain, ours, plain, ours):
        work()
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios) < 5:
        first = _time(plain)
        second = _time(ours)
        ratios.append((first + _time(plain)) / 2 / second)
    return statistics.median(ratios)


def _time(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def masked_forward(host: str, kind: str, batch: int, seconds: float) -> float:
    """A masked forward pass against the same host's plain one, at the same batch."""
    model = language_model()
    held = HOLD[host](model)
    adapter = al.adapt(held)
    masked = al.MaskedModel(adapter, adapter.registry(kind))
    data = al.batch(torch.randint(0, VOCAB, (batch, TOKENS)))
    mask = (torch.rand(batch, len(masked.registry)) > 0.1).float()
    stand_ins = masked.bind(data).stand_ins

    module = getattr(held, "_module", held)  # an nnsight model against the module that it wraps

    def plain() -> None:
        with torch.no_grad():
            for _ in range(PASSES):
                module(data.inputs["input_ids"], **({} if host == "transformer_lens" else {"use_cache": False}))

    def ours() -> None:
        with torch.no_grad(), adapter.session() as run:  # as a sweep runs its passes
            for _ in range(PASSES):
                run(data, masked.plan.edits(mask, stand_ins))

    return ratio(plain, ours, seconds)


def against_weight_edits(seconds: float) -> float:
    """Masks per second against editing the weights, one mask at a time at batch 1, as the COAR reference does."""
    model = language_model()
    adapter = al.adapt(model)
    masked = al.MaskedModel(adapter, adapter.registry("row"), output=al.Margin())
    data = al.batch(torch.randint(0, VOCAB, (1, TOKENS)))
    design = al.Bernoulli(len(masked.registry), 0.1, 256)
    edited = copy.deepcopy(model)
    linears = [(masked.adapter.weight(m.layer, m.name), m) for m in adapter.layout.modules if not m.parts]
    targets = al.adapt(edited)
    margin = al.Margin()

    def by_weights() -> None:
        for draw in range(64):
            mask = torch.from_numpy(design.mask(draw))
            start = 0
            with torch.no_grad():
                for original, module in linears:
                    keep = mask[start : start + module.rows]
                    targets.weight(module.layer, module.name).copy_(original * keep[:, None])
                    start += module.rows
                margin(edited(data.inputs["input_ids"], use_cache=False).logits, data)

    sweep = Sweep(masked, data, design)

    def ours() -> None:
        sweep.outputs(0, 64)

    return ratio(by_weights, ours, seconds)


def sweep_end_to_end(seconds: float) -> float:
    """Sampling, masked forward, output and store, against the plain forward passes that they need."""
    model = language_model()
    adapter = al.adapt(model)
    masked = al.MaskedModel(adapter, adapter.registry("row"), output=al.Margin())
    data = al.batch(torch.randint(0, VOCAB, (8, TOKENS)))
    design = al.Bernoulli(len(masked.registry), 0.05, 512)
    packing = Sweep(masked, data, design).packing
    packed = data.inputs["input_ids"].repeat(packing.draws, 1)

    def plain() -> None:
        with torch.no_grad():
            for _ in range(packing.passes(design.draws, len(data))):
                model(packed, use_cache=False)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            record(masked, data, design, store=Path(folder) / "run", show_bar=False)

    return ratio(plain, ours, seconds)


ROWS: list[tuple[str, float | None, Callable[[float], float]]] = [
    *(
        (
            f"masked forward, {kind}s, {host}, batch {batch}",
            goal,
            partial(masked_forward, host, kind, batch),
        )
        for host, kind, goals in (
            ("torch", "row", {16: 0.93, 64: 0.93}),
            ("transformer_lens", "row", {16: 0.87, 64: 0.87}),
            ("nnsight", "row", {1: None, 16: 0.83, 64: 0.92}),
            ("torch", "head", {16: 0.95, 64: 0.95}),
            ("transformer_lens", "head", {16: 0.95, 64: 0.95}),
            ("nnsight", "head", {16: None, 64: None}),
        )
        for batch, goal in goals.items()
    ),
    ("masks per second against weight edits at batch 1", 2.5, against_weight_edits),
    ("sweep end to end against plain forwards", 0.85, sweep_end_to_end),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name holds this text, such as nnsight")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for one ratio of one run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {arguments.runs} runs")
    print(f"{'':58} {'ratio':>7} {'range':>15} {'goal':>6}")
    for name, goal, measure in [row for row in ROWS if arguments.only in row[0]]:
        values = [measure(arguments.seconds) for _ in range(arguments.runs)]
        middle = statistics.median(values)
        verdict = "" if goal is None or middle >= goal else "  below the goal"
        wanted = "" if goal is None else f"{goal:.2f}"
        print(f"{name:58} {middle:7.3f} {min(values):7.3f}-{max(values):.3f} {wanted:>6}{verdict}", flush=True)


if __name__ == "__main__":
    main()
