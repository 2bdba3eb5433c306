"""How much a head attends to something, as an output: what makes a head attend as it does?"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ablationlens.data import Batch
from ablationlens.errors import InputError
from ablationlens.layout import reads_encoder
from ablationlens.outputs.base import TapOutput
from ablationlens.outputs.targets import Target, check_target, mass, targets
from ablationlens.sites import Pattern, Tap
from ablationlens.types import Scores


@dataclass(frozen=True)
class PatternMass(TapOutput):
    """Mean attention of one head on a target, from 0 to 1, over the scored positions that have one.

    Attention that runs as "sdpa" is switched to "eager" for the duration.

    Attributes:
        layer: of the head.
        head: index of the query head in its layer.
        target: "previous", "first", "current", "induction" (the tokens after earlier occurrences of the query's token),
            or a position of each example, negative from its end, for the queries from there on.
        attention: which attention of the layer, in a model that has several.
    """

    layer: int
    head: int
    target: Target = "induction"
    attention: str | None = None

    def __post_init__(self) -> None:
        for name in ("layer", "head"):
            try:
                value = operator.index(getattr(self, name))
            except TypeError as error:
                raise InputError(f"{name} is an index, from 0; got {getattr(self, name)!r}") from error
            if value < 0:
                raise InputError(f"{name} is an index, from 0; got {value}")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "target", check_target(self.target))
        if self.attention is not None and reads_encoder(f"{self.attention}.k"):
            raise InputError(
                f"targets are positions of the logits, which are those of the decoder, and the keys of "
                f"'{self.attention}' are positions of the encoder: attention='decoder.attn'"
            )

    @property
    def taps(self) -> tuple[Tap | Pattern, ...]:
        return (Pattern(self.layer, self.attention),)

    def read(self, seen: Mapping[Tap | Pattern, Tensor], logits: Tensor, batch: Batch) -> Scores:
        """See `TapOutput.read`.

        Raises:
            InputError: if the layer has no such head, an example has no query with a target, or the patterns are not
                between the positions of the batch.
        """
        pattern = seen[self.taps[0]]
        if self.head >= pattern.shape[1]:
            raise InputError(f"layer {self.layer} has heads 0 to {pattern.shape[1] - 1}; got head {self.head}")
        wanted = targets(batch, self.target).to(pattern.device)
        if pattern.shape[-2:] != wanted.shape[-2:]:
            raise InputError(
                f"the pattern is between {list(pattern.shape[-2:])} positions and the inputs have {wanted.shape[-1]}: "
                "targets are those of the positions of the logits"
            )
        queries = None if batch.scored is None else batch.scored.to(pattern.device)
        has = wanted.any(-1) if queries is None else wanted.any(-1) & queries
        if not bool(has.any(1).all()):
            example = int((~has.any(1)).nonzero()[0])
            raise InputError(f"example {example} has no scored position with a target {self.target!r}")
        return mass(pattern[:, self.head], wanted, queries)
