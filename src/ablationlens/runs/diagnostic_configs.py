"""What a configuration can say of the diagnostics: which, and with what options.

Each is the function of its name, `al.drift` or `al.studies.sample_size`, with the options that a file can hold, and has
a `name` for tables and files, so that one can be asked for several times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from ablationlens.runs.ablation_configs import AblationConfig
from ablationlens.runs.data_config import DataConfig
from ablationlens.runs.output_configs import OutputConfig
from ablationlens.runs.strict import Alpha, Count, Index, OneOf, Strict, called, listed

Part = Literal["component", "head", "layer", "module", "kind", "index"]
Fit = Literal["path_gradient", "coar"]
"""What attributes in a study: `al.path_gradient` or `al.coar`, with their defaults."""
Draws = Annotated[int, Field(ge=3)]
Alphas = Annotated[list[Alpha], BeforeValidator(listed), Field(min_length=1)]
Sets = dict[str, DataConfig]
TWO_SETS = "data: {python: {domain: python}, prose: {domain: prose}}"
"""What to type where several data sets are needed."""


class DiagnosticOptions(Strict):
    """What all of them have.

    Attributes:
        name: as tables and files call it; by default that of the diagnostic.
    """

    seeded: ClassVar[bool] = False
    """Whether the seed of the run decides something."""
    of_attributions: ClassVar[bool] = False
    """Whether it is about the attributions of the run."""

    name: str | None = None


def alone(by: list[Part]) -> list[Part]:
    """What parts are made by, if it makes parts.

    Raises:
        ValueError: if not.
    """
    if not by:
        raise ValueError("say what the components of a part share: by: layer, or [layer, module]; got []")
    if len(set(by)) < len(by) or (len(by) > 1 and {"component", "head"} & set(by)):
        raise ValueError(f"component and head stand alone, and columns together once each, [layer, module]; got {by}")
    return by


By = Annotated[list[Part], BeforeValidator(listed), AfterValidator(alone)]
"""What the components of a part share: component, each is one; head, the same for a registry of heads; layer, module,
kind or index, or several of these: [layer, module]."""


class DriftConfig(DiagnosticOptions):
    """How predictions change: `al.drift`, under masks that are chosen in one of four ways.

    Attributes:
        by: each part of the model is ablated alone; by default each component.
        top: so many components, each alone: those with the largest mean weights, in absolute value, by the first method
            of the run.
        without: components that are ablated together, by names of your own: {copying: [L0.head 2, L0.head 3]}.
        alpha: random masks that ablate each component with this probability.
        draws: how many of these.
    """

    by: By | None = None
    top: Count | None = None
    without: Annotated[dict[str, Annotated[list[str], BeforeValidator(listed)]], Field(min_length=1)] | None = None
    alpha: Alpha | None = None
    draws: Count | None = None

    @field_validator("without")
    @classmethod
    def _named(cls, without: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
        for name, components in (without or {}).items():
            if not name.strip() or not components:
                missing = "no components" if name.strip() else "no name"
                raise ValueError(f"give a name and components, as in {{copying: [L0.head 2]}}; {name!r} has {missing}")
        return without

    @model_validator(mode="after")
    def _one_choice(self) -> DriftConfig:
        given = [name for name in ("by", "top", "without", "alpha") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"choose the masks by one of by, top, without, or alpha with draws; got {', '.join(given)}"
            )
        if (self.alpha is None) != (self.draws is None):
            raise ValueError("random masks need both, a share and their number: {alpha: 0.05, draws: 50}")
        return self


class AblationTableConfig(DiagnosticOptions):
    """What is lost without each part: `al.ablation_table`.

    Attributes:
        by: what the parts are made by.
        patterns: whether to read attention patterns; by default where the model shows them.
        attention: which attention of a layer, in a model that has several: decoder.cross.
        scored_only: average drift over the scored positions alone.
    """

    by: By = Field(default_factory=lambda: ["component"])
    patterns: bool | None = None
    attention: str | None = None
    scored_only: bool = False


class FitOptions(DiagnosticOptions):
    """A study that attributes.

    Attributes:
        alpha: ablated share of the fits; by default 5%, or the nearest that the components allow.
        method: what attributes.
    """

    seeded: ClassVar[bool] = True

    alpha: Alpha | None = None
    method: Fit = "path_gradient"


class DomainsConfig(FitOptions):
    """Whether kinds of data use the same parts: `al.domains`.

    Attributes:
        data: name of a domain -> its texts; at least two.
        draws: of each fit; by default 500, or 4 for each component with coar.
        held_out: masks on which the attributions are tested, at least 3; 0 for no test.
    """

    data: Sets
    draws: Count | None = None
    held_out: Annotated[int, Field(ge=0)] = 200

    @field_validator("data")
    @classmethod
    def _several(cls, data: Sets) -> Sets:
        return at_least(2, data)

    @field_validator("held_out")
    @classmethod
    def _enough(cls, held_out: int) -> int:
        if held_out in (1, 2):
            raise ValueError(f"a correlation needs at least 3 masks, better hundreds, or 0 for no test; got {held_out}")
        return held_out


class StabilityConfig(FitOptions):
    """Whether a mean attribution would come back with other examples, or other masks: `al.stability`.

    Attributes:
        data: name -> texts, each looked at by itself, at least 4 of each; by default those of the run.
        draws: of a fit; by default 500, or 4 for each component with coar.
        times: multiples of draws to look at.
        seeds: how many.
        kind: agreement as correlation, or as cosine.
    """

    data: Sets | None = None
    draws: Draws | None = None
    times: Annotated[list[Count], BeforeValidator(listed), Field(min_length=1)] = Field(default_factory=lambda: [1, 4])
    seeds: Annotated[int, Field(ge=2)] = 2
    kind: Literal["pearson", "cosine"] = "pearson"

    @field_validator("data")
    @classmethod
    def _some(cls, data: Sets | None) -> Sets | None:
        return None if data is None else at_least(1, data)

    @field_validator("times")
    @classmethod
    def _different(cls, times: list[int]) -> list[int]:
        if len(set(times)) < len(times):
            raise ValueError(f"should be different multiples of draws, as in [1, 4]; got {times}")
        return times


class CeilingConfig(DiagnosticOptions):
    """What the methods would reach with draws without end: `al.ceiling`. They run again with the next seed.

    Attributes:
        alphas: shares of components to ablate; by default those of the run.
        draws: held-out masks for each.
    """

    seeded: ClassVar[bool] = True
    of_attributions: ClassVar[bool] = True

    alphas: Alphas | None = None
    draws: Draws = 500


class CompareConfig(DiagnosticOptions):
    """Whether the methods agree: `al.compare`.

    Attributes:
        top: sizes of the top whose overlap is told; by default 10 and 100, where there are as many components.
        ceiling: whether the methods with random masks run again with the next seed, to be compared with themselves.
    """

    of_attributions: ClassVar[bool] = True

    top: Annotated[list[Count], BeforeValidator(listed), Field(min_length=1)] | None = None
    ceiling: bool = False


class CompletenessConfig(DiagnosticOptions):
    """Whether the weights add up: `al.completeness`."""

    of_attributions: ClassVar[bool] = True


class FaithfulnessConfig(DiagnosticOptions):
    """Whether the most important components carry the output: `al.faithfulness`.

    Attributes:
        counts: how many components are kept or ablated.
        order: the most positive first, or the largest.
        ranking: by the mean weights, or by those of each example.
        random_orders: rankings by chance.
    """

    seeded: ClassVar[bool] = True
    of_attributions: ClassVar[bool] = True

    counts: Annotated[list[Index], BeforeValidator(listed), Field(min_length=1)] | None = None
    order: Literal["signed", "absolute"] = "signed"
    ranking: Literal["mean", "example"] = "mean"
    random_orders: Count = 20


class FitAlphaConfig(DiagnosticOptions):
    """Whether the alpha of the fit matters: `al.studies.fit_alpha`."""

    seeded: ClassVar[bool] = True

    fit_alphas: Alphas | None = None
    alphas: Alphas | None = None
    method: Fit = "path_gradient"
    fit_draws: Count = 500
    draws: Draws = 300


class SampleSizeConfig(FitOptions):
    """How many draws are enough: `al.studies.sample_size`."""

    fit_draws: Annotated[list[Count], BeforeValidator(listed), Field(min_length=1)] = Field(
        default_factory=lambda: [25, 50, 100, 200, 500]
    )
    draws: Draws = 300


class ModelEffectConfig(DiagnosticOptions):
    """What random ablations do to the model itself: `al.studies.model_effect`."""

    seeded: ClassVar[bool] = True

    alphas: Alphas | None = None
    draws: Draws = 100


class AblationMethodConfig(FitOptions):
    """Whether it matters what stands in for a component: `al.studies.ablation_method`.

    Attributes:
        ablations: by names of your own: {zero: zero, half: {scale: {gamma: 0.5}}}, which is the default.
        fit_draws: of each fit.
        draws: held-out masks.
    """

    ablations: Annotated[dict[str, AblationConfig], Field(min_length=1)] | None = None
    fit_draws: Count = 500
    draws: Draws = 300


class OutputFunctionConfig(FitOptions):
    """Whether it matters what is measured: `al.studies.output_function`.

    Attributes:
        outputs: by names of your own, {margin: margin, loss: cross_entropy}; by default margin, logit of the label and
            cross-entropy.
        fit_draws: of each fit.
        draws: held-out masks.
    """

    outputs: Annotated[dict[str, OutputConfig], Field(min_length=1)] | None = None
    fit_draws: Count = 500
    draws: Draws = 300


class OutOfDistributionConfig(FitOptions):
    """Whether it works on other examples: `al.studies.out_of_distribution`.

    Attributes:
        data: name -> texts; the first is what the others are held against.
        fit_draws: of each fit.
        draws: held-out masks.
    """

    data: Sets
    fit_draws: Count = 500
    draws: Draws = 300

    @field_validator("data")
    @classmethod
    def _several(cls, data: Sets) -> Sets:
        return at_least(2, data)


def _only_in_python(call: str) -> str:
    return f"it is an array for you to look at, of which a run keeps none; in Python: {call}"


class DiagnosticConfig(OneOf):
    """What else is asked of the model."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "attention_patterns": _only_in_python("al.attention_patterns(model, data, mask)")
        + ". What each part changes about them is in ablation_table",
        "attention_summary": _only_in_python("al.attention_summary(patterns, data)"),
    }

    drift: DriftConfig | None = None
    ablation_table: AblationTableConfig | None = None
    domains: DomainsConfig | None = None
    stability: StabilityConfig | None = None
    ceiling: CeilingConfig | None = None
    compare: CompareConfig | None = None
    completeness: CompletenessConfig | None = None
    faithfulness: FaithfulnessConfig | None = None
    fit_alpha: FitAlphaConfig | None = None
    sample_size: SampleSizeConfig | None = None
    model_effect: ModelEffectConfig | None = None
    ablation_method: AblationMethodConfig | None = None
    output_function: OutputFunctionConfig | None = None
    out_of_distribution: OutOfDistributionConfig | None = None

    @property
    def options(self) -> DiagnosticOptions:
        """Of the one that is chosen."""
        return self.choice[1]

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.options.name or self.choice[0].replace("_", " ")

    @property
    def slug(self) -> str:
        """Its name as files have it."""
        return called(self.name)

    @property
    def file(self) -> str:
        """As files call it: which diagnostic it is, and its name where it has another."""
        kind = self.choice[0]
        return kind if self.slug == kind else f"{kind}.{self.slug}"

    @property
    def sets(self) -> Sets:
        """Its own data sets, if it has any."""
        return getattr(self.options, "data", None) or {}

    @property
    def runs_again(self) -> bool:
        """Whether it needs the attributions of a second seed."""
        return self.ceiling is not None or (self.compare is not None and self.compare.ceiling)

    def with_alpha(self, alpha: float) -> DiagnosticConfig:
        """The same with this share of ablated components, where it was left open."""
        name, options = self.choice
        if not isinstance(options, FitOptions) or options.alpha is not None:
            return self
        return self.model_copy(update={name: options.model_copy(update={"alpha": alpha})})

    def asked(self) -> dict[str, Any]:
        """Its options, JSON-able, without its name and what is told by its content: data and ablations."""
        name, options = self.choice
        return {"diagnostic": name, "options": options.model_dump(exclude={"name", "data", "ablations"})}


def at_least(fewest: int, data: Sets) -> Sets:
    """Data sets by name, if they are so many.

    Raises:
        ValueError: if not.
    """
    if len(data) < fewest:
        came = ", ".join(data) or "none"
        raise ValueError(f"should be texts by name, at least {fewest}, as in {TWO_SETS}; got {came}")
    return data
