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
        model: a TransformerBridge, an nnsight model, a Hugging Face model, or any other `nn.Module`.
        example: an input for the dry forward (tensor, mapping or Batch); token models need none.
        architecture: where the logical modules of a model outside the table of families are.
        allow_folded: permit a bridge with processed weights (see DESIGN: rows and heads mean something else there).
        allow_repeated: permit modules that one forward pass calls more than once; all their calls are ablated.
        remote: run the passes of an nnsight model on its server (True, or the server's address), or serialise,
            deserialise and run them here ("local").

    Raises:
        AdapterError: if the model is compiled, or nothing in it can be cut.
        InputError: if the model is not a module, or needs an example.
    """
    if isinstance(model, Adapter):
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
        raise InputError(
            f"expected a TransformerBridge, a Hugging Face model or an nn.Module; got {type(model).__name__}. "
            "Load a model first, for example al.adapt(al.zoo.load('domains').model)"
        )
    refuse_compiled(model)
    if _is_bridge(model):
        from ablationlens.adapters.transformer_lens import TransformerLensAdapter

        return TransformerLensAdapter(model, example, allow_folded=allow_folded, allow_repeated=allow_repeated)
    return TorchAdapter(model, example, architecture=architecture, allow_repeated=allow_repeated)


def _is_nnsight(model: Any) -> bool:
    host = sys.modules.get("nnsight.intervention.envoy")
    return host is not None and isinstance(model, host.Envoy)


def _is_bridge(model: nn.Module) -> bool:
    host = sys.modules.get("transformer_lens.model_bridge")
    return host is not None and isinstance(model, host.TransformerBridge)
