"""What the diagnostics of a configuration will do: found to be impossible, or counted, before anything runs."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ablationlens.ablations import Ablation
from ablationlens.attribution import coar, path_gradient
from ablationlens.attribution.coar import kept_outputs
from ablationlens.data import Batch
from ablationlens.diagnostics.domain_data import check_data, draws_for
from ablationlens.diagnostics.given_masks import given_masks
from ablationlens.diagnostics.parts import By, parts_of
from ablationlens.diagnostics.pattern_change import watched_patterns
from ablationlens.errors import AblationLensError, ConfigError, InputError
from ablationlens.evaluate.faithfulness import counts_of
from ablationlens.evaluate.studies.cost import usable
from ablationlens.evaluate.studies.fitting import Fitting, Method
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.outputs import Logit, Output
from ablationlens.runs import diagnostic_configs as configs
from ablationlens.runs import methods
from ablationlens.runs.diagnostic_configs import DiagnosticConfig, Part
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.solvers import check_draws

METHODS: Mapping[str, Method] = {"path_gradient": path_gradient, "coar": coar}
"""What attributes in a study."""
FIT_ALPHAS = (0.02, 0.05, 0.1)
"""Of `al.studies.fit_alpha`, by default."""
EFFECT_ALPHAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of `al.studies.model_effect`, by default."""


@dataclass(frozen=True)
class Subject:
    """What a diagnostic is asked of.

    Attributes:
        model: the masked model of the run.
        data: the examples of the run.
        sets: its own data sets by name, where it has some.
        ablations: its own ablations by name, where it has some.
        outputs: its own outputs by name, where it has some.
        methods: of the run.
        alphas: of the run's evaluation.
        seed: of the run.
    """

    model: MaskedModel
    data: Batch
    sets: Mapping[str, Batch]
    ablations: Mapping[str, Ablation] | None
    outputs: Mapping[str, Output] | None
    methods: tuple[MethodConfig, ...]
    alphas: tuple[float, ...]
    seed: int

    @property
    def components(self) -> int:
        return len(self.model.registry)

    @property
    def again(self) -> tuple[MethodConfig, ...]:
        """Methods with random masks, which a second seed says more about."""
        return tuple(method for method in self.methods if method.fitted)


@dataclass(frozen=True)
class Fits:
    """Attributions of a study: by which method, of how many components, with how many draws, of how many examples."""

    method: str
    alpha: float
    draws: int
    examples: int


@dataclass(frozen=True)
class Tests:
    """Random masks: at which shares, how many at each, for how many examples."""

    alphas: tuple[float, ...]
    draws: int
    examples: int


@dataclass(frozen=True)
class Plan:
    """All that a diagnostic runs; `rows` are forward rows of neither, a gradient counted as three."""

    fits: tuple[Fits, ...] = ()
    tests: tuple[Tests, ...] = ()
    rows: int = 0


def by_of(by: list[Part] | None) -> By:
    """What parts are made by, as `al.ablation_table` takes it."""
    return "component" if by is None else by[0] if len(by) == 1 else list(by)


def rows(one: DiagnosticConfig, subject: Subject) -> int:
    """Forward rows of a diagnostic at most, a gradient counted as three."""
    plan = _plan(one, subject)
    fits = sum(_fitting(fit).rows_of(subject.components, fit.examples, 1) or 0 for fit in plan.fits)
    return plan.rows + fits + sum(len(test.alphas) * test.draws * test.examples for test in plan.tests)


def check(one: DiagnosticConfig, subject: Subject, field: str) -> None:
    """Find what would stop a diagnostic before anything runs; a few forward passes of its data.

    Args:
        one: with its alpha.
        subject: what it is asked of.
        field: its place in the configuration, for messages.

    Raises:
        ConfigError: naming the place.
    """
    with named(field):
        _check(one, subject)
        plan = _plan(one, subject)
        for fit in plan.fits:
            random_design("bernoulli", subject.components, fit.alpha, fit.draws, subject.seed)
            if fit.method == "coar":
                check_draws("ridge", fit.draws, subject.components)
        for test in plan.tests:
            for alpha in test.alphas:
                random_design("bernoulli", subject.components, alpha, test.draws, subject.seed)


@contextmanager
def named(field: str) -> Generator[None]:
    """Put the place in the configuration before what is wrong with it."""
    try:
        yield
    except AblationLensError as error:
        raise ConfigError(f"{field}: {error}") from error


def _fitting(fit: Fits) -> Fitting:
    return Fitting(METHODS[fit.method], fit.draws, 0, None, None)


