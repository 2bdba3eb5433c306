"""A run in a directory: what a configuration asks for, done so that a run that was stopped can go on.

config.yaml                           the configuration, paths absolute and defaults written out
stores/<method>/                      outputs under masks, block by block (see counterfactuals/store.py), of methods
                                      with many passes
<method>.safetensors                  the attribution, which is not computed again (see finished.py)
scores.safetensors                    how well it predicts held-out ablations
diagnostics/<diagnostic>.safetensors  what else was asked, which is not computed again; <diagnostic>.<name> where the
                                      configuration has a name for it
again/                                attributions of the next seed, with stores of their own, where a diagnostic needs
                                      them
report.html                           all of it, to read
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ablationlens.adapters.base import Adapter
from ablationlens.adapters.dispatch import adapt
from ablationlens.attribution.coar import kept_outputs
from ablationlens.counterfactuals.store import write_atomically
from ablationlens.data import Batch
from ablationlens.errors import ConfigError, StoreError
from ablationlens.evaluate import Scores, evaluate
from ablationlens.masked_model import MaskedModel
from ablationlens.masks.designs import random_design
from ablationlens.report import report
from ablationlens.results import Attribution
from ablationlens.runs import config_file, diagnostic_plans, diagnostics, methods
from ablationlens.runs.building import ablation_of, output_of
from ablationlens.runs.config import RunConfig
from ablationlens.runs.diagnostic_configs import DiagnosticConfig
from ablationlens.runs.diagnostic_plans import Subject
from ablationlens.runs.finished import Finding, identity_of, load_finished, marked, unmarked, with_provenance
from ablationlens.runs.loading import Opened, open_model
from ablationlens.runs.method_configs import MethodConfig
from ablationlens.runs.texts import open_data

CONFIG = "config.yaml"
STORES = "stores"
SCORES = "scores.safetensors"
REPORT = "report.html"
DIAGNOSTICS = "diagnostics"
AGAIN = "again"


@dataclass(frozen=True)
class Prepared:
    """What a configuration stands for, ready to run.

    Attributes:
        config: the configuration with every alpha that it left open.
        model: the masked model.
        data: the examples.
        subjects: name of each diagnostic -> what it is asked of.
    """

    config: RunConfig
    model: MaskedModel
    data: Batch
    subjects: Mapping[str, Subject] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """What a run found."""

    attributions: Mapping[str, Attribution]
    scores: Scores
    diagnostics: Mapping[str, Finding] = field(default_factory=dict)


def prepare(config: RunConfig, opened: Opened | None = None, adapter: Adapter | None = None) -> Prepared:
    """Load the model and the data.

    Args:
        config: what to prepare.
        opened: the model, if it is loaded already.
        adapter: its adapter, if it is adapted already.

    Raises:
        ConfigError: if the model or the data cannot be read.
        InputError: if the model has no such components, or the data does not fit it.
    """
    opened = open_model(config.model) if opened is None else opened
    adapter = adapt(opened.model) if adapter is None else adapter
    asked = config.registry
    registry = adapter.registry(
        list(asked.kinds),
        layers=asked.layers,
        modules=asked.modules,
        size=asked.size,
        svd=asked.svd,
        allow_overlap=asked.allow_overlap,
    )
    data = open_data(config.data, opened)
    ablation = ablation_of(config.ablation, data, opened, config.seed)
    model = MaskedModel(adapter, registry, ablation, output_of(config.output, adapter))
    whole = config.for_components(len(registry))
    subjects = {one.name: _subject(whole, one, place, opened, model, data) for place, one in whole.diagnostics.items()}
    prepared = Prepared(whole, model, data, subjects)
    _check(prepared)
    return prepared


def _subject(
    config: RunConfig, one: DiagnosticConfig, place: str, opened: Opened, model: MaskedModel, data: Batch
) -> Subject:
    """What a diagnostic is asked of: the run, and data, ablations and outputs of its own."""
    ablations, outputs = (getattr(one.options, name, None) for name in ("ablations", "outputs"))
    return Subject(
        model=model,
        data=data,
        sets={name: open_data(own, opened, f"{place}.data.{name}") for name, own in one.sets.items()},
        ablations=ablations
        and {
            name: ablation_of(own, data, opened, config.seed, f"{place}.ablations.{name}")
            for name, own in ablations.items()
        },
        outputs=outputs
        and {name: output_of(own, model.adapter, f"{place}.outputs.{name}") for name, own in outputs.items()},
        methods=tuple(config.method),
        alphas=tuple(config.alphas),
        seed=config.seed,
    )


def _check(prepared: Prepared) -> None:
    """Find now what would stop the run later: an output that does not fit the data, masks that cannot be drawn."""
    config, model, data = prepared.config, prepared.model, prepared.data
    kept_outputs(model, data)
    components = len(model.registry)
    for method in config.method:
        methods.check(method, components, config.seed)
    for alpha in config.alphas:
        random_design("bernoulli", components, alpha, config.evaluate.draws, config.seed)
    for place, one in config.diagnostics.items():
        diagnostic_plans.check(one, prepared.subjects[one.name], place)


def execute(prepared: Prepared, folder: Path) -> Results:
    """Attribute, evaluate and diagnose; what `folder` holds already is not computed again.

    Raises:
        StoreError: if a result or a store belongs to another run, is damaged, or cannot be written.
        InputError: if a method or a diagnostic does not fit the components.
    """
    config = prepared.config
    folder.mkdir(parents=True, exist_ok=True)
    kept_diagnostics = {one.name: _kept(prepared, one, folder) for one in config.diagnostics.values()}
    attributions: dict[str, Attribution] = {}
    for method in config.method:
        attributions[method.name] = _attribute(prepared, method, folder, config.seed)
    scores = evaluate(
        prepared.model,
        prepared.data,
        attributions,
        alphas=config.alphas,
        draws=config.evaluate.draws,
        seed=config.seed,
    )
    scores.save(folder / SCORES)
    found: dict[str, Finding] = {}
    for place, one in config.diagnostics.items():
        known = kept_diagnostics[one.name]
        found[one.name] = _diagnose(prepared, one, place, attributions, folder) if known is None else known
    kept = config_file.load(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if kept is None or kept.for_components(len(prepared.model.registry)) != config:
        write_atomically(folder / CONFIG, config.to_yaml().encode())
    return Results(attributions, scores, found)


def attribution_path(folder: Path, method: MethodConfig) -> Path:
    """Where the attribution of a method is kept."""
    return folder / f"{method.slug}.safetensors"


def diagnostic_path(folder: Path, one: DiagnosticConfig) -> Path:
    """Where the result of a diagnostic is kept."""
    return folder / DIAGNOSTICS / f"{one.file}.safetensors"


def _attribute(prepared: Prepared, method: MethodConfig, folder: Path, seed: int) -> Attribution:
    """The attribution of one method: the one that is in the directory, or a new one, which is kept there."""
    model, data = prepared.model, prepared.data
    path, store = attribution_path(folder, method), folder / STORES / method.slug
    asked, identity = method.asked(seed), identity_of(model, data)
    refuse = not store.is_dir()
    found = load_finished(path, Attribution.load, asked, identity, called=method.name, refuse=refuse)
    if found is None:
        found = marked(methods.run_method(method, model, data, seed=seed, store=store), asked)
        found.save(path)
    return found


def _kept(prepared: Prepared, one: DiagnosticConfig, folder: Path) -> Finding | None:
    """The result of a diagnostic that is in the directory."""
    asked = diagnostics.asked(one, prepared.subjects[one.name])
    path = diagnostic_path(folder, one)
    found = load_finished(path, functools.partial(diagnostics.load, one), asked, {}, called=one.name, refuse=True)
    return None if found is None else unmarked(found)


def _diagnose(
    prepared: Prepared, one: DiagnosticConfig, place: str, attributions: Mapping[str, Attribution], folder: Path
) -> Finding:
    """A new result of a diagnostic, which is kept in the directory."""
    subject = prepared.subjects[one.name]

    def again() -> dict[str, Attribution]:
        where = folder / AGAIN
        where.mkdir(exist_ok=True)
        return {method.name: _attribute(prepared, method, where, subject.seed + 1) for method in subject.again}

    with diagnostic_plans.named(place):
        found = diagnostics.run_diagnostic(one, subject, attributions, again)
    path = diagnostic_path(folder, one)
    path.parent.mkdir(exist_ok=True)
    marked(found, diagnostics.asked(one, subject)).save(path)
    return unmarked(found)


# --- the directory ----------------------------------------------------------------------------------------------------


def begin(config: RunConfig, folder: Path, *, resume: bool, source: Path | None = None) -> None:
    """Claim a directory for a run, before anything is loaded.

    Args:
        config: what will run.
        folder: where.
        resume: whether a run that is there may go on.
        source: the file that the configuration was read from, which may lie in the directory.

    Raises:
        ConfigError: if the directory is taken.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file: give a directory")
    own = None if source is None else source.resolve()
    others = [path for path in folder.iterdir() if path.resolve() != own] if folder.is_dir() else []
    if others and not (folder / STORES).is_dir() and not (folder / CONFIG).is_file():
        raise ConfigError(f"--out {folder} is not empty and holds no run: choose another directory")
    if others and not resume:
        raise ConfigError(f"--out {folder} holds a run already: add --resume to go on with it, or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).is_file():  # one that is there is replaced only when its run could go on: see `execute`
        write_atomically(folder / CONFIG, config.to_yaml().encode())


def read(folder: Path) -> tuple[RunConfig, Results]:
    """What a run has left in its directory.

    Raises:
        ConfigError: if the directory holds no run.
        StoreError: if the run is not finished, or a file is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} holds no run: it has no {CONFIG}")
    config = config_file.load(folder / CONFIG)
    if not (folder / SCORES).is_file():
        raise StoreError(f"the run in {folder} is not finished: it has no {SCORES}; go on with it first, with --resume")
    attributions = {method.name: Attribution.load(attribution_path(folder, method)) for method in config.method}
    found: dict[str, Finding] = {}
    for one in config.diagnostics.values():
        path = diagnostic_path(folder, one)
        if not path.is_file():
            raise StoreError(
                f"the run in {folder} is not finished: it has no {DIAGNOSTICS}/{path.name}; go on with it first, with "
                "--resume"
            )
        found[one.name] = unmarked(diagnostics.load(one, path))
    return config, Results(attributions, Scores.load(folder / SCORES), found)


def write_report(path: Path, prepared: Prepared, results: Results) -> Path:
    """The page of one run, in which a diagnostic is called by its name where the configuration gave one."""
    given = {one.name: one.options.name for one in prepared.config.diagnostics.values()}
    studies = [
        found if given.get(name) is None else with_provenance(found, name=given[name])
        for name, found in results.diagnostics.items()
    ]
    return report(
        path,
        prepared.model,
        prepared.data,
        attributions=results.attributions,
        scores=results.scores,
        studies=studies or None,
    )
