"""What a configuration can say of the output: one number for each example."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ablationlens.outputs.targets import TargetName
from ablationlens.runs.strict import Index, OneOf, Strict, Token


class NoOptions(Strict):
    """Nothing to set."""


class MarginConfig(Strict):
    """The label's logit minus the best other; with `classes`, the best other of these tokens."""

    classes: Annotated[list[Token], Field(min_length=2)] | None = None


class LogitConfig(Strict):
    """One logit."""

    token: Token


class LogitDifferenceConfig(Strict):
    """Logit of a minus logit of b."""

    a: Token
    b: Token


class KLConfig(Strict):
    """Divergence from the unmodified model."""

    direction: Literal["clean||ablated", "ablated||clean"] = "clean||ablated"


class PatternMassConfig(Strict):
    """Mean attention of one head on a target: `al.PatternMass`.

    Attributes:
        layer: of the head, from 0.
        head: index of the query head in its layer.
        target: "previous", "first", "current", "induction" (the tokens after earlier occurrences of the query's token),
            or a position of each text, negative from its end.
        attention: which attention of the layer, in a model that has several: decoder.attn.
    """

    layer: Index
    head: Index
    target: TargetName | int = "induction"
    attention: str | None = None


class OutputConfig(OneOf):
    """What is measured."""

    margin: MarginConfig | None = None
    logit: LogitConfig | None = None
    logit_difference: LogitDifferenceConfig | None = None
    cross_entropy: NoOptions | None = None
    kl: KLConfig | None = None
    pattern_mass: PatternMassConfig | None = None