def _check(one: DiagnosticConfig, subject: Subject) -> None:
    """What is no matter of masks."""
    model, data = subject.model, subject.data
    if "head" in (getattr(one.options, "by", None) or ()) and set(model.registry.frame()["kind"]) != {"head"}:
        raise InputError("by: head is for a registry of heads alone, registry: head; by: component is for any")
    for batch in subject.sets.values():
        kept_outputs(model, batch)
    for ablation in (subject.ablations or {}).values():
        kept_outputs(model.having(ablation=ablation), data)
    for output in (subject.outputs or {}).values():
        kept_outputs(model.having(output=output), data)
    match one.options:
        case configs.DriftConfig(without=dict(without)):
            given_masks(model, data, without)
        case configs.DriftConfig(top=int(top)) if top > subject.components:
            raise InputError(f"top is {top}, and there are {subject.components} components")
        case configs.AblationTableConfig(patterns=patterns, attention=attention):
            watched_patterns(model.adapter, patterns, attention)
        case configs.DomainsConfig():
            check_data(model, subject.sets, fewest=2, examples=1)
        case configs.StabilityConfig():
            check_data(model, subject.sets or {"data": data}, fewest=1, examples=4)
        case configs.CompareConfig(top=list(top)) if max(top) > subject.components:
            raise InputError(f"top is {max(top)}, and there are {subject.components} components")
        case configs.FaithfulnessConfig(counts=counts):
            _inner(counts, subject.components)
        case configs.OutputFunctionConfig(outputs=None):
            kept_outputs(model.having(output=Logit("label")), data)
        case _:
            pass


def _inner(counts: list[int] | None, components: int) -> tuple[int, ...]:
    """Counts between none and all."""
    if counts is None:
        return counts_of(components)
    inner = tuple(count for count in sorted(set(counts)) if 0 < count < components)
    if not inner or max(counts) > components:
        raise InputError(f"counts are from 0 to {components}, at least one of them between; got {counts}")
    return inner


def _plan(one: DiagnosticConfig, subject: Subject) -> Plan:
    """What a diagnostic runs.

    Raises:
        InputError: if its parts cannot be made.
    """
    components, examples = subject.components, len(subject.data)
    of_sets = sum(map(len, subject.sets.values()))
    again = sum((methods.passes(method, components) or 0) * examples for method in subject.again)
    match one.options:
        case configs.DriftConfig(alpha=float(alpha), draws=int(draws)):
            return Plan(tests=(Tests((alpha,), draws, examples),), rows=examples)
        case configs.DriftConfig(top=top, without=without, by=by):
            masks = top or (len(without) if without else parts_of(subject.model.registry, by_of(by)).draws)
            return Plan(rows=(masks + 1) * examples)
        case configs.AblationTableConfig(by=by):
            return Plan(rows=(parts_of(subject.model.registry, by_of(by)).draws + 1) * examples)
        case configs.DomainsConfig(method=method, alpha=float(alpha), draws=draws, held_out=held_out):
            size = draws_for(METHODS[method], components, draws)
            tests = (Tests((alpha,), held_out, of_sets),) if held_out else ()
            return Plan((Fits(method, alpha, size, of_sets),), tests)
        case configs.StabilityConfig(method=method, alpha=float(alpha), draws=draws, times=times, seeds=seeds):
            size, each = draws_for(METHODS[method], components, draws), of_sets or examples
            return Plan(tuple(Fits(method, alpha, factor * size, each * seeds) for factor in times))
        case configs.CeilingConfig(alphas=alphas, draws=draws):
            return Plan(tests=(Tests(tuple(alphas or subject.alphas), draws, examples),), rows=again)
        case configs.CompareConfig(ceiling=with_ceiling):
            return Plan(rows=again if with_ceiling else 0)
        case configs.CompletenessConfig():
            return Plan(rows=2 * examples)
        case configs.FaithfulnessConfig(counts=counts, random_orders=orders):
            directions = 2 * len(_inner(counts, components))
            return Plan(rows=((len(subject.methods) + orders) * directions + 2) * examples)
        case configs.FitAlphaConfig(fit_alphas=fitted, alphas=alphas, method=method, fit_draws=size, draws=draws):
            fitted = fitted or list(usable(FIT_ALPHAS, components))
            fits = tuple(Fits(method, alpha, size, examples) for alpha in fitted)
            return Plan(fits, (Tests(tuple(alphas or fitted), draws, examples),))
        case configs.SampleSizeConfig(method=method, alpha=float(alpha), fit_draws=sizes, draws=draws):
            fits = tuple(Fits(method, alpha, size, examples) for size in [*sizes, max(sizes)])
            return Plan(fits, (Tests((alpha,), draws, examples),))
        case configs.ModelEffectConfig(alphas=alphas, draws=draws):
            labels = subject.data.labels
            measures = 1 if labels is None or labels.is_floating_point() else 2
            found = tuple(alphas or usable(EFFECT_ALPHAS, components))
            return Plan(tests=(Tests(found, draws, measures * examples),), rows=measures * examples)
        case configs.AblationMethodConfig(
            method=method, alpha=float(alpha), fit_draws=size, draws=draws, ablations=own
        ):
            return _each(len(own or "01"), Fits(method, alpha, size, examples), draws)
        case configs.OutputFunctionConfig(method=method, alpha=float(alpha), fit_draws=size, draws=draws, outputs=own):
            return _each(len(own or "012"), Fits(method, alpha, size, examples), draws)
        case configs.OutOfDistributionConfig(method=method, alpha=float(alpha), fit_draws=size, draws=draws):
            return Plan((Fits(method, alpha, size, of_sets),), (Tests((alpha,), draws, of_sets),))
        case other:
            raise AssertionError(f"no diagnostic is run for {other!r}")


def _each(count: int, fit: Fits, draws: int) -> Plan:
    """So many fits, each tested."""
    return Plan((fit,) * count, (Tests((fit.alpha,), draws, fit.examples),) * count)
