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

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ablationlens.zoo.loader import NAMES

Number = Annotated[float, Field(strict=False, allow_inf_nan=False)]
"""A float; YAML 1.1 reads 1e-2 as a text, which is taken as the number that it is."""
Alpha = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
PATH_SIGNS = (".", "/", "~")
"""How the name of a model begins that can only be a directory."""
Token = int | str
"""Index of a token, a text that is one token, or "label"."""


Kind = Literal["head", "row", "column", "row_block", "matrix", "neuron", "filter", "rank_one"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def _listed(value: Any) -> Any:
    """One thing where several may stand."""
    return value if isinstance(value, list) else [value]


def _under(key: str) -> BeforeValidator:
    """A text that stands for the mapping in which it is the only field."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class Strict(BaseModel):
    """A mapping in which every field is known, and no value is converted to another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OneOf(Strict):
    """A mapping with exactly one of its fields: what is chosen, and its options."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
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
    """The model: a bundled one, a Hugging Face directory (path relative to the configuration), or a name on the hub."""

    name: str
    host: Literal["transformer_lens", "torch"] = "transformer_lens"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class DataConfig(Strict):
    """Texts: those of a domain that the model `domains` was not trained on, or the lines of a file.

    Attributes:
        domain: python, cpp, maths, prose or data.
        tokens: length of each text of a domain.
        file: a text file with one text a line, or a .jsonl file with one object a line; relative to the configuration.
        field: which field of a .jsonl object is the text.
        count: the first so many texts; all of a file by default.
        positions: which positions are scored, as in `al.batch`; all that have a next token by default.
    """

    domain: Literal["python", "cpp", "maths", "prose", "data"] | None = None
    tokens: Annotated[int, Field(ge=8, le=128)] | None = None
    file: str | None = None
    field: str | None = None
    count: Count | None = None
    positions: int | list[int] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.domain is None) == (self.file is None):
            came = "neither" if self.domain is None else "both"
            raise ValueError(f"give either domain (with tokens) or file (with field for .jsonl); got {came}")
        if self.domain is None and self.tokens is not None:
            raise ValueError("tokens is the length of a domain's texts; the texts of a file have their own")
        lines = self.file is not None and self.file.endswith(".jsonl")
        if lines != (self.field is not None):
            raise ValueError(f"field names the text in a .jsonl file; got field {self.field!r} with file {self.file!r}")
        return self


class RegistryConfig(Strict):
    """Components, as in `adapter.registry`."""

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

    margin: NoOptions | None = None
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

    model: Annotated[ModelConfig, _under("name")]
    data: DataConfig
    registry: Annotated[RegistryConfig, _under("kinds")]
    ablation: AblationConfig = AblationConfig(zero=ZeroConfig())
    output: OutputConfig = OutputConfig(margin=NoOptions())
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

    def relative_to(self, folder: Path) -> RunConfig:
        """The same with absolute paths, where they were relative to `folder`: what is written beside the results."""
        content = self.model_dump(exclude_unset=True)
        name = self.model.name
        if name not in NAMES and (name.startswith(PATH_SIGNS) or (folder / name).is_dir()):
            content["model"]["name"] = str((folder / Path(name).expanduser()).resolve())
        ablation = next(iter(content.get("ablation", {"": {}}).values()))
        for data in (content["data"], ablation.get("data")):
            if data and data.get("file"):
                data["file"] = str((folder / data["file"]).resolve())
        return RunConfig.model_validate(content)

    def to_yaml(self) -> str:
        """As a file that `config_file.parse` reads back, with every default written out."""
        content = self.model_dump(exclude_none=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
