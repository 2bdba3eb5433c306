"""Descriptions: different for different outputs, the same in any process."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.outputs import Output, SquaredError, as_output
from tests.outputs.callables import Callable2, by_both, by_logits, with_option
from tests.outputs.naive import NAIVE


class Doubled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 2 * logits[:, 0]


class Tripled(Output):
    def __call__(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        return 3 * logits[:, 0]


def recursive(logits: Tensor) -> Tensor:
    return recursive(logits[0]) if logits.ndim > 1 else logits


def capturing(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[:, value]


LAMBDAS: list[Callable[[Tensor], Tensor]] = [
    lambda logits: logits[:, 0],
    lambda logits: logits[:, 1],
    lambda logits: logits.sum(0),
    lambda logits: logits if str(logits) in {"a", "b", "c"} else -logits,
]


def test_descriptions_are_jsonable_and_tell_outputs_apart() -> None:
    different: list[Output | Callable[..., Tensor]] = [
        *(output for output, _ in NAIVE),
        SquaredError(),
        Doubled(),
        Tripled(),
        *LAMBDAS,
        *(
            capturing(value)
            for value in (0, 1, torch.tensor(1), torch.tensor(2), [1], {"a": 1}, None, torch.half, math)
        ),
        *(capturing(function) for function in (by_logits, by_both, torch.sum)),
        *(Callable2(0), Callable2(1), torch.sum, torch.mean, recursive),
        *(functools.partial(with_option, scale=scale) for scale in (1, 2)),
        with_option,
        SimpleNamespace(f=Callable2(0)).f.__call__,
    ]
    described = [json.dumps(as_output(output).describe(), sort_keys=True) for output in different]
    assert len(set(described)) == len(different)
    assert json.dumps(as_output(capturing(1)).describe(), sort_keys=True) in described
    assert " at 0x" not in "".join(described)


def test_a_description_is_the_same_in_another_process() -> None:
    code = (
        "import json; from ablationlens.outputs import as_output\n"
        "f = lambda logits: logits if str(logits) in {'a', 'b', 'c', 'd'} else [x for x in logits]\n"
        "described = json.dumps(as_output(f).describe()); assert 'code' in described"
    )
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(code, here)
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}  # sets have another order there
    command = [sys.executable, "-c", code + "\nprint(described)"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert there.strip() == here["described"]
