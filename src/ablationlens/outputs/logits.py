"""Outputs that are read off the logits: one of them, a difference of two, the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.outputs.base import Output, wide
from ablationlens.outputs.scored import Rows, at, select
from ablationlens.outputs.tokens import Token, check_token, token_id
from ablationlens.types import Scores


@dataclass(frozen=True)
class Margin(Output):
    """The label's logit minus the best *other* logit, averaged over the scored positions.

    Positive where the model is right. Shah, Ilyas and Madry, "Decomposing and Editing Predictions by Modeling Model
    Computation", arXiv 2404.11534, whose code averages over tokens as well.

    Attributes:
        classes: The candidates, two or more, where only these compete: ``al.Margin(classes=[" yes", " no"])`` is the
            logit of the right answer minus that of the wrong one. Indices of tokens or classes, or texts that the
            batch's tokenizer maps to exactly one token. A label is an entry of the logits here too (a token, not a
            place among the candidates), and must be a candidate wherever it is scored. None: every entry competes.
    """

    classes: Sequence[Token] | None = None

    def __post_init__(self) -> None:
        if self.classes is None:
            return
        given: Any = self.classes
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) < 2:
            raise InputError(
                f'the classes of a margin are two or more tokens, al.Margin(classes=[" yes", " no"]); got {given!r}'
            )
        for token in self.classes:
            check_token(token)
            if token == "label":
                raise InputError('"label" is no class of its own: a margin compares the label with the other classes')
        object.__setattr__(self, "classes", tuple(self.classes))

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        if logits.shape[-1] < 2:
            raise InputError("a margin needs at least two classes; for a single output, give al.Logit(0)")
        rows = select(self, logits, batch, labelled=True)
        return rows.mean(_margin(rows if self.classes is None else _among(rows, self.classes, batch)))


@dataclass(frozen=True)
class Logit(Output):
    """One logit, averaged over the scored positions.

    Attributes:
        token: Index of a token or class; a text that the batch's tokenizer maps to exactly one token; or "label", the
            label of each position (a token that is spelled so is given by its index).
    """

    token: Token

    def __post_init__(self) -> None:
        check_token(self.token)

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = select(self, logits, batch, labelled=self.token == "label")
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
        check_token(self.a)
        check_token(self.b)

    def __call__(
        self,
        logits: Float[Tensor, "batch ..."],
        batch: Batch,
        reference: Float[Tensor, "batch ..."] | None = None,
    ) -> Scores:
        """See `Output.__call__`."""
        rows = select(self, logits, batch, labelled="label" in (self.a, self.b))
        return rows.mean(_logit(rows, self.a, batch) - _logit(rows, self.b, batch))


def _among(rows: Rows, classes: Sequence[Token], batch: Batch) -> Rows:
    """The candidates' logits alone, with each label as its place among them."""
    indices = [token_id(token, batch, rows.logits.shape[-1]) for token in classes]
    if len(set(indices)) < len(indices):
        raise InputError(f"two of the classes {list(classes)} are the same token: their indices are {indices}")
    labels, candidates = cast("Tensor", rows.labels), torch.tensor(indices, device=rows.logits.device)
    matches = labels.unsqueeze(-1) == candidates
    missing = rows.labels_where(~matches.any(-1))
    if missing:
        example, label = missing[0]
        text = "" if batch.tokenizer is None else f" ({batch.tokenizer.decode([label])!r})"
        raise InputError(
            f"example {example} has the label {label}{text}, which is none of the classes {list(classes)} (indices "
            f"{indices}): give it one of them, or make it a class"
        )
    # index_select copies, so these few may be written to where no graph is built.
    return replace(
        rows,
        logits=rows.logits.index_select(-1, candidates),
        labels=matches.long().argmax(-1),
        reference=None,
        writable=not torch.is_grad_enabled(),
    )


def _margin(rows: Rows) -> Float[Tensor, "*row"]:
    logits, index = rows.logits, cast("Tensor", rows.labels).unsqueeze(-1)
    if torch.is_grad_enabled() and logits.requires_grad:
        # Two gathered logits have a gradient that costs a third of that of a maximum over all of them.
        best_index = logits.detach().scatter(-1, index, -torch.inf).argmax(-1, keepdim=True)
        correct, best = wide(logits.gather(-1, torch.cat([index, best_index], -1))).unbind(-1)
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
    return wide(correct.squeeze(-1)) - wide(best)


def _logit(rows: Rows, token: Token, batch: Batch) -> Float[Tensor, "*row"]:
    if token == "label":
        return wide(at(rows.logits, cast("Tensor", rows.labels)))
    return wide(rows.logits[..., token_id(token, batch, rows.logits.shape[-1])])
