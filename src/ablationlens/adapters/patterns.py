"""Attention patterns of a Hugging Face model: what each attention module returns beside its output.

An attention that runs as "sdpa" or "flash_attention_2" never forms its pattern; it has to be loaded as "eager". That
costs batch x heads x queries x keys numbers in each layer that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ablationlens.adapters.base import Adapter, PatternPoint
from ablationlens.adapters.configuration import config_of
from ablationlens.adapters.eager import eager
from ablationlens.adapters.watch import Watch
from ablationlens.data import Batch
from ablationlens.errors import AdapterError, InputError, UnknownNameError
from ablationlens.layout import Heads
from ablationlens.sites import Pattern, Tap

ROW_SUM_TOLERANCE = 0.02
"""How far the sum of a row of a pattern may be from 1: bfloat16 rounds each entry to 3 digits."""


def read_patterns(
    adapter: Adapter, batch: Batch, layers: Sequence[int] | None = None, attention: str | None = None
) -> dict[int, Float[Tensor, "batch head query key"]]:
    """The attention patterns of the unmodified model, by layer.

    Args:
        adapter: a model whose modules have logical names.
        batch: inputs; patterns of padded queries mean nothing.
        layers: layers to read; all by default.
        attention: which attention of a layer, in a model that has several: ``encoder.attn``, ``decoder.attn`` or
            ``decoder.cross`` in T5, where short names that fit one of them will do. Queries and keys are positions
            of the decoder, but keys of ``decoder.cross`` positions of the encoder.

    Raises:
        AdapterError: if the model's modules go by their paths, or its attention does not show its pattern; the
            message says how to load it.
        InputError: if the model has several attentions, and `attention` does not say which.
        UnknownNameError: for a layer or an attention that the model does not have.
    """
    chosen = chosen_heads(adapter, layers, attention, "adapter.patterns(batch, {})")
    adapter.check_data(batch)
    watch = Watch(Pattern(heads.layer, heads.attention) for heads in chosen)
    with torch.no_grad(), adapter.session(watch) as run:
        run(batch)
    found = {pattern.layer: watch.seen[pattern] for pattern in watch.patterns}
    for heads in chosen:
        sums = found[heads.layer].float().sum(-1)
        if not bool(((sums - 1).abs() < ROW_SUM_TOLERANCE).all()):
            name = adapter.pattern_point(heads).name
            raise AdapterError(f"{name} is not an attention pattern: its rows do not sum to 1")
    return found


@contextmanager
def forming(watch: Watch, model: nn.Module) -> Generator[None]:
    """Attention that forms the patterns to be watched, where there are any, for the duration of a session.

    Args:
        watch: what is to be seen.
        model: whose attention is switched.
    """
    with eager(model) if watch.patterns else nullcontext():
        yield


def hook_patterns(adapter: Adapter, watch: Watch, examples: Callable[[], int], handles: list[RemovableHandle]) -> None:
    """Hook every pattern that is watched; after the edits, so that what they leave is seen.

    Args:
        adapter: the host.
        watch: what to note, and where.
        examples: of the pass that is running.
        handles: where each hook is noted as soon as it is there.
    """
    for pattern in watch.patterns:
        call = f"al.PatternMass({pattern.layer}, head, {{}})"
        (heads,) = chosen_heads(adapter, [pattern.layer], pattern.attention, call)
        point = adapter.pattern_point(heads)
        watch.advice[pattern] = point.advice

        def note(_m: nn.Module, _i: Any, output: Any, *, pattern=pattern, heads=heads, point=point) -> None:  # pyright: ignore
            if watch.running:
                watch.note(pattern, _checked(point, heads, point.take(output), examples()))

        handles.append(point.module.register_forward_hook(note))


def chosen_heads(
    adapter: Adapter,
    layers: Sequence[int] | None,
    attention: str | None,
    call: str = "al.attention_patterns(model, data, {})",
) -> list[Heads]:
    """The heads of one attention in the layers that are asked for; see `read_patterns`.

    Args:
        adapter: the model.
        layers: layers to read; all by default.
        attention: which attention of a layer, in a model that has several.
        call: what the user called, with braces where `attention` goes, for messages.
    """
    layout = adapter.layout
    if not layout.heads:
        raise AdapterError(f"it is not known where {type(adapter.model).__name__} has its attention. {layout.advice}")
    known = list(dict.fromkeys(heads.attention for heads in layout.heads))
    matches = [name for name in known if attention in (None, name) or name.endswith(f".{attention}")]
    if not matches:
        raise UnknownNameError(f"no attention '{attention}': this model has {', '.join(known)}")
    if len(matches) > 1:
        raise InputError(
            "this model has several attentions in a layer: name one, "
            f"{call.format(f'attention={matches[-1]!r}')}; they are {', '.join(known)}"
        )
    of_all = {heads.layer: heads for heads in layout.heads if heads.attention == matches[0]}
    wanted = list(of_all) if layers is None else layout.select_layers(layers)
    missing = [layer for layer in wanted if layer not in of_all]
    if missing:
        raise UnknownNameError(f"no layer {missing[0]} in {matches[0]}: it has layers {', '.join(map(str, of_all))}")
    return [of_all[layer] for layer in wanted]


def _path(adapter: Adapter, heads: Heads) -> str:
    """The module of an attention: the one that holds its query projection is the one that returns its pattern."""
    for query in ("qkv", "q"):
        tap = Tap(heads.layer, f"{heads.attention}.{query}", "out")
        if adapter.has(tap):
            return adapter.place(tap).address.rpartition(".")[0]
    raise AdapterError(f"L{heads.layer}.{heads.attention} has no query projection, so it has no pattern")


def last_returned(adapter: Adapter, heads: Heads) -> PatternPoint:
    """The point of a Hugging Face model: the last that its attention module returns."""
    path = _path(adapter, heads)

    def take(output: Any) -> Any:
        return output[-1] if isinstance(output, tuple) else None

    name = f"the last that {path} returns"
    return PatternPoint(name, adapter.model.get_submodule(path), take, _how_to_load(adapter.model))


def _checked(point: PatternPoint, heads: Heads, pattern: Any, examples: int) -> Tensor:
    """What a point shows, if it has the shape of a pattern.

    Raises:
        AdapterError: if it has not.
    """
    if not isinstance(pattern, Tensor):
        where = f"L{heads.layer}.{heads.attention}"
        raise AdapterError(f"{where} does not return its attention pattern. {point.advice}")
    if pattern.ndim != 4 or pattern.shape[:2] != (examples, heads.queries):
        raise AdapterError(
            f"{point.name} has shape {list(pattern.shape)}, and is not an attention pattern "
            f"[{examples}, {heads.queries}, query, key] whose rows sum to 1"
        )
    return pattern


def _how_to_load(model: nn.Module) -> str:
    """The line that makes a Hugging Face model form its patterns."""
    running = getattr(config_of(model), "_attn_implementation", None)
    if running in (None, "eager"):
        return "It has to return (output, pattern) from its forward"
    load = f'{type(model).__name__}.from_pretrained(..., attn_implementation="eager")'
    switch = getattr(model, "_can_set_attn_implementation", None)
    if callable(switch) and switch():
        return f'It runs as "{running}", which never forms it: model.set_attn_implementation("eager"), or {load}'
    return f'It runs as "{running}", which never forms it. Load it as {load}'
