"""An output made from any callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs.base import Output, wide
from ablationlens.types import Scores


class Custom(Output):
    """A function of the logits, or of the logits and the batch, that returns one number for each row."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        """Wrap `function`.

        Raises:
            InputError: if it cannot be called with one or two arguments.
        """
        self.function = function
        self._takes_batch = _takes_batch(function)

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`.

        Raises:
            InputError: if the function returns anything but [batch] floats.
        """
        scores: Any = self.function(logits, batch) if self._takes_batch else self.function(logits)
        if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1] or not scores.is_floating_point():
            came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(
                f"the output function must return one float for each row, [{logits.shape[0]}], but returned {came}. "
                "Average over positions and classes, not over rows"
            )
        return wide(scores)


def as_output(output: object) -> Output:
    """An Output as it is; a callable ``f(logits)`` or ``f(logits, batch)`` as a `Custom`.

    Raises:
        InputError: if it is neither.
    """
    if isinstance(output, Output):
        return output
    if isinstance(output, type):
        raise InputError(f"{output.__name__} is a class: give an instance, {output.__name__}()")
    if not callable(output):
        raise InputError(f"an output is an Output or a callable f(logits, batch), not a {type(output).__name__}")
    return Custom(cast("Callable[..., Tensor]", output))


def _takes_batch(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built into PyTorch: torch.sum and the like
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = [parameter for parameter in parameters if parameter.kind in kinds]
    needs = [parameter for parameter in takes if parameter.default is inspect.Parameter.empty]
    if len(needs) > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise InputError(
            f"the output function {function!r} is called as f(logits) or f(logits, batch), but needs more; one that "
            "compares with the unmodified model is a subclass of al.Output with needs_reference = True"
        )
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    if not takes:
        raise InputError(f"the output function {function!r} takes no argument: it is called as f(logits, batch)")
    return len(needs) == 2 or (len(takes) > 1 and takes[1].name == "batch")
