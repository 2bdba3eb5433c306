"""Attention patterns under any mask, and what they attend to, head by head."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import SupportsIndex

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from ablationlens.adapters.patterns import chosen_heads
from ablationlens.data import Batch
from ablationlens.data.inputs import encoder_of, token_key
from ablationlens.diagnostics.given_masks import Ablated, given_masks
from ablationlens.errors import InputError
from ablationlens.layout import reads_encoder
from ablationlens.masked_model import MaskedModel, check_call
from ablationlens.outputs.targets import mass, targets
from ablationlens.progress import bar
from ablationlens.provenance import packages
from ablationlens.sites import Pattern
from ablationlens.sweep import Pass, Sweep

ROUNDING = 1e-4
"""How far below 0 an entry of a pattern may be rounded."""
DIMS = ("example", "layer", "head", "query", "key")


def attention_patterns(
    model: MaskedModel,
    data: Batch,
    mask: Ablated | Mapping[str, Ablated] = None,
    *,
    layers: Sequence[int] | SupportsIndex | None = None,
    attention: str | None = None,
    rows: int | None = None,
    show_bar: bool | None = None,
) -> xr.DataArray:
    """Attention patterns of every example, of the model as it is or under a mask. Nothing is averaged.

    With a base it is the base that is seen, or the base under a mask; where that has several samples the array has a
    dimension "sample", and ``patterns.mean("sample")`` averages.

    Attention that runs as "sdpa" or "flash_attention_2" is switched to "eager" for the duration, which forms patterns:
    batch x heads x queries x keys numbers in each layer that is asked for. It costs one forward pass for each mask. Two
    patterns of the same data are subtracted as they are::

        after = al.attention_patterns(model, data, "L0.head 3")
        change = after - al.attention_patterns(model, data)

    Args:
        model: the masked model; its output has no part in it.
        data: the examples.
        mask: nothing, for the model as it is; a component, its name, or several of them, which are ablated together; a
            mask [component], [1, component], [batch, component] or [batch, position, component]; or several of all
            these by name, ``{"clean": None, "without": "L0.head 3"}``, for an array with a dimension "mask" first.
        layers: layers to read, or one; all by default.
        attention: which attention of a layer, in a model that has several: ``encoder.attn``, ``decoder.attn`` or
            ``decoder.cross`` in T5.
        rows: rows of one forward pass; chosen if not given.
        show_bar: a progress bar; by default where there is a screen.

    Returns:
        [example, layer, head, query, key], float32, with "mask" and "sample" before them where there are several. Rows
        of real queries sum to 1, those of padded queries are NaN. The coordinates `query_token` [example, query] and
        `key_token` [example, key] hold the tokens, as text where the data has a tokenizer; padding is "".

    Raises:
        AdapterError: if the attention does not show its pattern; the message says how to load the model.
        InputError: if a mask does not fit, or the model has several attentions, and `attention` does not say which.
        UnknownNameError: for a layer, an attention or a component that the model does not have.
    """
    check_call(model, data)
    named = {"": mask} if not isinstance(mask, Mapping) else {str(name): one for name, one in mask.items()}
    heads = chosen_heads(
        model.adapter, [operator.index(layers)] if isinstance(layers, SupportsIndex) else layers, attention
    )
    if not heads:
        raise InputError("there are no layers to read: layers=[]; leave it out for all of them")
    if len({one.queries for one in heads}) > 1:
        counts = ", ".join(f"{one.queries} in layer {one.layer}" for one in heads)
        raise InputError(f"layers have different numbers of heads ({counts}): read them one by one, layers=[...]")
    taps = [Pattern(one.layer, one.attention) for one in heads]
    _, source = given_masks(model, data, named)
    sweep = Sweep(model, data, source, rows=rows)
    queries, keys = positions(data, heads[0].attention)
    shape = len(data), len(heads), heads[0].queries, queries.shape[1], keys.shape[1]
    every = np.full((sweep.samples, len(named), *shape), np.nan, "f4")

    def keep(one: Pass, found: np.ndarray) -> None:
        for layer, tap in enumerate(taps):
            shown = one.by_draw(one.seen[tap].to("cpu", torch.float32)).numpy()
            if shown.shape[-2:] != found.shape[-2:]:
                raise InputError(
                    f"{tap} is between {list(shown.shape[-2:])} positions, and the inputs have "
                    f"{list(found.shape[-2:])}: a model that adds or drops tokens has no labelled patterns"
                )
            own = slice(one.draws.start, one.draws.stop), slice(one.examples.start, one.examples.stop), layer
            found[own] = shown

    sweep.announce("attention patterns")
    spans = [(sample, *span) for sample in range(sweep.samples) for span in sweep.blocks(0, source.draws)]
    for sample, start, stop in bar(spans, total=len(spans), unit="block", label="patterns", show_bar=show_bar):
        sweep.visit(start, stop, partial(keep, found=every[sample]), taps, sample=sample)
    real = queries.cpu().numpy()
    every[:, :, ~real[:, None, None, :] & np.ones(shape[:4], bool)] = np.nan
    array = xr.DataArray(
        np.moveaxis(every, 0, 1),
        dims=("mask", "sample", *DIMS),
        coords={
            "mask": list(named),
            "sample": np.arange(sweep.samples),
            "example": list(data.names()),
            "layer": [one.layer for one in heads],
            "head": np.arange(heads[0].queries),
            "query_token": (("example", "query"), labels(data, heads[0].attention, "q")),
            "key_token": (("example", "key"), labels(data, heads[0].attention, "k")),
        },
        name="attention",
        attrs={"attention": heads[0].attention, "registry": model.registry.fingerprint, **packages()},
    )
    array = array if isinstance(mask, Mapping) else array.isel(mask=0, drop=True)
    return array if sweep.samples > 1 else array.isel(sample=0, drop=True)


def positions(data: Batch, attention: str) -> tuple[Bool[Tensor, "example query"], Bool[Tensor, "example key"]]:
    """Real positions that an attention has as queries and as keys.

    Raises:
        InputError: if the data has no such positions.
    """
    queries, keys = _read_by(data, f"{attention}.q").attended, _read_by(data, f"{attention}.k").attended
    if queries is None or keys is None:
        raise InputError("attention patterns are between positions, and these inputs have none")
    return queries, keys


def labels(data: Batch, attention: str, projection: str) -> np.ndarray:
    """Text of every real token that a projection of an attention reads, or its id without a tokenizer.

    Positions are numbered where they are not those of tokens, and padding is "".
    """
    read = _read_by(data, f"{attention}.{projection}")
    if token_key(read.inputs) is not None:
        return np.array(read.tokens(), dtype=str)
    assert read.attended is not None  # see `positions`
    real = read.attended.cpu().numpy()
    return np.where(real, np.arange(real.shape[1]).astype(str), "")


def _read_by(data: Batch, module: str) -> Batch:
    """The examples as the stack reads them that a module is in."""
    return replace(data, inputs=encoder_of(data.inputs)) if reads_encoder(module) else data


def attention_summary(patterns: xr.DataArray, data: Batch) -> xr.Dataset:
    """What every head attends to in every example: means over its real queries.

    Args:
        patterns: from `attention_patterns`, of this data; also of several masks.
        data: the examples.

    Returns:
        [..., example, layer, head]: `entropy` in nats; `previous`, `first` and `induction`, the mass on the token
        before, on the first token, and on the tokens that came after earlier occurrences of the query's token; 0 to 1,
        over the queries that have such a target, NaN in examples where none has. `induction` is there for token ids.

    Raises:
        InputError: if the patterns are of other examples, not between the positions of the data's logits, or a
            difference of patterns.
    """
    real = _checked(patterns, data)
    lead = patterns.dims[:-5]
    order = ("example", *lead, "layer", "head", "query", "key")
    values = torch.from_numpy(patterns.transpose(*order).values)
    safe = values.clamp(min=torch.finfo(values.dtype).tiny)
    entropy = -(values * safe.log()).sum(-1)
    measures: dict[str, Tensor] = {"entropy": _mean_over(entropy, real)}
    for name in ("previous", "first", "induction"):
        if name != "induction" or token_key(data.inputs) is not None:
            measures[name] = mass(values, targets(data, name).cpu())
    dims = ("example", *lead, "layer", "head")
    coords = {name: patterns[name] for name in dims}
    found = xr.Dataset({name: (dims, value.numpy()) for name, value in measures.items()}, coords=coords)
    return found.transpose(*lead, "example", "layer", "head")


def _checked(patterns: xr.DataArray, data: Batch) -> Bool[Tensor, "example query"]:
    """The real positions of the data, if the patterns are between them.

    Raises:
        InputError: if they are not.
    """
    if not isinstance(patterns, xr.DataArray) or tuple(patterns.dims[-5:]) != DIMS:
        raise InputError(f"patterns are those of al.attention_patterns(model, data), {list(DIMS)}")
    if reads_encoder(f"{patterns.attrs.get('attention', '')}.k"):
        raise InputError(
            f"what '{patterns.attrs['attention']}' attends to are positions of the encoder; summaries are of attention "
            "between positions of the logits: al.attention_patterns(model, data, attention='decoder.attn')"
        )
    real = data.attended
    same = (
        real is not None
        and patterns.shape[-2:] == (real.shape[1], real.shape[1])
        and [str(name) for name in patterns["example"].values] == list(data.names())
        and all(
            np.array_equal(patterns[name].values, labels(data, "attn", "q" if name == "query_token" else "k"))
            for name in ("query_token", "key_token")
            if name in patterns.coords
        )
    )
    if real is None or not same:
        raise InputError("the patterns are of other examples: al.attention_patterns(model, data), with the same data")
    if bool((patterns < -ROUNDING).any()):
        raise InputError(
            "some entries are below 0, so these are no patterns but a difference of them: take the summaries first, "
            "al.attention_summary(after, data) - al.attention_summary(before, data)"
        )
    return real.cpu()


def _mean_over(values: Tensor, real: Bool[Tensor, "example query"]) -> Tensor:
    """Mean over the real queries, in the last axis: [example, ..., query] to [example, ...]."""
    chosen = real.view(len(real), *(1,) * (values.ndim - 2), -1)
    return torch.where(chosen, values, 0).sum(-1) / chosen.sum(-1)
