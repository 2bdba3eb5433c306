"""The configuration of a run, as YAML: checked as a whole before anything is loaded.

A configuration is data and never code: it is read with ``yaml.safe_load``, and every field is declared below. A short
one::

    model: domains
    data: {domain: python}
    registry: head

Where one of several things is chosen (ablation, output, method) its name stands alone, ``output: margin``, or with its
options, ``output: {logit: {token: 17}}``. The methods are those of `runs.method_configs`; `attribute` is the default.
What is asked beside them is under ``diagnose``, one of `runs.diagnostic_configs` or a list of them; nothing by default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, field_validator

from ablationlens.runs.ablation_configs import AblationConfig, ZeroConfig
from ablationlens.runs.data_config import DataConfig
from ablationlens.runs.diagnostic_configs import DiagnosticConfig
from ablationlens.runs.method_configs import DEFAULT_ALPHA, AttributeConfig, MethodConfig, nearest_alpha
from ablationlens.runs.output_configs import MarginConfig, OutputConfig
from ablationlens.runs.strict import Alpha, Count, Strict, check_files, listed

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


class RegistryConfig(Strict):
    """Components, as in `adapter.registry`."""

    alone = "kinds"

    kinds: Annotated[list[Kind], BeforeValidator(listed), Field(min_length=1)]
    layers: Annotated[list[int], BeforeValidator(listed)] | None = None
    modules: Annotated[list[str], BeforeValidator(listed)] | None = None
    size: Count | None = None
    svd: Count | None = None
    allow_overlap: bool = False


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
    diagnose: Annotated[list[DiagnosticConfig], BeforeValidator(listed)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("method")
    @classmethod
    def _distinct(cls, methods: list[MethodConfig]) -> list[MethodConfig]:
        check_files("method", [one.name for one in methods])
        for method in methods:
            if method.slug in RESERVED:
                raise ValueError(f"no method can have the name {method.name!r}, which is that of a file of the run")
        return methods

    @field_validator("diagnose")
    @classmethod
    def _possible(cls, diagnostics: list[DiagnosticConfig] | None, info: Any) -> list[DiagnosticConfig] | None:
        if diagnostics is not None and not diagnostics:
            raise ValueError("name at least one, as in diagnose: [drift, ablation_table], or leave it out; got []")
        check_files("diagnostic", [one.name for one in diagnostics or []])
        methods: list[MethodConfig] | None = info.data.get("method")  # None where they are wrong themselves
        for one in diagnostics or []:
            if methods is None:
                break
            if one.runs_again and not any(method.fitted for method in methods):
                raise ValueError(
                    f"{one.name} runs methods with random masks again, and there is none: method: [attribute, ...]"
                )
            if one.compare is not None and not one.runs_again and len(methods) < 2:
                raise ValueError(
                    f"{one.name} needs two methods, method: [attribute, leave_one_out], or {{compare: {{ceiling: "
                    "true}}, which runs one of them again with another seed"
                )
        return diagnostics

    @property
    def diagnostics(self) -> dict[str, DiagnosticConfig]:
        """Path of the field, as messages name it -> diagnostic."""
        several = self.diagnose or []
        numbers = range(len(several))
        return {
            f"diagnose.{one.choice[0]}" if len(several) == 1 else f"diagnose.{number}.{one.choice[0]}": one
            for number, one in zip(numbers, several, strict=True)
        }

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
        diagnostics = None if self.diagnose is None else [one.with_alpha(nearest) for one in self.diagnose]
        whole = self.model_copy(update={"method": methods, "diagnose": diagnostics})
        alphas = whole.alphas if any(method.fitted for method in methods) else [nearest]
        asked = self.evaluate.alphas or alphas
        return whole.model_copy(update={"evaluate": self.evaluate.model_copy(update={"alphas": asked})})

    def to_yaml(self) -> str:
        """As a file that `config_file.parse` reads back, with every default written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
