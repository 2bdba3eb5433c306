"""What diagnoses cost beside the forward passes that they need, and what memory they take.

    python benchmarks/diagnostics.py            # about two minutes on one core
    python benchmarks/diagnostics.py --quick    # seconds, to see that it runs

Time: every head of the bundled `domains` model ablated alone, on 32 texts of 16 tokens. The bare side runs the same
masks in the same passes through the adapter's session, one unmodified pass first, and looks at nothing. Both sides are
timed in turn with one thread; a row shows the median ratio, its quartiles, and the goal.

Memory: by how much the diagnosis of so many parts raises the resident memory of a process at its peak, each a new one.
The result grows, by 28 bytes for each mask and position of a drift. To keep the logits of 256 masks would take 1 GB,
and their patterns 134 MB. Only Linux tells.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import ablationlens as al
from ablationlens.diagnostics.drift import drift
from ablationlens.diagnostics.table import ablation_table
from ablationlens.sweep import GivenMasks, Sweep

TEXTS, TOKENS = 32, 16
GOAL = 1.5
PARTS = (16, 64, 256)
"""Ablations of one process that measures memory."""
DIAGNOSES = ("drift", "ablation table")
Work = Callable[[], object]


def examples(texts: int) -> tuple[al.MaskedModel, al.Batch]:
    """The bundled model by head, and texts of all its domains in turn."""
    zoo = al.zoo.load("domains")
    adapter = al.adapt(zoo.model)
    every = [zoo.texts(domain, tokens=TOKENS)[: -(-texts // 2)] for domain in ("python", "cpp")]
    chosen = [text for pair in zip(*every, strict=True) for text in pair][:texts]
    return al.MaskedModel(adapter, adapter.registry("head")), al.batch(chosen, tokenizer=zoo.tokenizer)


def each_alone(components: int, masks: int) -> torch.Tensor:
    """Masks that ablate one component each, over and over."""
    return (1 - torch.eye(components)).repeat(-(-masks // components), 1)[:masks]


def diagnosis(name: str, model: al.MaskedModel, data: al.Batch, masks: torch.Tensor) -> Work:
    if name == "drift":
        return lambda: drift(model, data, masks, show_bar=False)
    return lambda: ablation_table(model, data, patterns=True, show_bar=False)


def bare(model: al.MaskedModel, data: al.Batch, masks: torch.Tensor) -> Work:
    """The forward passes alone: one of the unmodified model, and those of the masks."""
    adapter, bound = model.adapter, model.bind(data)
    packing = Sweep(model, data, GivenMasks(masks)).packing
    spans = list(packing.spans(0, len(masks), len(data)))
    inputs = [
        (masks[draws.start : draws.stop].repeat_interleave(len(rows), dim=0), bound.data.take(list(rows) * len(draws)))
        for draws, rows in [*packing.spans(0, 1, len(data)), *spans]
    ]
    inputs = [(mask, batch, model.plan.stand_ins(bound.replacements)) for mask, batch in inputs]

    def work() -> None:
        with torch.no_grad(), adapter.session() as run:
            for mask, batch, stand_ins in inputs:
                run(batch, model.plan.edits(mask, stand_ins))

    return work


def ratios(plain: Work, ours: Work, rounds: int) -> list[float]:
    """Time of `ours` over that of `plain`, timed before and after it, in each round."""
    plain()
    ours()
    found: list[float] = []
    for _ in range(rounds):
        before, middle, after = seconds(plain), seconds(ours), seconds(plain)
        found.append(2 * middle / (before + after))
    return found


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(name: str, parts: int, texts: int) -> float:
    """Megabytes by which one diagnosis raises the peak of a new process."""
    command = [sys.executable, __file__, "--peak-of", name, "--parts", str(parts), "--texts", str(texts)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(found.stdout.split()[-1])


def show_peak(name: str, parts: int, texts: int) -> None:
    """Make one diagnosis of so many parts; print by how many megabytes the peak rose."""
    model, data = examples(texts)
    model(model.mask(), data)  # what a first forward pass sets up is not counted
    resident()
    before = resident()
    if name == "drift":
        diagnosis(name, model, data, each_alone(len(model.registry), parts))()
    else:
        rows = model.adapter.registry("row", layers=[0], modules=["mlp.in"])
        chosen = rows.select(where=lambda component: component.index < parts)
        diagnosis(name, al.MaskedModel(model.adapter, chosen), data, torch.ones(1, 1))()
    print(resident() - before)


def resident() -> float:
    """Peak resident megabytes since the last call."""
    (peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again, from what is resident now
    return int(peak) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round, few texts and parts")
    parser.add_argument("--peak-of", choices=DIAGNOSES, help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=int, default=PARTS[0], help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=int, default=TEXTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if arguments.peak_of:
        show_peak(arguments.peak_of, arguments.parts, arguments.texts)
        return
    texts, rounds, parts = (4, 1, (4, 16)) if arguments.quick else (arguments.texts, arguments.rounds, PARTS)
    model, data = examples(texts)
    masks = each_alone(len(model.registry), len(model.registry))
    print(
        f"{platform.machine()}, torch {torch.__version__}, 1 thread, {len(masks)} heads, {texts} texts, {rounds} rounds"
    )
    print(f"{'seconds over those of bare forward passes':44} {'ratio':>7} {'quartiles':>13} {'goal':>6}")
    plain = bare(model, data, masks)
    for name in DIAGNOSES:
        found = sorted(ratios(plain, diagnosis(name, model, data, masks), rounds))
        middle, low, high = statistics.median(found), found[len(found) // 4], found[-1 - len(found) // 4]
        verdict = "" if middle <= GOAL else "  above the goal"
        print(f"{name:44} {middle:7.2f} {low:7.2f}-{high:.2f} {GOAL:6.1f}{verdict}", flush=True)
    print(f"\n{'rise of peak memory in MB, by ablations':44} " + " ".join(f"{count:>8}" for count in parts))
    for name in DIAGNOSES:
        print(f"{name:44} " + " ".join(f"{peak(name, count, texts):8.0f}" for count in parts), flush=True)


if __name__ == "__main__":
    main()
