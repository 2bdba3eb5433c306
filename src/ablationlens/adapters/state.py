"""The state of the user's model: what is checked before a run, and what comes back as it was after one."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import count
from threading import Lock, RLock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ablationlens.errors import AdapterError

FINGERPRINT_SAMPLES = 4096
"""Numbers of each parameter that the fingerprint reads: enough to tell models apart, cheap for large ones."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes."""


def refuse_compiled(model: nn.Module) -> None:
    """Hooks added to a compiled model after its first call do nothing, silently.

    Raises:
        AdapterError: if the model, or a module in it, is compiled.
    """
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module):
        raise AdapterError("the model is compiled, and hooks on it would be ignored: al.adapt(model._orig_mod)")
    for name, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(getattr(module, "_orig_mod", None), nn.Module):
            raise AdapterError(
                f"module '{name or 'model'}' is compiled, and hooks on it would be ignored; "
                "adapt the model before it is compiled, for example copy.deepcopy(model) taken before .compile()"
            )


def accepted_arguments(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that the model's forward takes."""
    return frozenset(inspect.signature(model.forward).parameters)


def fingerprint(model: nn.Module) -> str:
    """sha256 over all parameters and buffers: names, shapes, dtypes, evenly spaced values, and a checksum of every bit.

    The checksum is a sum of integers, which is the same in any order: a sum of floats depends on the number of threads.
    """
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.is_meta:  # a model of shapes alone, whose values are elsewhere
            continue
        flat = tensor.detach().flatten()
        step = max(1, flat.numel() // FINGERPRINT_SAMPLES)
        digest.update(flat[::step].cpu().contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(str(int(_bits(flat).sum(dtype=torch.int64))).encode())
    return digest.hexdigest()


def _bits(flat: Tensor) -> Tensor:
    """The numbers of a flat tensor as integers of the same size."""
    if flat.is_complex():
        flat = torch.view_as_real(flat.resolve_conj()).flatten()
    return flat.contiguous().view(INTEGERS[flat.element_size()])


_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_NEW_LOCK = Lock()


@contextmanager
def alone(model: nn.Module) -> Generator[None]:
    """One thread at a time: hooks and flags are the model's, so a second thread would run under the first one's."""
    with _NEW_LOCK:
        lock = _LOCKS.setdefault(model, RLock())
    with lock:
        yield


_NUMBERS = WeakIdKeyDictionary()
"""A number for every tensor that `version` has seen: an id may be another tensor's once the first one is gone."""
_COUNTER = count()


def version(tensors: Iterable[Tensor | None]) -> int:
    """A number that changes when one of the tensors is changed in place, or is another one.

    Of changes in place it sees those that PyTorch counts; those through `.data` it does not.
    """
    return hash(tuple(_seen(tensor) for tensor in tensors if tensor is not None))


def _seen(tensor: Tensor) -> tuple[int, int]:
    number = _NUMBERS.get(tensor)
    if number is None:
        number = _NUMBERS[tensor] = next(_COUNTER)
    return number, 0 if tensor.is_inference() else tensor._version


def autocast(device: torch.device) -> str | None:
    """The dtype that operations on a device are cast to just now, or None."""
    if not torch.is_autocast_enabled(device.type):
        return None
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Generator[None]:
    """Eval mode for the duration: every module's own flag comes back."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """No gradients for parameters for the duration: the graph is that of masks and replacements alone."""
    thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)
