"""The configuration of a run, as YAML: checked as a whole before anything is loaded.

A configuration is data and never code: it is read with ``yaml.safe_load``, and every field is declared below. A short
one::

    model: domains
    data: {domain: python}
    registry: head
    method: {coar: {alpha: 0.25, draws: 500}}

Where one of several things is chosen (ablation, output, method) its name stands alone, ``output: margin``, or with its
options, ``output: {logit: {token: 17}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
"""A float; YAML 1.1 reads 1e-2 as a text, which is taken as the number that it is."""
Alpha = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Token = int | str
"""Index of a token, a text that is one token, or "label"."""


Kind = Literal["head", "row", "column", "row_block", "matrix", "neuron", "filter", "rank_one"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def _listed(value: Any) -> Any:
    """One thing where several may stand."""
    return value if isinstance(value, list) else [value]


def _as_json(value: Any) -> Any:
    """Keys of a mapping as JSON writes values: YAML reads a bare true as a truth value, and 1 as a number."""
    if not isinstance(value, Mapping):
        return value
    return {key if isinstance(key, str) else json.dumps(key, default=str): item for key, item in value.items()}


class Strict(BaseModel):
    """A mapping in which every field is known, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    alone: ClassVar[str | None] = None
    """The field that may stand for the mapping, if it is the only one: ``model: domains``."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """A value as the mapping that it stands for, if it does for one."""
        return {cls.alone: value} if isinstance(value, str) and cls.alone is not None else value

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return cls.written_out(value)


class OneOf(Strict):
    """A mapping with exactly one of its fields: what is chosen, and its options."""

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """A name alone is a choice without options."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, Mapping):
            return {key: {} if options is None else options for key, options in value.items()}
        return value

    @model_validator(mode="after")
    def _one(self) -> OneOf:
        if len(self.model_fields_set) != 1:
            came = ", ".join(sorted(self.model_fields_set)) or "none"
            raise ValueError(f"choose exactly one of {', '.join(type(self).model_fields)}; got {came}")
        return self

    @property
    def choice(self) -> tuple[str, Any]:
        """Name and options of what is chosen."""
        name = next(iter(self.model_fields_set))
        return name, getattr(self, name)


# --- what is asked ----------------------------------------------------------------------------------------------------


class ModelConfig(Strict):
    """The model: a bundled one, a Hugging Face directory (path relative to the configuration), or a name on the hub.

    Attributes:
        name: which.
        host: the library that holds it; all three give the same numbers.
        device: auto is cuda where there is one, and cpu elsewhere.
        dtype: of the weights, as they are loaded.
    """

    alone = "name"

    name: str
    host: Literal["transformer_lens", "torch", "nnsight"] = "transformer_lens"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class LabelConfig(Strict):
    """What is right after each text: one token.

    Attributes:
        field: the field of a .jsonl object that holds it: a text that is one token (a leading space often matters), or
            the index of a token.
        tokens: the token for each value of that field, where it holds something else: ``{true: " yes", false: " no"}``.
    """

    alone = "field"

    field: str
    tokens: Annotated[dict[str, Token], BeforeValidator(_as_json), Field(min_length=1)] | None = None


