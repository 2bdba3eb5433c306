"""The one equation, as plain data and pure tensor functions.

Every ablation of every kind is

    write += decode((1 - mask) * (replacement - encode(read)))

For coordinates (rows, columns, heads, neurons, filters) that is one fused, differentiable call, a `Lerp`. For parts
that are read in one place and written in another (rank-one parts, columns of a projection of a fused matrix) it is a
`LowRank`. Both hold ``off = 1 - mask``, are exact at both ends for finite values in every dtype, and hold nothing but
tensors and slices, so that a body which runs elsewhere can carry them. For a basis of the user's own it is a `Coded`,
the equation as it stands, which also holds the two functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ablationlens.types import Features


class Lerp(NamedTuple):
    """Replace features of one activation: ``out + off * (stand_in - out)``.

    Attributes:
        off: 1 - gate of each feature, broadcastable to the activation.
        stand_in: what an ablated feature holds instead, broadcastable to the activation.
    """

    off: Tensor
    stand_in: Tensor


class LowRank(NamedTuple):
    """Take parts ``((x - x') @ V_c) U_c`` out of what a module writes, and what the parts leave over.

    With out' the output that x' would give, this is

        lerp(out, out', off_remainder) + ((off_remainder - off) * ((x - x') @ V)) @ U

    which never forms the remainder ``W - (V @ U).T`` and is bit-equal to ``out`` where everything is kept.

    An embedding reads tokens, integers that stand for one-hot rows x: x @ V is a row of V, which is looked up.

    Attributes:
        V: [in, C], or None for the identity (columns of a projection).
        U: [C, out].
        off: 1 - gate of each part, broadcastable to [batch, position, C].
        off_remainder: 1 - gate of the remainder, broadcastable to [batch, position, 1]; None if it is always kept.
        read_stand_in: x', broadcastable to x; for tokens x' @ V, broadcastable to [batch, position, C]. None for 0.
        write_stand_in: out', broadcastable to out; None where the remainder is always kept.
        features: which features of the written activation the module owns, in its own order.
    """

    V: Tensor | None
    U: Tensor
    off: Tensor
    off_remainder: Tensor | None
    read_stand_in: Tensor | None
    write_stand_in: Tensor | None
    features: Features


class Coded(NamedTuple):
    """Replace codes of one activation, and write the difference: ``out + decode(off * (stand_in - encode(read)))``.

    Attributes:
        encode: from the activation as the host holds it to codes, in the last axis.
        decode: from codes to what they contribute to the written activation, as the host holds it; linear.
        off: 1 - gate of each code, broadcastable to the codes.
        stand_in: code of an ablated component, broadcastable to the codes.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    off: Tensor
    stand_in: Tensor


Edit: TypeAlias = Lerp | LowRank | Coded


def lerp(out: Tensor, edit: Lerp, *, in_place: bool = False) -> Tensor:
    """Apply a `Lerp`.

    Args:
        out: the activation.
        edit: what to replace in it.
        in_place: whether `out` is fresh, so that it may be overwritten where no graph is built.
    """
    off, stand_in = _like(edit.off, out), _like(edit.stand_in, out)
    if in_place and not (out.requires_grad or off.requires_grad or stand_in.requires_grad):
        return out.lerp_(stand_in, off)
    return torch.lerp(out, stand_in, off)


def low_rank(out: Tensor, read: Tensor, edit: LowRank, *, in_place: bool = False) -> Tensor:
    """Apply a `LowRank`.

    Args:
        out: the activation, some of whose features the module owns.
        read: the activation that the module reads.
        edit: what to take out.
        in_place: whether `out` is fresh, so that it may be overwritten where no graph is built.
    """
    own, fresh = out[..., edit.features], in_place or isinstance(edit.features, Tensor)
    codes = _codes(read, own, edit)
    kept = -edit.off if edit.off_remainder is None else edit.off_remainder - edit.off
    codes = _gated(codes, kept.to(codes), fresh=codes is not read)
    if edit.off_remainder is not None:
        assert edit.write_stand_in is not None
        own, fresh = lerp(own, Lerp(edit.off_remainder, edit.write_stand_in), in_place=fresh), True
    own = _added(own, codes, edit.U.to(codes), fresh=fresh)
    if isinstance(edit.features, Tensor):
        return out.index_copy(-1, edit.features.to(out.device), own)
    if edit.features == slice(0, out.shape[-1]):
        return own
    return torch.cat([out[..., : edit.features.start], own, out[..., edit.features.stop :]], dim=-1)


def _codes(read: Tensor, own: Tensor, edit: LowRank) -> Tensor:
    """``(x - x') @ V``, which is `read` itself where there is neither."""
    if not read.is_floating_point():
        assert edit.V is not None
        codes = functional.embedding(read, edit.V.to(own))
        return codes if edit.read_stand_in is None else codes - edit.read_stand_in.to(codes)
    codes = read if edit.read_stand_in is None else read - edit.read_stand_in.to(read)
    return codes if edit.V is None else codes @ edit.V.to(codes)


def _gated(codes: Tensor, kept: Tensor, *, fresh: bool) -> Tensor:
    """Codes times gates; in place where they are new, no graph is built, and the shape stays."""
    in_place = fresh and kept.ndim <= codes.ndim and not (codes.requires_grad or kept.requires_grad)
    if in_place and all(own in (1, size) for own, size in zip(kept.shape[::-1], codes.shape[::-1], strict=False)):
        return codes.mul_(kept)
    return kept * codes


def _added(out: Tensor, codes: Tensor, decode: Tensor, *, fresh: bool) -> Tensor:
    """``out + codes @ decode`` in one product, which saves a walk over the activation."""
    lead = codes.shape[:-1]
    if out.shape[:-1] != lead or out.dtype != codes.dtype or _is_cast(out):
        return out + codes @ decode
    flat = out.reshape(-1, out.shape[-1])
    if fresh and not (out.requires_grad or codes.requires_grad or decode.requires_grad):
        return flat.addmm_(codes.reshape(-1, codes.shape[-1]), decode).view(*lead, -1)
    return torch.addmm(flat, codes.reshape(-1, codes.shape[-1]), decode).view(*lead, -1)


def _is_cast(out: Tensor) -> bool:
    """Whether autocast would round `out` too, if it were the summand of a product."""
    kind = out.device.type
    return torch.is_autocast_enabled(kind) and out.dtype != torch.get_autocast_dtype(kind)


def coded(out: Tensor, read: Tensor, edit: Coded) -> Tensor:
    """Apply a `Coded` to `out`, given the activation `read` that is encoded."""
    codes = edit.encode(read)
    return out + edit.decode(_like(edit.off, codes) * (_like(edit.stand_in, codes) - codes)).to(out)


def _like(tensor: Tensor, out: Tensor) -> Tensor:
    """`tensor` in the dtype and on the device of `out`; comparing is cheaper than asking `to` to do nothing."""
    return tensor if tensor.dtype == out.dtype and tensor.device == out.device else tensor.to(out)
