"""The command line of the scripts that train what is bundled."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Options(NamedTuple):
    """What the scripts can be told.

    Attributes:
        out: the directory to write to.
        steps: of the optimiser.
        seed: of everything random.
    """

    out: Path
    steps: int
    seed: int


def parse(program: str, about: str | None, arguments: Sequence[str] | None, *, steps: int, seed: int) -> Options:
    """Read a command line; set the number of threads and the log.

    Args:
        program: how the script is called.
        about: its docstring.
        arguments: of the command line; those of this process if None.
        steps: unless it says otherwise.
        seed: unless it says otherwise.
    """
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--out", type=Path, required=True, help="directory to write to")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    return Options(given.out, given.steps, given.seed)
