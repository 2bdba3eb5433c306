"""The identity of a setting or a function, for provenance: equal in any process, whatever holds it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def identity(value: Any, depth: int = 0) -> Any:
    """A JSON-able value that is equal for equal settings, in any process: a function is its name, code and captures."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        array = torch.as_tensor(value).detach().cpu().contiguous()
        digest = hashlib.sha256(array.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"tensor": [str(array.dtype), *array.shape], "sha256": digest}
    if isinstance(value, list | tuple):
        return [identity(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {str(key): identity(item, depth + 1) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, functools.partial):
        whole = cast("functools.partial[Any]", value)
        return {"partial": [identity(part, depth) for part in (whole.func, whole.args, whole.keywords)]}
    if isinstance(value, types.ModuleType):
        return {"module": value.__name__}
    if not callable(value):
        shown = repr(value)  # an address would differ in the next process
        return {"value": type(value).__qualname__ if " at 0x" in shown else shown}
    return _callable_identity(value, depth)


def _callable_identity(value: Callable[..., Any], depth: int) -> dict[str, Any]:
    named = value if hasattr(value, "__qualname__") else type(value)
    described: dict[str, Any] = {"name": f"{getattr(named, '__module__', None)}.{named.__qualname__}"}
    own = isinstance(value, types.FunctionType | types.MethodType)
    function: Any = value if own else getattr(type(value), "__call__")  # noqa: B004, B009 (the class's, not the value's)
    function = getattr(function, "__func__", function)
    if not isinstance(function, types.FunctionType):  # built into Python or PyTorch: the name says it all
        return described
    described["code"] = hashlib.sha256(_code(function.__code__).encode()).hexdigest()
    if depth < 2:  # deep enough for a token or a tensor that a notebook's lambda captures; ends for recursive functions
        captured = inspect.getclosurevars(function)
        state: dict[str, Any] = {**captured.globals, **captured.nonlocals}
        state["default"] = [function.__defaults__, function.__kwdefaults__]
        state |= getattr(value if not own else getattr(value, "__self__", None), "__dict__", {})
        described["captured"] = {name: identity(state[name], depth + 1) for name in sorted(state)}
    return described


def _code(code: types.CodeType) -> str:
    """Byte code, which is what runs (source may have changed since), without addresses, paths and line numbers."""
    constants: list[str] = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(_code(constant))
        elif isinstance(constant, frozenset):  # its order is another in each process
            constants.append(repr(sorted(map(repr, cast("frozenset[Any]", constant)))))
        else:
            constants.append(repr(constant))
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))
