"""Patching as TransformerLens does it, in the order of our arrays: [example, component], or with positions between."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformer_lens.tools.analysis import attribution_patching as theirs

import ablationlens as al
from tests import models


def metric(logits: Tensor) -> Tensor:
    """One number for each row that depends on every logit, unevenly."""
    weights = torch.linspace(-1, 1, logits[0].numel()).cos().reshape(logits.shape[1:])
    return (logits * weights).flatten(1).sum(1) / 10


KEPT: dict[tuple[Any, ...], Any] = {}
"""Results for the same tokens, which tests of several hosts ask for."""


@cache
def bridge_of(name: str) -> Any:
    """A bridge that our code never sees."""
    return al.zoo.load("induction").bridge() if name == "induction" else models.bridge_of(models.MODELS[name]())


def patched(
    name: str,
    sweep: Callable[..., Any],
    run: Tensor,
    other: Tensor,
    measure: Callable[[Tensor], Tensor] = metric,
) -> tuple[Tensor, Tensor]:
    """Metric of every patched run, and that of the run without a patch [example]."""
    key = (name, id(sweep), run.numpy().tobytes(), other.numpy().tobytes(), measure.__qualname__)
    if key not in KEPT:
        bridge = bridge_of(name)
        _, cached = bridge.run_with_cache(other)
        KEPT[key] = sweep(bridge, run, cached, measure, reduce="none", baseline=True)
    result = KEPT[key]
    axes = [{"dest_pos": "pos", "head_index": "head"}.get(axis, axis) for axis in result.axis_names] + ["batch"]
    order = [axis for axis in ("batch", "pos", "layer", "head") if axis in axes]
    values = result.values.permute([axes.index(axis) for axis in order])
    return (values.flatten(order.index("layer")) if "head" in axes else values), result.baseline


def estimated(
    name: str,
    kind: str,
    run: Tensor,
    other: Tensor,
    measure: Callable[[Tensor], Tensor] = metric,
) -> Tensor:
    """Its node attribution of one kind of node, "attn_head_out", "mlp_out" or "embed": [example, position, component].

    Its metric is of single examples and its scores are means over them, so the examples go in one by one.
    """
    key = (name, run.numpy().tobytes(), other.numpy().tobytes(), measure.__qualname__)
    if key not in KEPT:
        KEPT[key] = _scores(name, run, other, measure)
    rows: list[Tensor] = []
    for found in KEPT[key]:
        nodes = sorted(
            (node for node in found if node.kind == kind), key=lambda node: (node.position, node.layer, node.head)
        )
        rows.append(torch.tensor([found[node] for node in nodes]).view(run.shape[1], -1))
    return torch.stack(rows)


def _scores(name: str, run: Tensor, other: Tensor, measure: Callable[[Tensor], Tensor]) -> list[dict[Any, float]]:
    """Scores of each example by itself."""
    scores: list[dict[Any, float]] = []
    for example in range(len(run)):
        one = slice(example, example + 1)

        def measured(logits: Tensor, of: slice = one) -> Tensor:
            return measure(logits.expand(len(run), -1, -1))[of].sum()

        scores.append(theirs.attribution_patch(bridge_of(name), other[one], run[one], measured).node_scores)
    return scores
