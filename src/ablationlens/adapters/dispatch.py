"""`adapt`: choose the adapter by the type of the model, without importing a host library to find out."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from ablationlens.adapters.architectures import Architecture
from ablationlens.adapters.base import Adapter
from ablationlens.adapters.state import refuse_compiled
from ablationlens.adapters.torch_module import TorchAdapter
from ablationlens.errors import InputError


def adapt(
    model: Any,
    example: Any = None,
    *,
    architecture: Architecture | None = None,
    allow_folded: bool = False,
    allow_repeated: bool = False,
    remote: bool | str = False,
) -> Adapter:
    """Adapt a model: one dry forward finds what can be cut, and leaves nothing behind.

    Args:
        model: a TransformerBridge or `HookedRootModule`, an nnsight model, a Hugging Face model, or any other
            `nn.Module`.
        example: an input for the dry forward (tensor, mapping or Batch); token models need none.
        architecture: where the logical modules of a model outside the table of families are.
        allow_folded: permit a bridge with processed weights (its heads and rows are not those that were trained).
        allow_repeated: permit modules that one forward pass calls more than once; all their calls are ablated.
        remote: run the passes of an nnsight model on its server (True, or the server's address), or serialise,
            deserialise and run them here ("local").

    Raises:
        AdapterError: if the model is compiled, or nothing in it can be cut.
        InputError: if the model is not a module, or needs an example.
    """
    if architecture is not None and not isinstance(architecture, Architecture):
        raise InputError(
            f"architecture= is an al.Architecture(layers=..., modules={{...}}); got {type(architecture).__name__}"
        )
    if isinstance(model, Adapter):
        given = {"example": example, "architecture": architecture, "allow_folded": allow_folded}
        given |= {"allow_repeated": allow_repeated, "remote": remote}
        _refuse_options("an adapter already, which was made with options of its own", **given)
        return model
    if _is_nnsight(model):
        from ablationlens.adapters.nnsight import NNsightAdapter

        return NNsightAdapter(model, example, architecture=architecture, allow_repeated=allow_repeated, remote=remote)
    if remote:
        raise InputError(
            f"remote={remote!r} is for models of nnsight, nnsight.TransformersModel('owner/name'); "
            f"got {type(model).__name__}"
        )
    if not isinstance(model, nn.Module):
        if isinstance(model, tuple):
            raise InputError(
                "expected a model; got a tuple: what nnsight's edit() gives is taken apart, "
                "with net.edit() as (tracer, edited): ... and then al.adapt(edited)"
            )
        raise InputError(
            f"expected a TransformerBridge, an nnsight model, a Hugging Face model or an nn.Module; got "
            f"{type(model).__name__}. Load a model first, for example al.adapt(al.zoo.load('domains').model)"
        )
    refuse_compiled(model)
    if _is_bridge(model):
        from ablationlens.adapters.transformer_lens import TransformerLensAdapter

        _refuse_options("a bridge, which says itself where its modules are", architecture=architecture)
        return TransformerLensAdapter(model, example, allow_folded=allow_folded, allow_repeated=allow_repeated)
    _refuse_options("no bridge, so its weights are as they are", allow_folded=allow_folded)
    if _is_hooked(model):
        from ablationlens.adapters.hooked import HookedAdapter

        return HookedAdapter(model, example, architecture=architecture, allow_repeated=allow_repeated)
    return TorchAdapter(model, example, architecture=architecture, allow_repeated=allow_repeated)


def _refuse_options(what: str, **options: Any) -> None:
    """Refuse options that the model has no use for.

    Raises:
        InputError: if one is given.
    """
    given = next((name for name, value in options.items() if value is not None and value is not False), None)
    if given is not None:
        raise InputError(f"{given}= does not go with this model: it is {what}; leave {given}= out")


def _is_nnsight(model: Any) -> bool:
    host = sys.modules.get("nnsight.intervention.envoy")
    return host is not None and isinstance(model, host.Envoy)


def _is_bridge(model: nn.Module) -> bool:
    host = sys.modules.get("transformer_lens.model_bridge")
    return host is not None and isinstance(model, host.TransformerBridge)


def _is_hooked(model: nn.Module) -> bool:
    host = sys.modules.get("transformer_lens.HookedRootModule")
    return host is not None and isinstance(model, host.HookedRootModule)
