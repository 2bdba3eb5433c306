"""Outputs: what a model returns, made into one number for each example.

An Output averages over the scored positions of a `Batch`; logits ``[batch, class]`` have no positions and are taken as
they are. Padding on either side, unscored positions (even NaN ones, also in the gradient) and the other rows of the
batch change nothing. Results are float32, or float64 where the logits are, and differentiable in the logits.

What it costs, for [64, 16, 2048] float32 logits on one CPU thread, where a 4-layer forward takes about 28 ms: a logit
0.05 ms, a margin 0.2 ms, a cross-entropy 1.5 ms, a KL 5 ms; less in proportion where few positions are scored.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ablationlens.data import NO_LABEL, Batch
from ablationlens.errors import InputError
from ablationlens.types import Scores

Token: TypeAlias = int | str
"""An entry of the logits: its index, a text that the batch's tokenizer maps to exactly one token, or "label"."""


PIECE = 2**16
"""How many logits a log-softmax takes at a time on a CPU: a quarter of a megabyte of float32."""


class Output(ABC):
    """One number for each example, from the logits. Calling it leaves the logits as they were."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the unmodified model's logits on the same rows."""

    @abstractmethod
    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """Score each row.

        Args:
            logits: ``[batch, position, class]`` or ``[batch, class]``.
            batch: The rows' inputs, labels and scored positions.
            reference: The unmodified model's logits on the same rows, for outputs that need them.

        Returns:
            [batch], float32 or better.

        Raises:
            InputError: if logits, labels and scored positions do not fit together.
        """

    def describe(self) -> dict[str, Any]:
        """What this output is, JSON-able: kept with a run's provenance and compared when it is resumed."""
        own = type(self).__module__ == __name__
        description: dict[str, Any] = {"output": type(self).__qualname__}
        if not own:
            description["code"] = _identity(type(self).__call__)
        fields = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return description | {name: _identity(value) for name, value in fields.items()}


@dataclass(frozen=True)
class Margin(Output):
    """The label's logit minus the best *other* logit, averaged over the scored positions.

    Positive where the model is right. Shah, Ilyas and Madry, "Decomposing and Editing Predictions by Modeling Model
    Computation", arXiv 2404.11534, whose code averages over tokens as well.
    """

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        if logits.shape[-1] < 2:
            raise InputError("a margin needs at least two classes; for a single output, give al.Logit(0)")
        rows = _select(self, logits, batch, labelled=True)
        return rows.mean(_margin(rows))


@dataclass(frozen=True)
class Logit(Output):
    """One logit, averaged over the scored positions.

    Attributes:
        token: Index of a token or class; a text that the batch's tokenizer maps to exactly one token; or "label", the
            label of each position (a token that is spelled so is given by its index).
    """

    token: Token

    def __post_init__(self) -> None:
        _check_token(self.token)

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = _select(self, logits, batch, labelled=self.token == "label")
        return rows.mean(_logit(rows, self.token, batch))


@dataclass(frozen=True)
class LogitDifference(Output):
    """Logit of `a` minus logit of `b`, averaged over the scored positions.

    Attributes:
        a: As in `Logit`.
        b: As in `Logit`.
    """

    a: Token
    b: Token

    def __post_init__(self) -> None:
        _check_token(self.a)
        _check_token(self.b)

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = _select(self, logits, batch, labelled="label" in (self.a, self.b))
        return rows.mean(_logit(rows, self.a, batch) - _logit(rows, self.b, batch))


@dataclass(frozen=True)
class CrossEntropy(Output):
    """The loss: minus the label's log-probability in nats, averaged over the scored positions."""

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = _select(self, logits, batch, labelled=True)
        return rows.mean(_in_pieces(_loss, rows.logits, cast("Tensor", rows.labels)))


