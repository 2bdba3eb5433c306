"""Time and memory of the COAR regression against the two operations that it cannot do without.

    python benchmarks/least_squares.py [--components 4608] [--draws 15000] [--targets 100] [--repeats 3] [--threads 1]

Both sides get the same random masks. The *bare* side has its masks in float64 already and does one ``X.T @ X`` and one
Cholesky factorisation; ours gets booleans and does all that a fit takes. Every measurement is a process of its own
with a fixed number of threads, taken in turns; printed are medians. Goals: time within 2x, peak memory under 1.5 GB
(resident, of the whole process, interpreter and data included).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

SIDES = ("bare", "least_squares", "ridge")
GOAL_RATIO, GOAL_MEGABYTES = 2.0, 1500.0


def masks_and_outputs(components: int, draws: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Bernoulli masks that ablate 5%, and outputs that are additive but for as much noise as signal."""
    rng = np.random.default_rng(0)
    masks = np.empty((draws, components), dtype=bool)
    for row in masks:
        row[:] = rng.random(components, dtype=np.float32) < 0.95
    weights = rng.normal(size=(components, targets))
    outputs = np.concatenate([block @ weights for block in np.array_split(masks, max(1, draws // 500))])
    return masks, outputs + outputs.std() * rng.normal(size=outputs.shape)


def measure(side: str, components: int, draws: int, targets: int) -> dict[str, float]:
    """Seconds of one solve in this process, and the peak of its resident memory."""
    masks, outputs = masks_and_outputs(components, draws, targets)
    if side == "bare":
        import scipy.linalg

        design = masks.astype(np.float64)
        start = time.perf_counter()
        scipy.linalg.cholesky(design.T @ design, overwrite_a=True, check_finite=False)
    else:
        from ablationlens.solvers import SOLVERS

        start = time.perf_counter()
        SOLVERS[side](masks, outputs)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_a_process(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    """:func:`measure` in a process of its own, so that neither memory nor threads carry over."""
    threads = str(arguments.threads)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("components", "draws", "targets")]
    command = [sys.executable, __file__, "--side", side, *sizes]
    environment = os.environ | dict.fromkeys(names, threads)
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("components", 4608), ("draws", 15_000), ("targets", 100), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.components, arguments.draws, arguments.targets)))
        return 0
    runs = [{side: in_a_process(side, arguments) for side in SIDES} for _ in range(arguments.repeats)]
    print(
        f"{arguments.components} components, {arguments.draws} draws, {arguments.targets} targets, "
        f"{arguments.threads} thread(s), median of {arguments.repeats}"
    )
    print(f"{'side':<15}{'seconds':>9}{'ratio':>8}{'goal':>8}{'peak MB':>10}{'goal':>8}")
    met = True
    for side in SIDES:
        seconds = statistics.median(run[side]["seconds"] for run in runs)
        ratio = statistics.median(run[side]["seconds"] / run["bare"]["seconds"] for run in runs)
        megabytes = statistics.median(run[side]["megabytes"] for run in runs)
        goals = ("", "") if side == "bare" else (f"< {GOAL_RATIO:.1f}", f"< {GOAL_MEGABYTES:.0f}")
        print(f"{side:<15}{seconds:>9.2f}{ratio:>8.2f}{goals[0]:>8}{megabytes:>10.0f}{goals[1]:>8}")
        met = met and (side == "bare" or (ratio < GOAL_RATIO and megabytes < GOAL_MEGABYTES))
    print("goals met" if met else "GOALS MISSED")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
