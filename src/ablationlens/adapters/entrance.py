"""Where a batch enters a model as real numbers: the input itself, or the embeddings of its tokens.

Methods that move an input along a line to a baseline need numbers to move. Tokens are integers, so what is moved is
what the model's embedding makes of them: the embedding is run as it is, and a hook hands on other values in its place.
Everything after it is the user's model, position embeddings included, in whatever library holds it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.hooking import find_tensor, with_first
from ablationlens.adapters.state import alone
from ablationlens.adapters.torch_module import TorchAdapter
from ablationlens.data import Batch
from ablationlens.data.inputs import DECODER, main_key, token_key
from ablationlens.errors import AdapterError, InputError


class Entrance:
    """The values with which a batch enters a model, and forward passes from other values.

    Args:
        adapter: the model; it is run by PyTorch alone, whichever library holds it.
        data: the examples, on the model's device.

    Raises:
        AdapterError: if the model runs elsewhere, or changes on its way through nnsight, or its embedding is not found.
        InputError: if the model reads two sequences.
    """

    values: Tensor
    """[example, position, feature] for tokens, otherwise the input as it is."""
    name: str
    """What the values are: the name of an input, or "token embeddings"."""

    def __init__(self, adapter: Adapter, data: Batch) -> None:
        self.adapter = plain(adapter)
        self.data = data
        self.running: Batch | None = None
        """The inputs of the pass that is running; hooks do nothing when there is none."""
        if any(name.startswith(DECODER) for name in data.inputs):
            raise InputError(
                "this model reads two sequences, and it is not said which of them a path is through; use a method "
                "that moves the mask instead, such as al.integrated_gradients"
            )
        self._key = main_key(data.inputs)
        self._embedding: nn.Module | None = None
        if data.inputs[self._key].is_floating_point():
            self.name, self.values = self._key, data.inputs[self._key]
        elif token_key(data.inputs) is None:
            raise InputError(
                f"the input '{self._key}' holds {data.inputs[self._key].dtype}, neither floats nor tokens, and no "
                f"number of it can be moved towards a baseline: give floats, inputs.float()"
            )
        else:
            self.name = "token embeddings"
            self._embedding, self.values = self._embed()

    @contextmanager
    def open(self) -> Generator[None]:
        """While this is open, the embedding hands on what `run` is given. Nothing outlives it."""
        with ExitStack() as stack:
            stack.enter_context(alone(self.adapter.model))
            if self._embedding is not None:
                stack.callback(self._embedding.register_forward_hook(self._hand_on).remove)
            yield

    def run(self, values: Tensor, index: Tensor) -> tuple[Tensor, Batch]:
        """Logits of examples that enter with other values, and the examples.

        Args:
            values: one row for each row of `index`.
            index: which example each row is.
        """
        batch = self.data.take(index)
        if self._embedding is None:
            batch = replace(batch, inputs={**batch.inputs, self._key: values})
        self.running, self._given = batch, values
        try:
            with TorchAdapter.session(self.adapter) as run:
                return run(batch), batch
        finally:
            self.running, self._given = None, None

    _given: Tensor | None = None

    def _hand_on(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if self._given is None:
            return None
        return self._given if isinstance(output, Tensor) else with_first(output, self._given)

    def _embed(self) -> tuple[nn.Module, Tensor]:
        """The module that embeds the tokens, and what it gives: the first to finish that makes floats of them."""
        key = token_key(self.data.inputs)
        assert key is not None
        tokens = self.data.inputs[key]
        found: list[tuple[nn.Module, Tensor]] = []

        def look(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            value = find_tensor(output)
            if found or value is None or not value.is_floating_point() or value.shape[:-1] != tokens.shape:
                return
            read = [tensor for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)]
            if any(tensor.shape == tokens.shape and torch.equal(tensor, tokens) for tensor in read):
                found.append((module, value.detach().clone()))

        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(alone(self.adapter.model))
            for module in self.adapter.model.modules():
                stack.callback(module.register_forward_hook(look, with_kwargs=True).remove)
            with TorchAdapter.session(self.adapter) as run:
                run(self.data)
        if not found or found[0][0] is self.adapter.model:
            raise AdapterError(
                f"no module of {type(self.adapter.model).__name__} turns the tokens into embeddings, so there is "
                "nothing to move towards a baseline; use a method that moves the mask instead, such as "
                "al.integrated_gradients"
            )
        return found[0]


def plain(adapter: Adapter) -> TorchAdapter:
    """The adapter, if its model can be run by PyTorch alone.

    Raises:
        AdapterError: if the model is elsewhere, or is changed by what its library adds to it.
    """
    from ablationlens.adapters.nnsight import NNsightAdapter

    if not isinstance(adapter, TorchAdapter):
        raise AdapterError(f"{type(adapter).__name__} holds no PyTorch module that could be hooked")
    if isinstance(adapter, NNsightAdapter):
        if adapter.remote:
            raise AdapterError(
                "captum hooks a module on this machine, and this model runs elsewhere: adapt it without remote="
            )
        if adapter.envoy._edits:
            raise AdapterError(
                "captum runs the module itself, past the edits of model.edit(): adapt the model without them"
            )
    return adapter