@dataclass(frozen=True)
class KL(Output):
    """Kullback-Leibler divergence from the unmodified model, in nats, averaged over the scored positions.

    Attributes:
        direction: "clean||ablated" is sum of p_clean (log p_clean - log p_ablated): what the ablated model loses on
            the clean one's predictions. "ablated||clean" is the other way round.
    """

    needs_reference: ClassVar[bool] = True
    direction: str = "clean||ablated"

    def __post_init__(self) -> None:
        if self.direction not in ("clean||ablated", "ablated||clean"):
            raise InputError(f"the direction of a KL is 'clean||ablated' or 'ablated||clean', not {self.direction!r}")

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        if reference is None:
            raise InputError("KL compares with the unmodified model: give its logits, output(logits, batch, reference)")
        rows = _select(self, logits, batch, reference=reference)
        ablated, clean = rows.logits, cast("Tensor", rows.reference)
        p, q = (clean, ablated) if self.direction == "clean||ablated" else (ablated, clean)
        return rows.mean(_in_pieces(_kl, p, q))


@dataclass(frozen=True)
class SquaredError(Output):
    """The mean squared difference from float labels, over the features of the output and the scored positions.

    The labels have the shape of the model's output, or that shape without a last axis of one.
    """

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        target = batch.labels
        if target is None or not target.is_floating_point():
            raise InputError("SquaredError needs float targets: al.batch(inputs, labels=targets)")
        target = target.to(logits.device)
        if tuple(logits.shape) == (*target.shape, 1):
            target = target.unsqueeze(-1)
        if target.shape != logits.shape:
            raise InputError(f"the targets have shape {list(target.shape)}, the model's output {list(logits.shape)}")
        if batch.scored is None or logits.shape[:2] != batch.scored.shape:
            return (_wide(logits) - _wide(target)).square().reshape(len(batch), -1).mean(1)
        shape = (*logits.shape[:2], -1)
        rows = _select(self, logits.reshape(shape), batch, reference=target.reshape(shape))
        return rows.mean((_wide(rows.logits) - _wide(cast("Tensor", rows.reference))).square().mean(-1))


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
        return _wide(scores)


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


