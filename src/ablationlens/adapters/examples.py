"""The input of the dry forward: the user's, or the smallest that a model's configuration describes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ablationlens.adapters.configuration import config_of
from ablationlens.data import Batch
from ablationlens.data.checks import is_integral
from ablationlens.errors import InputError

DRY_TOKENS = 4
"""Tokens of the dry forward."""

NO_READY_MASK = ("opt", "falcon", "bloom")
"""Families that work positions out of a mask by token: they take no ready-made one, and look into none of their own."""

OTHER_KEY = {"input": "input_ids", "input_ids": "input"}
"""What a batch calls a tensor without a name: numbers the one, integers the other."""


def given_example(example: Any) -> Batch:
    """What the user gave as ``example=``, as a batch.

    Raises:
        InputError: if it is nothing that a model could take.
    """
    if isinstance(example, Batch):
        return example
    if isinstance(example, Mapping):
        return Batch(inputs=dict(example), labels=None, scored=None)
    if isinstance(example, Tensor):
        key = "input" if example.is_floating_point() else "input_ids"
        return Batch(inputs={key: example}, labels=None, scored=None)
    raise InputError(f"example= is a tensor, a mapping of tensors or a Batch; got {type(example).__name__}")


def check_kind(batch: Batch, example: Batch, name: str) -> None:
    """Refuse integers where the model read numbers in its dry forward, and numbers where it read integers.

    Args:
        batch: what it is to read.
        example: what it read then.
        name: of the model's class.

    Raises:
        InputError: with the line to type instead.
    """
    for key, value in batch.inputs.items():
        other = example.inputs.get(key, example.inputs.get(OTHER_KEY.get(key, "")))
        if other is None or "mask" in key or value.is_floating_point() == other.is_floating_point():
            continue
        types = [str(one.dtype).removeprefix("torch.") for one in (other, value)]
        line = "inputs.float()" if other.is_floating_point() else "inputs.long()"
        raise InputError(
            f"{name} read {types[0]} when it was adapted, and these inputs are {types[1]}: give what it reads, "
            f"al.batch({line}), or adapt it with such inputs, al.adapt(model, example=inputs)"
        )


def refuse_integers(example: Batch, error: RuntimeError, name: str) -> None:
    """Say what may be wrong where a model failed on integers, and it is none that reads tokens.

    Raises:
        InputError: with the line to type instead, from what the model raised.
    """
    integers = {key: one for key, one in example.inputs.items() if "mask" not in key and is_integral(one)}
    if not integers or isinstance(error, torch.OutOfMemoryError):
        return
    came = ", ".join(f"{key} {list(one.shape)}" for key, one in integers.items())
    raise InputError(
        f"{name} did not run on the integers of the example, {came} ({type(error).__name__}: {error}); if it reads "
        "numbers and not tokens: al.adapt(model, example=inputs.float())"
    ) from error


def takes_tokens(model: nn.Module) -> bool:
    """Whether a model reads tokens: its configuration speaks of them, and its first argument are no sounds."""
    main = getattr(model, "main_input_name", "input_ids")
    return main == "input_ids" and getattr(config_of(model), "vocab_size", None) is not None


def token_example(model: nn.Module, accepted: Collection[str], device: torch.device) -> Batch:
    """A few tokens; the same again for a decoder that has an encoder.

    Args:
        model: a model that takes tokens.
        accepted: names of the arguments of its forward pass.
        device: where the weights are. On the meta device, which holds no values, the attention mask comes ready-made,
            because transformers would look into one that it makes itself.
    """
    # any token but padding, which makes some models warn of a missing attention mask
    plain = int(getattr(config_of(model), "pad_token_id", None) == 0)
    ready = device.type == "meta" and getattr(config_of(model), "model_type", None) not in NO_READY_MASK
    stacks = [name for name in ("", "decoder_") if not name or f"{name}input_ids" in accepted]
    inputs: dict[str, Tensor] = {}
    for stack in stacks:
        inputs[f"{stack}input_ids"] = torch.full((1, DRY_TOKENS), plain, dtype=torch.long, device=device)
        if ready and f"{stack}attention_mask" in accepted:
            inputs[f"{stack}attention_mask"] = torch.zeros(1, 1, DRY_TOKENS, DRY_TOKENS, device=device)
    return Batch(inputs=inputs, labels=None, scored=None)


def likely_example(model: nn.Module) -> str:
    """What to type as an example for a model that says nothing of its inputs, by the first layer that reads them."""
    for module in model.modules():
        match module:
            case nn.Embedding():
                return "torch.zeros(1, 4, dtype=torch.long)"
            case nn.Linear():
                return f"torch.zeros(1, {module.in_features})"
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                sizes = ", ".join(["32"] * len(module.kernel_size))
                return f"torch.zeros(1, {module.in_channels}, {sizes})"
            case _:
                continue
    return "torch.zeros(1, 3, 32, 32)"


def image_example(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Batch | None:
    """One black image of the size that the configuration of a Hugging Face vision model names; None for others."""
    config: Any = getattr(model, "config", None)
    size = getattr(config, "image_size", None)
    if getattr(model, "main_input_name", None) != "pixel_values" or size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    image = torch.zeros(1, getattr(config, "num_channels", 3), height, width, device=device, dtype=dtype)
    return Batch(inputs={"pixel_values": image}, labels=None, scored=None)
