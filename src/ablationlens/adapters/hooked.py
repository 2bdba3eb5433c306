"""HookedAdapter: a `HookedRootModule` of TransformerLens, with hook points of the user's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from ablationlens.adapters.base import View
from ablationlens.adapters.torch_module import TorchAdapter
from ablationlens.errors import AdapterError, UnknownNameError
from ablationlens.types import Side


class HookedAdapter(TorchAdapter):
    """Adapter for modules with TransformerLens' hook points: sites of the user's own go by the names of these.

    Linear, Conv1D and convolution modules are cut by their paths, as in any PyTorch module.

    Args:
        model: a `HookedRootModule` whose `setup()` was called.
        example: an input for the dry forward.
        architecture: where the logical modules are, if it is a transformer.
        allow_repeated: ablate every call of a module that one forward pass calls more than once.

    Raises:
        AdapterError: if the model is compiled or has nothing to cut.
    """

    host = "transformer_lens"
    hosts = ("transformer_lens", "torch", "nnsight")

    def _points(self) -> Mapping[str, nn.Module]:
        points: Mapping[str, nn.Module] | None = getattr(self.model, "hook_dict", None)
        if points is None:
            raise AdapterError(
                f"{type(self.model).__name__} does not know its hook points yet: call self.setup() at the end of its "
                "__init__, as every HookedRootModule has to"
            )
        return points

    def _named(self, name: str) -> tuple[nn.Module, Side]:
        """The hook point of a name, legacy ones included; else, in a module that is no bridge, the module of a path."""
        points = self._points()
        if name in points:
            return points[name], "out"
        path = name.removesuffix(".input").removesuffix(".output")
        if "torch" in self.hosts and path in dict(self.model.named_modules()):
            return super()._named(name)
        near = get_close_matches(name, points, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "model.hook_dict lists them"
        raise UnknownNameError(f"no hook point '{name}' in this {type(self.model).__name__}: {hint}")

    def _view(self, module: nn.Module, shape: tuple[int, ...]) -> View | None:
        """A hook point may show its activation otherwise than the tensor is: heads apart, axes exchanged."""
        conversion: Any = copy.copy(getattr(module, "hook_conversion", None))
        if conversion is None:
            return None
        if hasattr(conversion, "_conversion_state"):
            conversion._conversion_state = {}  # what it notes of our tensors does not belong into the user's model
        index = torch.arange(torch.Size(shape).numel()).reshape(shape)
        shown = conversion.convert(index)
        same = shown.shape == index.shape and torch.equal(shown, index)
        if same or not torch.equal(conversion.revert(shown), index):
            return None
        return View(conversion.convert, conversion.revert)
