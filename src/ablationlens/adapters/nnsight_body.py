"""The body of a trace: all that a forward pass under edits needs, in torch, path strings and tensors.

nnsight ships the source of the body and the names that it uses to a server that has never seen this library, so it
calls none of our functions: the edits of `edits.py` are written out in it once more. Only a basis of the user's own
brings functions, and runs here alone.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import nnsight
import torch
from torch import Tensor

from ablationlens.types import Side

Group: TypeAlias = tuple[str, Side, int, list[Any], str | None, bool, bool, int]
"""What happens at one input or output of a module: its path, the side, which of its calls, the edits as plain tuples,
the key under which its value is kept (or None), whether as a copy, whether it may be edited in place, and the positions
of an example where batch and positions share its first axis (otherwise 0)."""


def run_trace(
    model: Any,
    first: list[Any],
    named: dict[str, Any],
    examples: int,
    groups: list[Group],
    logits: tuple[str, ...],
    keep: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass of an nnsight model under edits.

    Args:
        model: the nnsight model.
        first: positional arguments of the forward pass.
        named: its keyword arguments, and those of `trace`.
        examples: rows of the batch.
        groups: what to do, in the order in which the model reaches it.
        logits: attributes of the model's output that may hold the logits, the first that there is being taken.
        keep: whether the values that groups read are returned.

    Returns:
        The logits, and the values read, by key.
    """
    with model.trace(*first, **named) as tracer:
        seen = {}

        # names are quick to set in a function, and not in the block; types would have to be shipped with it
        def visit(group):  # pyright: ignore
            path, side, call, edits, key, copied, in_place, folded = group
            for _ in tracer.iter[call] if call else (0,):
                envoy = model.get(path)
                value = envoy.output if side == "out" else envoy.input
                whole = before = value if isinstance(value, torch.Tensor) else value[0]
                if folded and whole.shape[0] != examples * folded:
                    raise ValueError(
                        f"{path} has {whole.shape[0]} entries for {examples} examples of {folded} positions"
                    )
                if folded:
                    whole = before = whole.unflatten(0, (-1, folded))
                for kind, read, *parts in edits:
                    if kind == "lerp":
                        off, stand_in = (part.to(whole) for part in parts)
                        whole = whole.lerp_(stand_in, off) if in_place else torch.lerp(whole, stand_in, off)
                    elif kind == "coded":
                        encode, decode, off, stand_in = parts
                        codes = encode(whole if read is None else seen[read])
                        whole = whole + decode(off.to(codes) * (stand_in.to(codes) - codes)).to(whole)
                    else:
                        V, U, off, off_remainder, read_stand_in, write_stand_in, features = parts
                        own = whole[..., features]
                        codes = whole if read is None else seen[read]
                        if codes.is_floating_point():
                            codes = codes if read_stand_in is None else codes - read_stand_in.to(codes)
                            codes = codes if V is None else codes @ V.to(codes)
                        else:  # tokens
                            codes = torch.nn.functional.embedding(codes, V.to(own))
                            codes = codes if read_stand_in is None else codes - read_stand_in.to(codes)
                        kept = -off if off_remainder is None else off_remainder - off
                        if off_remainder is not None:
                            own = torch.lerp(own, write_stand_in.to(own), off_remainder.to(own))
                        own = own + (kept.to(codes) * codes) @ U.to(codes)
                        index = torch.arange(whole.shape[-1], device=whole.device)[features]
                        whole = torch.index_copy(whole, -1, index, own)
                if whole is not before:  # what was edited in place needs no writing
                    own = whole.flatten(0, 1) if folded else whole
                    if isinstance(value, torch.Tensor):
                        value = own
                    elif hasattr(value, "_replace"):
                        value = value._replace(**{value._fields[0]: own})
                    else:
                        value = type(value)((own, *value[1:]))
                    if side == "out":
                        envoy.output = value
                    else:
                        envoy.input = value
                if key is not None:
                    seen[key] = whole.clone() if copied else whole

        for group in groups:
            visit(group)
        output = model.output
        for name in logits:
            if getattr(output, name, None) is not None:
                output = getattr(output, name)
                break
        output = nnsight.save(output if isinstance(output, torch.Tensor) else output[0])
        kept = nnsight.save(seen if keep else {})
    return output, kept
