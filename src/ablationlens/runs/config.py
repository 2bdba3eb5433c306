"""The configuration of a run, as YAML: checked as a whole before anything is loaded.

A configuration is data and never code: it is read with ``yaml.safe_load``, and every field is declared below. A short
one::

    model: domains
    data: {domain: python}
    registry: head

Where one of several things is chosen (ablation, output, method) its name stands alone, ``output: margin``, or with its
options, ``output: {logit: {token: 17}}``. The methods are those of `runs.method_configs`; `attribute` is the default.
"""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ablationlens.runs.method_configs import DEFAULT_ALPHA, AttributeConfig, MethodConfig, nearest_alpha
from ablationlens.runs.strict import Alpha, Count, Number, OneOf, Strict, Token, as_json, listed

Kind = Literal[
    "head", "head_query", "head_value", "row", "column", "row_block", "matrix", "neuron", "filter", "rank_one"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
RESERVED = frozenset({"scores"})
"""Names of files of a run that end as an attribution does."""


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
    tokens: Annotated[dict[str, Token], BeforeValidator(as_json), Field(min_length=1)] | None = None


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

    kinds: Annotated[list[Kind], BeforeValidator(listed), Field(min_length=1)]
    layers: Annotated[list[int], BeforeValidator(listed)] | None = None
    modules: Annotated[list[str], BeforeValidator(listed)] | None = None
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


class EvaluateConfig(Strict):
    """Held-out ablations; by default at the alphas of the methods, or 5%, or the nearest that the components allow."""

    alphas: Annotated[list[Alpha], BeforeValidator(listed), Field(min_length=1)] | None = None
    draws: Annotated[int, Field(ge=3)] = 300


class RunConfig(Strict):
    """Everything that decides a run."""

    model: ModelConfig
    data: DataConfig
    registry: RegistryConfig
    ablation: AblationConfig = AblationConfig(zero=ZeroConfig())
    output: OutputConfig = OutputConfig(margin=MarginConfig())
    method: Annotated[list[MethodConfig], BeforeValidator(listed), Field(min_length=1)] = Field(
        default_factory=lambda: [MethodConfig(attribute=AttributeConfig())]
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("method")
    @classmethod
    def _distinct(cls, methods: list[MethodConfig]) -> list[MethodConfig]:
        seen: set[str] = set()
        for method in methods:
            if not method.slug or method.slug in seen:
                raise ValueError(f"every method needs a name of its own, name: ...; got {method.name!r} twice")
            if method.slug in RESERVED:
                raise ValueError(f"no method can have the name {method.name!r}, which is that of a file of the run")
            seen.add(method.slug)
        return methods

    @property
    def alphas(self) -> list[float]:
        """Shares of components that held-out masks ablate."""
        if self.evaluate.alphas is not None:
            return self.evaluate.alphas
        fitted = [method.alpha or DEFAULT_ALPHA for method in self.method if method.fitted]
        return list(dict.fromkeys(fitted)) or [DEFAULT_ALPHA]

    def for_components(self, components: int) -> RunConfig:
        """The same with every share of so many components that was left open."""
        nearest = nearest_alpha(components)
        methods = [method.with_alpha(nearest) for method in self.method]
        whole = self.model_copy(update={"method": methods})
        alphas = whole.alphas if any(method.fitted for method in methods) else [nearest]
        asked = self.evaluate.alphas or alphas
        return whole.model_copy(update={"evaluate": self.evaluate.model_copy(update={"alphas": asked})})

    def to_yaml(self) -> str:
        """As a file that `config_file.parse` reads back, with every default written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