# --- which rows are scored --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """The logits that an output reads, and how its values at them become one number for each example.

    Attributes:
        logits: [*row, class], where *row is [batch], [batch, position] or, packed, only the scored positions [row].
        labels: [*row]; 0 at rows that are not scored.
        reference: [*row, class].
        scored: [batch, position]; None where each example is one row.
        writable: Whether the logits may be written to for a moment.
    """

    logits: Float[Tensor, "*row class"]
    labels: Int[Tensor, "*row"] | None
    reference: Float[Tensor, "*row class"] | None
    scored: Bool[Tensor, "batch position"] | None
    writable: bool

    def mean(self, values: Float[Tensor, "*row"]) -> Scores:
        if self.scored is None:
            return values
        if values.ndim == 1:  # packed: each value goes back to its place, in the same order, which is deterministic
            grid = values.new_zeros(self.scored.shape).masked_scatter(self.scored, values)
        else:
            grid = torch.where(self.scored, values, 0)
        return grid.sum(1) / self.scored.sum(1)


def _select(
    output: Output, logits: Tensor, batch: Batch, *, labelled: bool = False, reference: Tensor | None = None
) -> _Rows:
    """The rows that `output` scores: without a copy where nearly all are, packed where few are or a graph is built."""
    if logits.shape[0] != len(batch):
        raise InputError(f"there are {logits.shape[0]} rows of logits for {len(batch)} examples")
    if reference is not None and reference.shape != logits.shape:
        raise InputError(f"the reference has shape {list(reference.shape)}, the logits {list(logits.shape)}")
    if logits.ndim == 2:
        labels = _labels(output, batch, logits, None) if labelled else None
        return _Rows(logits, labels, reference, None, _may_write(logits))
    if logits.ndim != 3:
        raise InputError(f"logits are [batch, position, class] or [batch, class], not {list(logits.shape)}")
    scored = _scored(batch, logits)
    labels = _labels(output, batch, logits, scored) if labelled else None

    # Nothing outside the positions that some row scores is looked at: often one column, or all but the last.
    columns = scored.any(0).nonzero()
    block = slice(int(columns[0]), int(columns[-1]) + 1)
    narrow = scored[:, block]
    graph = torch.is_grad_enabled() and (logits.requires_grad or (reference is not None and reference.requires_grad))
    # Inside a graph an unscored NaN would leak through the gradient (0 * NaN), so only scored rows may enter it.
    if bool(narrow.all()) or (not graph and 2 * int(narrow.sum()) >= narrow.numel()):
        return _Rows(
            logits[:, block],
            None if labels is None else labels[:, block],
            None if reference is None else reference[:, block],
            narrow,
            _may_write(logits),
        )
    return _Rows(
        _packed(logits, scored),
        None if labels is None else labels[scored],
        None if reference is None else _packed(reference, scored),
        scored,
        writable=not torch.is_grad_enabled(),
    )


def _packed(logits: Float[Tensor, "batch position class"], scored: Bool[Tensor, "batch position"]) -> Tensor:
    # 2.5 times faster than logits[scored], forward and backward.
    return logits.reshape(-1, logits.shape[-1]).index_select(0, scored.flatten().nonzero()[:, 0])


def _may_write(logits: Tensor) -> bool:
    """No graph that could need them, no two elements in one place."""
    return not torch.is_grad_enabled() and logits.is_contiguous()


def _scored(batch: Batch, logits: Float[Tensor, "batch position class"]) -> Bool[Tensor, "batch position"]:
    scored, labels = batch.scored, batch.labels
    if scored is None:
        by_position = labels is not None and labels.shape == logits.shape[:2] and not labels.is_floating_point()
        scored = labels != NO_LABEL if by_position else torch.ones(logits.shape[:2], dtype=torch.bool)
    if scored.shape != logits.shape[:2]:
        raise InputError(
            f"the logits have {logits.shape[1]} positions, the inputs {scored.shape[1]}: a model that adds or drops "
            "tokens needs an output of your own, f(logits, batch)"
        )
    scored = scored.to(logits.device)
    if not bool(scored.any(1).all()):
        example = int((~scored.any(1)).nonzero()[0])
        raise InputError(f"example {example} has no scored position: give it a label, or al.batch(..., positions=...)")
    return scored


def _labels(output: Output, batch: Batch, logits: Tensor, scored: Tensor | None) -> Int[Tensor, "*row"]:
    """A label for each row of the logits, 0 where it is not scored."""
    name, labels = type(output).__name__, batch.labels
    if labels is None or labels.is_floating_point():
        came = "has none" if labels is None else "has float targets"
        raise InputError(f"{name} needs integer labels and the batch {came}: al.batch(inputs, labels=...)")
    labels = labels.to(logits.device)
    if scored is not None and labels.ndim == 1 and batch.scored is not None:
        labels = labels[:, None].expand(scored.shape)  # one token for each example, at its scored position
    expected = logits.shape[:-1]
    if labels.shape != expected:
        raise InputError(
            f"{name}: the logits are {list(logits.shape)}, so labels are {list(expected)}, not {list(labels.shape)}: "
            "al.batch(inputs, labels=...)"
        )
    classes = logits.shape[-1]
    bad = (labels < 0) | (labels >= classes)
    bad = bad if scored is None else bad & scored
    if bool(bad.any()):
        _refuse_label(name, bad, labels, classes)
    return labels if scored is None else torch.where(scored, labels, 0)


def _refuse_label(name: str, bad: Tensor, labels: Tensor, classes: int) -> None:
    place: list[int] = bad.nonzero()[0].tolist()
    where = f"example {place[0]}" + (f", position {place[1]}" if len(place) > 1 else "")
    label = int(labels[tuple(place)])
    if label == NO_LABEL:
        raise InputError(
            f"{name} needs a label at every scored position, but {where} has none (the last token has no next token "
            "to predict): al.batch(inputs, labels=...), or other positions="
        )
    raise InputError(f"{where} has label {label}, but the logits have {classes} entries: labels are 0 to {classes - 1}")


# --- values at the rows -----------------------------------------------------------------------------------------------


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _at(logits: Float[Tensor, "*row class"], labels: Int[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _in_pieces(function: Callable[..., Float[Tensor, "*row"]], *parts: Tensor) -> Float[Tensor, "*row"]:
    """`function` of a few rows at a time where no graph is built on a CPU.

    Where the allocator returns temporaries of many megabytes to the operating system, which zeroes them anew at every
    call, a KL took 22 ms of CPU time and takes 5 (a cross-entropy 8 and 1.5); where it keeps them, it is all the same.
    """
    logits = parts[0]
    if torch.is_grad_enabled() or logits.device.type != "cpu":
        return function(*parts)
    rows = max(1, PIECE * logits.shape[0] // logits.numel())
    return torch.cat([function(*piece) for piece in zip(*(part.split(rows) for part in parts), strict=True)])


def _loss(logits: Float[Tensor, "*row class"], labels: Int[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    return -_at(_wide(logits).log_softmax(-1), labels)


def _margin(rows: _Rows) -> Float[Tensor, "*row"]:
    logits, index = rows.logits, cast("Tensor", rows.labels).unsqueeze(-1)
    if torch.is_grad_enabled() and logits.requires_grad:
        # Two gathered logits have a gradient that costs a third of that of a maximum over all of them.
        best_index = logits.detach().scatter(-1, index, -torch.inf).argmax(-1, keepdim=True)
        correct, best = _wide(logits.gather(-1, torch.cat([index, best_index], -1))).unbind(-1)
        return correct - best
    correct = logits.gather(-1, index)
    if rows.writable:
        # Hide the label's logit for the length of one reduction, which saves copying them all (half of the time).
        # .data: the values come back bit for bit, so autograd need not hear of it.
        raw = logits.data
        try:
            best = raw.scatter_(-1, index, -torch.inf).amax(-1)
        finally:
            raw.scatter_(-1, index, correct)
    else:
        best = logits.scatter(-1, index, -torch.inf).amax(-1)
    return _wide(correct.squeeze(-1)) - _wide(best)


def _kl(p: Float[Tensor, "*row class"], q: Float[Tensor, "*row class"]) -> Float[Tensor, "*row"]:
    log_p, log_q = _wide(p).log_softmax(-1), _wide(q).log_softmax(-1)
    difference = log_p - log_q
    if not bool(log_p.detach().amin().isfinite()):
        # 0 log 0 = 0: entries of the vocabulary that a model rules out with -inf. Rare, and the pass is not free.
        difference = difference.masked_fill(log_p == -torch.inf, 0)
    return torch.linalg.vecdot(log_p.exp(), difference)


def _logit(rows: _Rows, token: Token, batch: Batch) -> Float[Tensor, "*row"]:
    if token == "label":
        return _wide(_at(rows.logits, cast("Tensor", rows.labels)))
    index = _token_id(token, batch) if isinstance(token, str) else token
    classes = rows.logits.shape[-1]
    if index >= classes:
        raise InputError(f"there is no logit {index}: the logits have {classes} entries, 0 to {classes - 1}")
    return _wide(rows.logits[..., index])


def _check_token(token: Token) -> None:
    if isinstance(token, bool) or not isinstance(token, int | str) or (isinstance(token, int) and token < 0):
        raise InputError(f'a token is an index from 0, a text or "label", not {token!r}')


def _token_id(text: str, batch: Batch) -> int:
    if batch.tokenizer is None:
        raise InputError(f"the token {text!r} needs a tokenizer, al.batch(..., tokenizer=tokenizer), or its index")
    ids: list[int] = batch.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [batch.tokenizer.decode([token]) for token in ids]
        raise InputError(f"{text!r} is {len(ids)} tokens, {pieces}, not one (a leading space often matters)")
    return int(ids[0])


# --- the identity of a function, for provenance -----------------------------------------------------------------------


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


def _identity(value: Any, depth: int = 0) -> Any:
    """A JSON-able value that is equal for equal settings, in any process: a function is its name, code and captures."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        array = torch.as_tensor(value).detach().cpu().contiguous()
        digest = hashlib.sha256(array.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        return {"tensor": [str(array.dtype), *array.shape], "sha256": digest}
    if isinstance(value, list | tuple):
        return [_identity(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {str(key): _identity(item, depth + 1) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, functools.partial):
        whole = cast("functools.partial[Any]", value)
        return {"partial": [_identity(part, depth) for part in (whole.func, whole.args, whole.keywords)]}
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
        described["captured"] = {name: _identity(state[name], depth + 1) for name in sorted(state)}
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