class DataConfig(Strict):
    """Texts: those of a domain that the model `domains` was not trained on, or the lines of a file or of several.

    Attributes:
        domain: python, cpp, maths, prose or data.
        tokens: length of each text of a domain.
        file: a text file with one text a line, or a .jsonl file with one object a line; relative to the configuration.
            Several are read one after the other.
        field: the field of a .jsonl object that is the text, or a list of token ids.
        template: the text, with the names of an object's texts in braces: ``"{passage}\nQuestion: {question}?"``.
        label: what should follow each text, scored at its last token; by default a text's own tokens are scored.
        count: the first so many texts, of each file if there are several; all of a file by default.
        truncate: no more tokens of each text of a file than these, its first.
        positions: which positions are scored, as in `al.batch`; by default all that have a next token, or a label.
    """

    domain: Literal["python", "cpp", "maths", "prose", "data"] | None = None
    tokens: Annotated[int, Field(ge=8, le=128)] | None = None
    file: str | Annotated[list[str], Field(min_length=1)] | None = None
    field: str | None = None
    template: str | None = None
    label: LabelConfig | None = None
    count: Count | None = None
    truncate: Annotated[int, Field(ge=2)] | None = None
    positions: int | list[int] | None = None

    @field_validator("template")
    @classmethod
    def _names(cls, template: str | None) -> str | None:
        if template is not None:
            names_in(template)
        return template

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.domain is None) == (self.file is None):
            came = "neither" if self.domain is None else "both"
            raise ValueError(f"give either domain (with tokens) or file (with field for .jsonl); got {came}")
        if self.domain is None and self.tokens is not None:
            raise ValueError("tokens is the length of a domain's texts; for those of a file there is truncate")
        if self.domain is not None and self.truncate is not None:
            raise ValueError("truncate is for the texts of a file; the length of a domain's texts is tokens")
        self._check_lines()
        if self.label is not None and self.truncate is not None:
            raise ValueError(
                "truncate would take the end of a text, which is where its label is scored: leave one of them out, and "
                "shorten the texts in the file"
            )
        return self

    def _check_lines(self) -> None:
        """Objects need a field or a template; other texts have neither, and no label."""
        objects = {file.endswith(".jsonl") for file in self.files}
        if len(objects) == 2:
            raise ValueError("file: give .jsonl files only, or text files only")
        if objects == {True} and (self.field is None) == (self.template is None):
            came = "neither" if self.field is None else "both"
            raise ValueError(f"field names the text in a .jsonl file, or template makes it; got {came}")
        if objects != {True}:
            for name in ("field", "template", "label"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for the objects of a .jsonl file; the file is {self.file!r}")

    @property
    def files(self) -> list[str]:
        """The files, in order."""
        return [self.file] if isinstance(self.file, str) else self.file or []


def names_in(template: str) -> list[str]:
    """The names between the braces of a template.

    Raises:
        ValueError: if there are none, or anything else is between braces.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"names stand in braces, as {{question}}, and a brace itself is {{{{ or }}}}: {error}"
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names or any(name == "" or options or convert for _, name, options, convert in parts):
        raise ValueError("between the braces of a template stand names of texts alone, as in '{passage} {question}'")
    return names


class RegistryConfig(Strict):
    """Components, as in `adapter.registry`."""

    alone = "kinds"

    kinds: Annotated[list[Kind], BeforeValidator(_listed), Field(min_length=1)]
    layers: Annotated[list[int], BeforeValidator(_listed)] | None = None
    modules: Annotated[list[str], BeforeValidator(_listed)] | None = None
    size: Count | None = None
    svd: Count | None = None
    allow_overlap: bool = False


class ZeroConfig(Strict):
    """Zero ablation."""

    include_bias: bool = False


class ScaleConfig(Strict):
    """Ablated parts are scaled by gamma."""

    gamma: Annotated[Number, Field(ge=0, le=1)]


class MeanConfig(Strict):
    """The mean over `data`, by default the data of the run."""

    data: DataConfig | None = None
    per_position: bool = False


class ResampleConfig(Strict):
    """Activations of another example of `data`, by default the data of the run."""

    data: DataConfig | None = None


class NoiseConfig(Strict):
    """Gaussian noise."""

    sigma: Annotated[Number, Field(ge=0)]
    relative: bool = False


class AblationConfig(OneOf):
    """What stands in for an ablated part."""

    zero: ZeroConfig | None = None
    scale: ScaleConfig | None = None
    mean: MeanConfig | None = None
    resample: ResampleConfig | None = None
    noise: NoiseConfig | None = None


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


class OutputConfig(OneOf):
    """What is measured."""

    margin: MarginConfig | None = None
    logit: LogitConfig | None = None
    logit_difference: LogitDifferenceConfig | None = None
    cross_entropy: NoOptions | None = None
    kl: KLConfig | None = None


class CoarConfig(Strict):
    """COAR; `name` tells several apart."""

    alpha: Alpha
    draws: Count
    design: Literal["bernoulli", "subset", "balanced"] = "bernoulli"
    solver: Literal["ridge", "least_squares", "lasso"] = "ridge"
    name: str = "COAR"


class LeaveOneOutConfig(Strict):
    """Leave-one-out."""

    name: str = "leave-one-out"


class MethodConfig(OneOf):
    """How components are attributed."""

    coar: CoarConfig | None = None
    leave_one_out: LeaveOneOutConfig | None = None

    @property
    def name(self) -> str:
        """As tables and figures call it."""
        return self.choice[1].name

    @property
    def slug(self) -> str:
        """As files call it."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_.")


class EvaluateConfig(Strict):
    """Held-out ablations; by default at the alphas that COAR was fitted on, or 5%."""

    alphas: Annotated[list[Alpha], BeforeValidator(_listed), Field(min_length=1)] | None = None
    draws: Annotated[int, Field(ge=3)] = 300


class RunConfig(Strict):
    """Everything that decides a run."""

    model: ModelConfig
    data: DataConfig
    registry: RegistryConfig
    ablation: AblationConfig = AblationConfig(zero=ZeroConfig())
    output: OutputConfig = OutputConfig(margin=MarginConfig())
    method: Annotated[list[MethodConfig], BeforeValidator(_listed), Field(min_length=1)]
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("method")
    @classmethod
    def _distinct(cls, methods: list[MethodConfig]) -> list[MethodConfig]:
        seen: dict[str, str] = {}
        for method in methods:
            if not method.slug or method.slug in seen:
                raise ValueError(f"every method needs a name of its own, name: ...; got {method.name!r} twice")
            seen[method.slug] = method.name
        return methods

    @property
    def alphas(self) -> list[float]:
        """Shares of components that held-out masks ablate."""
        if self.evaluate.alphas is not None:
            return self.evaluate.alphas
        fitted = [method.coar.alpha for method in self.method if method.coar is not None]
        return list(dict.fromkeys(fitted)) or [0.05]

    def to_yaml(self) -> str:
        """As a file that `config_file.parse` reads back, with every default written out."""
        content = self.model_dump(exclude_none=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
